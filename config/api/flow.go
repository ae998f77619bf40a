package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// Flow is what went between a workload and somebody, in packets and bytes as an
// IPv4 wire has them.
type Flow struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"` // of the last packet
	// Reason is why there is a record: idle, active (the flow goes on), end (FIN or
	// RST), forced; open where there is none yet.
	Reason string `json:"reason"`
	// Verdict is forward, denied or denied-fragment (by policies), or shed: these its
	// workload gave way with, and where they came from or went is not known.
	Verdict string `json:"verdict"`
	// Policy is the rule that denied it or, of what was forwarded, would have if its
	// policy were not only audited: that of the last such packet.
	Policy     string     `json:"policy,omitempty"`
	Proto      string     `json:"proto"` // tcp, udp, icmp or a number
	Local      netip.Addr `json:"local"`
	LocalPort  uint16     `json:"local_port,omitempty"`
	Remote     netip.Addr `json:"remote"`
	RemotePort uint16     `json:"remote_port,omitempty"`
	ICMPType   *uint8     `json:"icmp_type,omitempty"`
	ICMPCode   *uint8     `json:"icmp_code,omitempty"`
	ICMPID     uint16     `json:"icmp_id,omitempty"`
	Initiator  string     `json:"initiator"` // local or remote
	Sent       FlowCount  `json:"sent"`
	Received   FlowCount  `json:"received"`
	Sample     int        `json:"sample,omitempty"` // one of so many packets was counted, where it was not each one
	Serial     uint64     `json:"serial,omitempty"` // of the workload's assignment
	Workload   string     `json:"workload,omitempty"`
	Container  string     `json:"container_id,omitempty"`
	Interface  string     `json:"interface,omitempty"`
	Network    string     `json:"network,omitempty"`
}

// FlowCount is one direction of a flow.
type FlowCount struct {
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	TCPFlags string `json:"tcp_flags,omitempty"` // all that were seen, as tcpdump writes them
}

// FlowVerdicts are what may have become of the packets of a flow.
var FlowVerdicts = []string{"forward", "denied", "denied-fragment", "shed"}

// FlowFilter says which flows are wanted: those that all that is given is true of.
type FlowFilter struct {
	Workload string        // name, key, or serial
	Remote   netip.Prefix  // the other's address
	Port     int           // of either; 0: any
	Proto    string        // tcp, udp, icmp
	Verdict  string        // forward, denied, denied-fragment, shed
	Since    time.Duration // records of flows that ended so long ago at most, as far as they are remembered
	Open     bool          // flows that are open now
	Follow   bool          // and records as they come, until the reader goes
}

func (f FlowFilter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"workload": f.Workload, "proto": f.Proto, "verdict": f.Verdict} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.Remote.IsValid() {
		q.Set("remote", f.Remote.String())
	}
	if f.Port != 0 {
		q.Set("port", strconv.Itoa(f.Port))
	}
	if f.Since != 0 {
		q.Set("since", f.Since.String())
	}
	for name, is := range map[string]bool{"open": f.Open, "follow": f.Follow} {
		if is {
			q.Set(name, "true")
		}
	}
	return q
}

// SeenFlow is a line of a stream of flows.
type SeenFlow struct {
	Flow *Flow `json:"flow,omitempty"`
	// Lost is how many records were left out because the reader was slow.
	Lost uint64 `json:"lost,omitempty"`
}

// Flows calls f with each line of the stream, until it ends, ctx is done or f fails.
func (c *Client) Flows(ctx context.Context, filter FlowFilter, f func(SeenFlow) error) error {
	resp, err := c.open(ctx, http.MethodGet, "/v1/flows?"+filter.query().Encode(), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var s SeenFlow
		switch err := lines.Decode(&s); {
		case err == io.EOF || err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return &Problem{Code: CodeUnavailable, Detail: fmt.Sprintf("natlessd on %s has gone in the middle: %v", c.socket, err), Err: err}
		}
		if err := f(s); err != nil {
			return err
		}
	}
}

// FlowStatus is what is recorded of flows.
type FlowStatus struct {
	Enabled  bool              `json:"enabled"`
	Open     int               `json:"open"`
	Denied   int               `json:"denied,omitempty"` // that are open beside these: policies denied them
	MaxFlows int               `json:"max_flows"`
	Sample   int               `json:"sample,omitempty"` // of so many packets one is counted, where it is not each one
	Kernel   string            `json:"kernel,omitempty"` // why the kernel's fast path does not itemise
	Records  map[string]uint64 `json:"records,omitempty"`
	// Lost is what was translated and found no room to be itemised, and whose it was.
	Lost   FlowCount            `json:"lost"`
	LostAt time.Time            `json:"lost_at,omitzero"`
	LostBy map[string]FlowCount `json:"lost_by,omitempty"`
	// Refused is packets that policies denied and that are in no record, since there were
	// too many different ones, and whose they were.
	Refused   uint64            `json:"refused,omitempty"`
	RefusedBy map[string]uint64 `json:"refused_by,omitempty"`
	Stuck     uint64            `json:"stuck,omitempty"`
	Receivers []FlowReceiver    `json:"receivers,omitempty"`
}

// FlowReceiver is a file or collector that records go to.
type FlowReceiver struct {
	Name    string `json:"name"`
	State   string `json:"state"` // ok, or why not
	Written uint64 `json:"written"`
	Dropped uint64 `json:"dropped"` // that it did not take in time
}
