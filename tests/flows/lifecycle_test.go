//go:build linux

package flows

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// datagrams sends some from each of some ports, and waits for all their echoes.
func (n *topology) datagrams(udp string, ports, each int) {
	n.t.Helper()
	b := make([]byte, 2048)
	for range ports {
		c := n.dial("udp", udp)
		if c == nil {
			return
		}
		for range each {
			c.Write(b[:100])
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(b); err != nil {
				n.t.Error(err)
			}
		}
		c.Close()
	}
}

// sent is how many packets of UDP workloads sent, by records.
func sentBy(all []api.Flow) (packets uint64) {
	for _, f := range all {
		if f.Proto == "udp" {
			packets += f.Sent.Packets
		}
	}
	return packets
}

// TestKilled: what the kernel translates while no daemon is there, the next one finds;
// what the daemon had not written when it was killed is lost, and nothing else.
func TestKilled(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	n := newTopology(t, "flows: {json: {path: FILE}}\nfast_path: required\n")
	w := n.put()
	_, udp := n.serve()
	n.datagrams(udp, 3, 10)
	n.natless("flows")
	n.daemon.Kill()
	n.datagrams(udp, 5, 10) // by the kernel alone
	n.daemon.Start()
	n.datagrams(udp, 2, 10)
	n.daemon.Stop()
	all := records(t, n.file)
	if got := sentBy(all); got != 70 {
		t.Errorf("records have %d packets, want 70", got)
	}
	for _, f := range all {
		if f.Serial != w.Serial {
			t.Errorf("whose is it: %+v", f)
		}
	}
}

// TestFullTable: of more flows than may be open, what finds no room is told, by
// workload, to the packet; and not one packet is lost to it. A reload changes nothing.
func TestFullTable(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			n := newTopology(t, "flows: {json: {path: FILE}, max_flows: 1024}\nfast_path: "+path+"\n")
			n.put()
			_, udp := n.serve()
			n.datagrams(udp, 1100, 1)
			n.daemon.Signal(syscall.SIGHUP)
			n.datagrams(udp, 100, 1)
			n.natless("flows") // which has all collected
			s := n.status()
			if s.Flows.Open != 1024 || s.Flows.Lost.Packets == 0 || s.Flows.LostBy["ns/one"] != s.Flows.Lost {
				t.Errorf("%+v", s.Flows)
			}
			check := ""
			for _, c := range s.Checks {
				if c.Name == "flows" {
					check = c.State + ": " + c.Detail
				}
			}
			if !strings.HasPrefix(check, "warn: ") || !strings.Contains(check, "flows.max_flows") {
				t.Errorf("check %q", check)
			}
			if out := n.natless("status"); !strings.Contains(out, "not itemised of ns/one") {
				t.Error(out)
			}
			n.daemon.Stop()
			var all uint64
			for _, f := range records(t, n.file) {
				all += f.Sent.Packets + f.Received.Packets
			}
			if all+s.Flows.Lost.Packets != 2400 {
				t.Errorf("%d packets in records, %d told as lost, of 2400", all, s.Flows.Lost.Packets)
			}
		})
	}
}

// TestStreamSurvives: tables are taken away again and again in the middle of a stream,
// which loses no segment to it.
func TestStreamSurvives(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			n := newTopology(t, "flows: {json: {path: FILE}}\nfast_path: "+path+"\n")
			n.put()
			s := load.StartPaced(t, n.w, n.server, serverv6)
			before := s.Retransmitted()
			for range 50 {
				err := n.daemon.Client().Flows(t.Context(), api.FlowFilter{Open: true}, func(api.SeenFlow) error { return nil })
				if p := (*api.Problem)(nil); errors.As(err, &p) && p.Code == api.CodeRateLimited {
					time.Sleep(100 * time.Millisecond)
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if after := s.Retransmitted(); after != before {
				t.Errorf("%d segments were sent again", after-before)
			}
			s.Finish()
		})
	}
}

// TestFollow: records come as they are made, to who follows, and say who has an
// address and port at a time.
func TestFollow(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	n := newTopology(t, "flows: {json: {path: FILE}, idle: 1s, active: 1s}\n")
	n.put()
	_, udp := n.serve()
	c := n.dial("udp", udp)
	defer c.Close()
	got := make(chan api.Flow, 100)
	go n.daemon.Client().Flows(t.Context(), api.FlowFilter{Follow: true, Workload: "ns/one"}, func(s api.SeenFlow) error {
		if s.Flow != nil {
			got <- *s.Flow
		}
		return nil
	})
	var f api.Flow
	within(t, 20*time.Second, "a record", func() bool {
		c.Write([]byte("once"))
		select {
		case f = <-got:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	if fmt.Sprint(f.LocalPort) != port || f.Workload != "ns/one" || f.Reason != "active" && f.Reason != "idle" {
		t.Errorf("%+v", f)
	}
	out := n.natless("whois", "--records", "198.51.100.8:"+port, "--at", f.Start.Add(f.End.Sub(f.Start)/2).Format(time.RFC3339Nano))
	if !strings.Contains(out, "ns/one") || !strings.Contains(out, server+":"+udp) {
		t.Errorf("whois: %s", out)
	}
	if _, err := os.Stat(n.file); err != nil {
		t.Error(err)
	}
	out = n.natless("whois", "--records", "--file", n.file, "198.51.100.8:"+port, "--at", f.Start.Format(time.RFC3339Nano))
	if strings.Count(out, server+":"+udp) < 1 {
		t.Errorf("whois of a file: %s", out)
	}
}
