package talkers

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/config/api"
)

func TestTop(t *testing.T) {
	a, b := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	local := netip.MustParseAddr("198.51.100.1")
	all := []api.Flow{
		{Proto: "tcp", Local: local, Remote: a, RemotePort: 443, Initiator: "local", Workload: "web", Sent: api.FlowCount{Packets: 1, Bytes: 10},
			Policy: "web egress rest"},
		{Proto: "tcp", Local: local, Remote: b, RemotePort: 5000, LocalPort: 80, Initiator: "remote", Received: api.FlowCount{Packets: 9, Bytes: 900}},
		{Proto: "udp", Local: local, Remote: a, RemotePort: 443, Initiator: "local", Workload: "web", Received: api.FlowCount{Packets: 2, Bytes: 20}},
		{Proto: "icmp", Local: local, Remote: a, Initiator: "local", Sent: api.FlowCount{Packets: 1, Bytes: 1}},
	}
	for by, want := range map[string][]Line{
		"remote": {{b.String(), 1, api.FlowCount{}, api.FlowCount{Packets: 9, Bytes: 900}},
			{a.String(), 3, api.FlowCount{Packets: 2, Bytes: 11}, api.FlowCount{Packets: 2, Bytes: 20}}},
		"port": {{"tcp/80", 1, api.FlowCount{}, api.FlowCount{Packets: 9, Bytes: 900}}, {"udp/443", 1, api.FlowCount{}, api.FlowCount{Packets: 2, Bytes: 20}},
			{"tcp/443", 1, api.FlowCount{Packets: 1, Bytes: 10}, api.FlowCount{}}, {"icmp", 1, api.FlowCount{Packets: 1, Bytes: 1}, api.FlowCount{}}},
		"workload": {{local.String(), 2, api.FlowCount{Packets: 1, Bytes: 1}, api.FlowCount{Packets: 9, Bytes: 900}},
			{"web", 2, api.FlowCount{Packets: 1, Bytes: 10}, api.FlowCount{Packets: 2, Bytes: 20}}},
		"rule": {{"web egress rest", 1, api.FlowCount{Packets: 1, Bytes: 10}, api.FlowCount{}}},
	} {
		got := Top(all, by, 0)
		if len(got) != len(want) {
			t.Fatalf("by %s: %d lines, want %d", by, len(got), len(want))
		}
		for i := range want {
			if *got[i] != want[i] {
				t.Errorf("by %s, line %d: %+v, want %+v", by, i, *got[i], want[i])
			}
		}
		if few := Top(all, by, 1); len(few) != 1 || *few[0] != want[0] {
			t.Errorf("by %s, one line: %+v", by, few)
		}
	}
}
