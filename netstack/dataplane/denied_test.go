package dataplane

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// heldWorld is driverWorld, whose first workload may send TCP to port 443 of 192.0.2.9 and answer
// nobody, and whose second may do everything, as far as is in force.
func heldWorld(t *testing.T) *translator.Translator {
	t.Helper()
	rules := func(n string, protocols ...policy.Protocol) []policy.Rule {
		return []policy.Rule{{Name: "some", Action: policy.Accept, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}, Protocols: protocols},
			{Name: n, Action: policy.Deny, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}
	}
	held, err := policy.Compile([]policy.Policy{
		{Name: "held", Subject: policy.Subject{Name: "one"}, Egress: rules("rest", policy.Protocol{Number: policy.ProtoTCP, Ports: ports.Single(443)}), Ingress: rules("in")[1:]},
		{Name: "audited", Audit: true, Subject: policy.Subject{Name: "two"}, Egress: rules("rest")[1:]},
	}, policy.NewLedger())
	if err != nil {
		t.Fatal(err)
	}
	tr := driverWorld(t)
	edit := tr.Table().Edit()
	for name, a := range map[string]string{"one": "2001:db8:6::2/128", "two": "2001:db8:6::3/128"} {
		n, err := held.Number(policy.Workload{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if held, err = held.With(n); err != nil {
			t.Fatal(err)
		}
		edit.Police(netip.MustParsePrefix(a), n)
	}
	c := tr.Config()
	c.Policy = held
	if err := tr.Reload(c, edit.Table()); err != nil {
		t.Fatal(err)
	}
	return tr
}

// What policies deny is itemised as the packet that came, with the verdict and the rule,
// and with whom it was held to them: answered or not, both ways, errors and fragments;
// what is only audited as what passed, with its rule.
func TestDriverDenied(t *testing.T) {
	const workload, audited, host = "2001:db8:6::2", "2001:db8:6::3", prefix + "192.0.2.9"
	const held = "198.51.100.2:"
	type one struct {
		local, remote string
		slot          uint32
		proto         uint8
		verdict       flows.Verdict
		rule          uint32
		sum           [2][2]uint64
		flags         [2]uint32
	}
	// Serials are of the rules in their order: held egress some and rest, ingress in; audited.
	for name, c := range map[string]struct {
		packet  []byte
		offload translator.Offload
		want    one
	}{
		"out": {packet: udp(workload, host, 9, 64, 0, 0),
			want: one{held + "1024", "192.0.2.9:1024", 1, 17, flows.Denied, 2, [2][2]uint64{{1, 37}, {}}, [2]uint32{}}},
		"in": {packet: tcp(udp("192.0.2.8", "198.51.100.2", 12, 64, 0, 0), 2),
			want: one{held + "1024", "192.0.2.8:1024", 1, 6, flows.Denied, 3, [2][2]uint64{{}, {1, 40}}, [2]uint32{0, 2}}},
		"echo": {packet: echo(udp(workload, host, 9, 64, 0, 0), 128, 77),
			want: one{held + "77", "192.0.2.9:2048", 1, 1, flows.Denied, 2, [2][2]uint64{{1, 37}, {}}, [2]uint32{}}},
		"superpacket": {packet: tcp(udp("192.0.2.9", "198.51.100.2", 3512, 64, header.IPv4FlagDontFragment, 0), 2),
			offload: translator.Offload{GSOType: translator.GSOTCPv4, GSOSize: 1000},
			want:    one{held + "1024", "192.0.2.9:1024", 1, 6, flows.Denied, 3, [2][2]uint64{{}, {4, 3500 + 4*40}}, [2]uint32{0, 2}}},
		"fragment": {packet: tcpFragment("192.0.2.9", "198.51.100.2"),
			want: one{held + "0", "192.0.2.9:0", 1, 6, flows.DeniedFragment, 0, [2][2]uint64{{}, {1, 128}}, [2]uint32{}}},
		"hairpin": {packet: udp(audited, prefix+"198.51.100.2", 9, 64, 0, 0),
			want: one{held + "1024", "198.51.100.3:1024", 1, 17, flows.Denied, 3, [2][2]uint64{{}, {1, 37}}, [2]uint32{}}},
		"audited": {packet: udp(audited, host, 9, 64, 0, 0),
			want: one{"198.51.100.3:1024", "192.0.2.9:1024", 2, 17, flows.Forwarded, 4, [2][2]uint64{{1, 37}, {}}, [2]uint32{}}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			d := NewDriver(heldWorld(t).NewWorker(), l, nil)
			d.flows.Table = flows.NewTable(10, 1)
			d.Now()
			v := d.Move(l.packet(c.packet, c.offload))
			var got []one
			d.flows.Table.Drain(func(k *flows.Key, s *flows.Sum) {
				got = append(got, one{k.LocalAddr().String(), k.RemoteAddr().String(), k.Slot, k.Proto, k.Verdict, s.Rule,
					[2][2]uint64{{s.Packets[0], s.Bytes[0]}, {s.Packets[1], s.Bytes[1]}}, s.Flags})
			}, func(uint32, flows.Lost) { t.Error("something is lost") })
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("%v: %+v, want %+v", v, got, c.want)
			}
		})
	}
}

// tcpFragment is a later fragment of TCP.
func tcpFragment(src, dst string) []byte {
	b := udp(src, dst, 100, 64, 0, 1480)
	b[9] = 6
	ip := header.IPv4(b)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return b
}

// TestDeniedAgainstCounters: whatever the packets, there are as many denied ones in flows
// as the counters of verdicts have, each at its workload's slot and address.
func TestDeniedAgainstCounters(t *testing.T) {
	t.Parallel()
	for _, world := range generate.PolicyWorlds() {
		table, err := mapping.New(world.Prefix, world.Mappings)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := translator.New(world.Config, table)
		if err != nil {
			t.Fatal(err)
		}
		l := newLedger(t)
		d := NewDriver(tr.NewWorker(), l, nil)
		d.counters, d.flows.Table = new(counters), flows.NewTable(20_000, 1)
		moveSome(d, l, world, 5000)
		var want, got, named uint64
		for w := range NumDirections {
			for _, v := range []translator.Verdict{translator.Denied, translator.DeniedFragment} {
				want += d.counters.verdicts[w][v].packets.Load()
			}
		}
		d.flows.Table.Drain(func(k *flows.Key, s *flows.Sum) {
			if k.Verdict == flows.Forwarded {
				return
			}
			got += s.Packets[0] + s.Packets[1]
			if s.Rule != 0 {
				named++
			}
			e := table.At(k.Slot)
			if e == nil || e.Policy() == 0 || !e.Mapping().IPv4.Contains(k.LocalAddr().Addr()) || s.Packets[0]+s.Packets[1] > s.Bytes[0]+s.Bytes[1] {
				t.Errorf("%s: %+v %+v", world.Name, k, s)
			}
			if k.Verdict == flows.Denied && s.Rule == 0 {
				t.Errorf("%s: nobody knows the rule of %+v", world.Name, k)
			}
		}, func(_ uint32, n flows.Lost) { got += n.Denied })
		if got != want || want < 100 || named == 0 {
			t.Errorf("%s: %d packets of flows were denied, %d with a rule; counters have %d", world.Name, got, named, want)
		}
	}
}
