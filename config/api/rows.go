package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rows are what a table of workloads shows, as text: a line for each, columns with
// tabs between them, the first line naming them. A hundred thousand of them are
// written and read in a tenth of the time of their JSON.
const (
	// LinesType is a workload in JSON a line, the page behind in RowsNext.
	LinesType = "application/x-ndjson"

	RowsType = "text/tab-separated-values" // to be accepted by who asks for workloads
	RowsNext = "Natless-Next"              // the header that has the parameter after of the page behind
	// RowsClock is the header that has the time at which a page's packets were counted,
	// in seconds of a clock that nobody sets and that begins with the daemon.
	RowsClock = "Natless-Clock"
)

// RowColumns are the columns of a row, in this order. More may follow. The four from
// sent_packets on are empty where packets are not counted by workload, inside is where
// the workload has its IPv4 by the prefix.
var RowColumns = []string{"container_id", "interface", "name", "network", "ipv6", "address", "ports", "pool", "since", "violations",
	"sent_packets", "sent_bytes", "received_packets", "received_bytes", "inside", "shed", "denied", "daemon"}

// leastColumns is how many of them there were in the first table of all, and
// countedColumns how many with those of traffic.
const (
	leastColumns   = 10
	countedColumns = 14
)

// Row is a workload in a table.
type Row struct {
	Key
	Name, Network, IPv6 string // the IPv6 address that is mapped
	Address             netip.Addr
	Ports, Pool         string
	Since               time.Time
	Violations          uint64
	Traffic             Traffic
	Counted             bool          // packets are counted by workload
	Clock               time.Duration // when they were, by RowsClock
	Inside              string        // the address that it has inside; "": by the prefix
	Shed                uint64        // packets that it gave way with
	Denied              uint64        // packets that policies denied
	Daemon              uint64        // of Traffic, packets that the daemon translated
}

// Append adds the row of a workload to a table.
func (w *Workload) Append(b []byte) []byte {
	for _, s := range []string{w.ContainerID, w.Interface, w.Request.Name, w.Request.Network} {
		b = append(append(b, s...), '\t')
	}
	if len(w.Request.IPv6) > 0 {
		b = w.Request.IPv6[0].AppendTo(b)
	}
	b = append(w.Address.AppendTo(append(b, '\t')), '\t')
	b = append(append(b, PortsText(w.Ports)...), '\t')
	b = append(append(b, w.Pool...), '\t')
	b = append(w.Since.UTC().AppendFormat(b, time.RFC3339Nano), '\t')
	b = strconv.AppendUint(b, w.Violations, 10)
	if t := w.Traffic; t != nil {
		for _, n := range [...]uint64{t.Sent.Packets, t.Sent.Bytes, t.Received.Packets, t.Received.Bytes} {
			b = strconv.AppendUint(append(b, '\t'), n, 10)
		}
	} else {
		b = append(b, "\t\t\t\t"...)
	}
	b = append(b, '\t')
	if w.Inside != nil {
		b = w.Inside.Address.AppendTo(b)
	}
	for _, n := range [...]uint64{w.Shed, w.Denied, w.Daemon} {
		b = strconv.AppendUint(append(b, '\t'), n, 10)
	}
	return append(b, '\n')
}

// Rows gives what a table shows of all workloads that match, sorted by key.
func (c *Client) Rows(ctx context.Context, f Filter) ([]Row, error) {
	var pages [][]Row // put together once: a row is large to move
	query := f.query()
	query.Set("limit", "10000")
	for {
		body, header, err := c.page(ctx, query, RowsType)
		if err != nil {
			return nil, err
		}
		rows, err := readRows(body, clockOf(header))
		if err != nil {
			return nil, &Problem{Code: CodeInternal, Detail: "answer of natlessd: " + err.Error(), Err: err}
		}
		pages = append(pages, rows)
		next := header.Get(RowsNext)
		if next == "" {
			return slices.Concat(pages...), nil
		}
		query.Set("after", next)
	}
}

// clockOf is the time of a page; 0 of a daemon that does not tell.
func clockOf(h http.Header) time.Duration {
	seconds, _ := strconv.ParseFloat(h.Get(RowsClock), 64)
	return time.Duration(seconds * float64(time.Second))
}

// page reads a page of a list in another form than JSON.
func (c *Client) page(ctx context.Context, query url.Values, form string) (body []byte, header http.Header, err error) {
	resp, err := c.open(ctx, http.MethodGet, "/v1/workloads?"+query.Encode(), http.Header{"Accept": {form}}, nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if n := resp.ContentLength; n > 0 && n <= maxAnswer {
		body = make([]byte, n)
		_, err = io.ReadFull(resp.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	}
	if err != nil {
		return nil, nil, c.unavailable(err)
	}
	return body, resp.Header, nil
}

func readRows(body []byte, clock time.Duration) ([]Row, error) {
	text := string(body) // once: the rows' words are parts of it
	head, text, _ := strings.Cut(text, "\n")
	columns := strings.Split(head, "\t")
	known := min(len(columns), len(RowColumns)) // an older daemon has fewer
	if known < leastColumns || !slices.Equal(columns[:known], RowColumns[:known]) {
		return nil, fmt.Errorf("it is no table of workloads: natlessd is of another version")
	}
	all := make([]Row, 0, strings.Count(text, "\n"))
	words := make([]string, 0, len(RowColumns)+4)
	for line := range strings.Lines(text) {
		words = words[:0]
		for rest, more := strings.TrimSuffix(line, "\n"), true; more; {
			var word string
			word, rest, more = strings.Cut(rest, "\t")
			words = append(words, word)
		}
		if len(words) < known {
			return nil, fmt.Errorf("a row has %d columns", len(words))
		}
		r, err := readRow(words[:known])
		if err != nil {
			return nil, err
		}
		r.Clock = clock
		all = append(all, r)
	}
	return all, nil
}

func readRow(words []string) (r Row, err error) {
	r = Row{Key: Key{words[0], words[1]}, Name: words[2], Network: words[3], IPv6: words[4], Ports: words[6], Pool: words[7]}
	if r.Address, err = netip.ParseAddr(words[5]); err != nil {
		return r, err
	}
	if r.Since, err = time.Parse(time.RFC3339Nano, words[8]); err != nil {
		return r, err
	}
	if r.Violations, err = strconv.ParseUint(words[9], 10, 64); err != nil {
		return r, err
	}
	if len(words) > countedColumns {
		r.Inside = words[countedColumns]
	}
	for i, n := range [...]*uint64{&r.Shed, &r.Denied, &r.Daemon} {
		if at := countedColumns + 1 + i; len(words) > at {
			if *n, err = strconv.ParseUint(words[at], 10, 64); err != nil {
				return r, err
			}
		}
	}
	if len(words) < countedColumns || words[leastColumns] == "" {
		return r, nil
	}
	r.Counted = true
	counters := [...]*uint64{&r.Traffic.Sent.Packets, &r.Traffic.Sent.Bytes, &r.Traffic.Received.Packets, &r.Traffic.Received.Bytes}
	for i, n := range counters {
		if *n, err = strconv.ParseUint(words[leastColumns+i], 10, 64); err != nil {
			return r, err
		}
	}
	return r, nil
}
