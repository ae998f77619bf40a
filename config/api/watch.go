package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// Watch says which packets are to be seen, and how much of them.
type Watch struct {
	Filter string // in the words of `natless monitor --help`; empty: all
	Rate   int    // packets a second at most; 0: all
	Bytes  int    // bytes of each packet and side that come behind its event; 0: none
	All    bool   // the kernel's fast path leaves all packets to the daemon meanwhile
	// Leave: it leaves none that it would not leave anyway. Else it leaves a sample.
	Leave bool
}

// Seen is one line of the stream: Hello is in the first, Packet in one for each
// packet, Counts in one now and then and in the last of a stream that ends in
// good order.
type Seen struct {
	Hello  *Hello  `json:"hello,omitempty"`
	Packet *Event  `json:"packet,omitempty"`
	Counts *Counts `json:"counts,omitempty"`
}

// Hello is what one should know who watches.
type Hello struct {
	Version string       `json:"version"`
	Device  string       `json:"device"`
	Prefix  netip.Prefix `json:"prefix,omitzero"`
	// Notes are for people: what will not be seen, and why.
	Notes []string `json:"notes,omitempty"`
}

// Event is what became of one packet. Of a fragment that was held, In is absent
// when it goes on; of a packet that was dropped or taken, Out is.
type Event struct {
	Time      time.Time `json:"time"`
	Direction string    `json:"direction"`        // 6to4, 4to6 or 4to4
	Verdict   string    `json:"verdict"`          // as metrics and traces name it
	Policy    string    `json:"policy,omitempty"` // the rule that denied it, or would if it were not only audited
	Workload  string    `json:"workload,omitempty"`
	Mapping   string    `json:"mapping,omitempty"` // what decided about the workload's address
	GSOSize   int       `json:"gso_size,omitempty"`
	In        *Side     `json:"in,omitempty"`
	Out       *Side     `json:"out,omitempty"`
}

// Side is a packet on one side of the translation. Bytes of it follow the line,
// first those of In, then those of Out, when Watch.Bytes asked for them.
type Side struct {
	Src      netip.Addr `json:"src,omitzero"`
	Dst      netip.Addr `json:"dst,omitzero"`
	Proto    string     `json:"proto,omitempty"` // tcp, udp, icmp, or a number
	SrcPort  uint16     `json:"sport,omitempty"`
	DstPort  uint16     `json:"dport,omitempty"`
	TCPFlags string     `json:"tcp_flags,omitempty"` // as tcpdump writes them
	Length   int        `json:"length"`
	Words    string     `json:"words,omitempty"` // as natless explain says it
	Bytes    int        `json:"bytes,omitempty"` // that follow the line
}

// Counts are packets since the stream began.
type Counts struct {
	Seen    uint64 `json:"seen"`    // passed
	Matched uint64 `json:"matched"` // passed, and the filter wants them
	Limited uint64 `json:"limited"` // of these, left out for the rate
	Lost    uint64 `json:"lost"`    // of these, left out because the reader was slow
	// FastPath are those that the kernel translated by itself, and nobody saw.
	FastPath uint64 `json:"fast_path,omitempty"`
	// Shed are those that the kernel dropped as their workloads gave way, and nobody saw.
	Shed uint64 `json:"shed,omitempty"`
	End  bool   `json:"end,omitempty"`
}

// Stream is what is seen, until it is closed or the daemon ends it.
type Stream struct {
	Hello  Hello
	client *Client
	body   io.ReadCloser
	r      *bufio.Reader
	bytes  []byte
	cancel context.CancelFunc
}

// maxSeen bounds what the client takes of one packet.
const maxSeen = 1 << 18

// Watch opens a stream of packets.
func (c *Client) Watch(ctx context.Context, w Watch) (*Stream, error) {
	query := url.Values{}
	set := func(name, value string, is bool) {
		if is {
			query.Set(name, value)
		}
	}
	set("filter", w.Filter, w.Filter != "")
	set("rate", strconv.Itoa(w.Rate), w.Rate != 0)
	set("bytes", strconv.Itoa(w.Bytes), w.Bytes != 0)
	set("all", "true", w.All)
	set("sample", "false", w.Leave)
	ctx, cancel := context.WithCancel(ctx)
	resp, err := c.open(ctx, http.MethodGet, "/v1/watch?"+query.Encode(), nil, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &Stream{client: c, body: resp.Body, r: bufio.NewReaderSize(resp.Body, maxSeen), cancel: cancel}
	first, _, _, err := s.Next()
	if err == nil && first.Hello == nil {
		err = &Problem{Code: CodeInternal, Detail: "natlessd does not say hello: is it of another version?"}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.Hello = *first.Hello
	return s, nil
}

// Next waits for the next line, and gives the bytes that follow it, which are
// good until the next call. io.EOF is the end in good order; a daemon that is
// gone is ErrUnavailable.
func (s *Stream) Next() (seen Seen, in, out []byte, err error) {
	line, err := s.r.ReadSlice('\n')
	switch {
	case err == io.EOF && len(line) == 0:
		return seen, nil, nil, err
	case err != nil:
		return seen, nil, nil, s.gone(err)
	}
	if err := json.Unmarshal(line, &seen); err != nil {
		return seen, nil, nil, &Problem{Code: CodeInternal, Detail: "line of natlessd: " + err.Error(), Err: err}
	}
	n, m := 0, 0
	if p := seen.Packet; p != nil {
		if p.In != nil {
			n = p.In.Bytes
		}
		if p.Out != nil {
			m = p.Out.Bytes
		}
	}
	if n < 0 || m < 0 || n+m > maxSeen {
		return seen, nil, nil, &Problem{Code: CodeInternal, Detail: fmt.Sprintf("natlessd announces packets of %d and %d bytes", n, m)}
	}
	if n+m == 0 {
		return seen, nil, nil, nil
	}
	if cap(s.bytes) < n+m {
		s.bytes = make([]byte, maxSeen)
	}
	if _, err := io.ReadFull(s.r, s.bytes[:n+m]); err != nil {
		return seen, nil, nil, s.gone(err)
	}
	return seen, s.bytes[:n], s.bytes[n : n+m], nil
}

func (s *Stream) gone(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &Problem{Code: CodeUnavailable, Detail: fmt.Sprintf("natlessd on %s has gone in the middle: %v", s.client.socket, err), Err: err}
}

// Close ends the stream, also while Next waits.
func (s *Stream) Close() {
	s.cancel()
	s.body.Close()
}
