package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
)

// A list that is followed is read again after this long, and after restFactor times
// as long as reading it took: who looks shall not be what keeps the host busy.
const (
	followEvery = time.Second
	restFactor  = 10
)

// change is a line of JSON of a list that is followed.
type change struct {
	At     time.Time `json:"at"`
	Change string    `json:"change"` // present, added, changed or removed
	who
}

// who is what a line of JSON of a workload begins with.
type who struct {
	api.Key
	Name    string `json:"name,omitempty"`
	Network string `json:"network,omitempty"`
	IPv6    string `json:"ipv6"`
	Address string `json:"address"`
	Ports   string `json:"ports"`
	Pool    string `json:"pool"`
}

func whoOf(r *api.Row) who {
	return who{r.Key, r.Name, r.Network, r.IPv6, r.Address.String(), r.Ports, r.Pool}
}

var changeMarks = map[string]string{"added": "+", "changed": "~", "removed": "-"}

// follow shows the list, and then what changes, until ctx is done. A daemon that is
// restarted is waited for.
func (l *listing) follow(ctx context.Context, o *options, w io.Writer) error {
	client := o.client()
	known, err := l.first(ctx, o, w, client)
	away := false
	for err == nil {
		began := time.Now()
		var rows []api.Row
		rows, err = client.Rows(ctx, l.filter)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			away = false
			err = l.differences(o, w, known, rows)
		case !away && o.output != "json":
			_, err = fmt.Fprintf(w, "! %s  natlessd does not answer, it is asked again: %v\n", time.Now().Format(time.TimeOnly), err)
			away = true
		default:
			err = nil
		}
		select {
		case <-time.After(max(followEvery, restFactor*time.Since(began))):
		case <-ctx.Done():
			return nil
		}
	}
	return quiet(err)
}

// first shows what is there.
func (l *listing) first(ctx context.Context, o *options, w io.Writer, client *api.Client) (map[api.Key]api.Row, error) {
	rows, err := client.Rows(ctx, l.filter)
	if err != nil {
		return nil, err
	}
	known := make(map[api.Key]api.Row, len(rows))
	for _, r := range rows {
		known[r.Key] = r
	}
	l.order(rows)
	if o.output != "json" {
		return known, l.print(w, rows, time.Now())
	}
	for i := range rows {
		if err := l.tell(o, w, "present", &rows[i]); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// differences tells what has changed, and remembers it.
func (l *listing) differences(o *options, w io.Writer, known map[api.Key]api.Row, rows []api.Row) error {
	gone := maps.Clone(known)
	for i := range rows {
		r := &rows[i]
		before, was := known[r.Key]
		delete(gone, r.Key)
		known[r.Key] = *r
		what := ""
		switch {
		case !was:
			what = "added"
		case assigned(before) != assigned(*r):
			what = "changed"
		default:
			continue
		}
		if err := l.tell(o, w, what, r); err != nil {
			return err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(gone), func(a, b api.Key) int { return strings.Compare(a.String(), b.String()) }) {
		r := gone[k]
		delete(known, k)
		if err := l.tell(o, w, "removed", &r); err != nil {
			return err
		}
	}
	return nil
}

// assigned is a row without what is counted.
func assigned(r api.Row) api.Row {
	r.Violations, r.Traffic, r.Clock = 0, api.Traffic{}, 0
	return r
}

func (l *listing) tell(o *options, w io.Writer, what string, r *api.Row) error {
	now := time.Now()
	if o.output == "json" {
		return json.NewEncoder(w).Encode(change{now, what, whoOf(r)})
	}
	_, err := fmt.Fprintf(w, "%s %s  %s  %s  %s  %s ports %s  %s\n", changeMarks[what], now.Format(time.TimeOnly), cmp.Or(r.Name, "-"),
		short(r.Key), r.IPv6, r.Address, r.Ports, r.Pool)
	return err
}
