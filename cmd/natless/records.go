package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/config/api"
)

// flowRecords are the records that whois looks through.
type flowRecords struct {
	wanted bool
	files  []string
}

// slack is how much around a flow counts as being in it: records are in milliseconds,
// and who asks has a time from a log of somebody else.
const slack = time.Second

// print says who has an address and port, and whom it talked to.
func (r *flowRecords) print(c *cobra.Command, o *options, q question, a netip.Addr, all api.Owners) error {
	when := q.at
	if when.IsZero() {
		when = time.Now()
	}
	var found []api.Flow
	look := func(f *api.Flow) {
		if f.Local == a && (q.port < 0 || int(f.LocalPort) == q.port) && !f.Start.After(when.Add(slack)) && !f.End.Before(when.Add(-slack)) {
			found = append(found, *f)
		}
	}
	filter := api.FlowFilter{Since: max(time.Since(when), 0) + 2*slack, Open: true}
	if q.port > 0 {
		filter.Port = q.port
	}
	err := o.client().Flows(c.Context(), filter, func(s api.SeenFlow) error {
		if s.Flow != nil {
			look(s.Flow)
		}
		return nil
	})
	if err != nil && r.files == nil {
		return err
	}
	for _, path := range r.files {
		if err := readFlows(path, look); err != nil {
			return err
		}
	}
	w := c.OutOrStdout()
	if o.output == "json" {
		return table.JSON(w, struct {
			api.Owners
			Flows []api.Flow `json:"flows"`
		}{all, found})
	}
	nobody := q.print(w, all)
	fmt.Fprintln(w)
	if err := (&flowQuery{}).print(w, found); err != nil {
		return err
	}
	if len(found) > 0 {
		return nil // who had it may be forgotten, and is in the records
	}
	return nobody
}

// readFlows reads a file of records.
func readFlows(path string, each func(*api.Flow)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var f api.Flow
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
		each(&f)
	}
	return lines.Err()
}
