package translator

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// heldTo makes a worker whose workloads with an address each are held to a policy.
func heldTo(t testing.TB, p policy.Policy, inside bool) *Worker {
	t.Helper()
	table, err := policy.Compile([]policy.Policy{p}, policy.NewLedger())
	if err != nil {
		t.Fatal(err)
	}
	n, _ := table.Number(policy.Workload{})
	if table, err = table.With(n); err != nil {
		t.Fatal(err)
	}
	mappings := testMappings()
	for i := range mappings {
		if mappings[i].IPv6.Bits() == 128 {
			mappings[i].Policy, mappings[i].Inside = n, inside
		}
	}
	made, err := mapping.New(netip.MustParsePrefix(testPrefix), mappings)
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig()
	c.Policy = table
	tr, err := New(c, made)
	if err != nil {
		t.Fatal(err)
	}
	return tr.NewWorker()
}

// somePolicy allows 443 and DNS out and 80 in, of one server, and pings to it.
func somePolicy(answer policy.Answer) policy.Policy {
	server, all := []netip.Prefix{netip.MustParsePrefix(server4 + "/32")}, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	return policy.Policy{Name: "some", Answer: answer, Egress: []policy.Rule{
		{Name: "server", Networks: server, Protocols: []policy.Protocol{{Number: 6, Ports: ports.Single(443)}, {Number: 17, Ports: ports.Single(53)}, {Number: 1}}},
		{Name: "out", Action: policy.Deny, Networks: all},
	}, Ingress: []policy.Rule{
		{Name: "web", Networks: server, Protocols: []policy.Protocol{{Number: 6, Ports: ports.Single(80)}}},
		{Name: "in", Action: policy.Deny, Networks: all},
	}}
}

// flagged sets TCP's flags.
func flagged(src, dst string, sport, dport uint16, flags byte) []byte {
	b := tcp(src, dst, sport, dport, nil)
	b[13], b[16], b[17] = flags, 0, 0
	return summed(src, dst, 6, 16, b)
}

const (
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// TestPolicy has a whole address, whose client ports are from 32768 on, talk to a server.
func TestPolicy(t *testing.T) {
	out := func(l4 func(src, dst string) []byte, proto uint8) []byte {
		return hdr6{src: work6, dst: server6, proto: proto}.packet(l4(work6, server6))
	}
	in := func(l4 func(src, dst string) []byte, proto uint8) []byte {
		return hdr4{src: server4, dst: work4, proto: proto}.packet(l4(server4, work4))
	}
	tcpOf := func(sport, dport uint16, flags byte) func(src, dst string) []byte {
		return func(src, dst string) []byte { return flagged(src, dst, sport, dport, flags) }
	}
	udpOf := func(sport, dport uint16) func(src, dst string) []byte {
		return func(src, dst string) []byte { return udp(src, dst, sport, dport, data(9)) }
	}
	w := heldTo(t, somePolicy(policy.ICMP), false)
	for _, test := range []struct {
		name string
		in   []byte
		want Verdict
		rule string
	}{
		{"SYN out", out(tcpOf(40000, 443, flagSYN), 6), Forward4, ""},
		{"SYN out to another port", out(tcpOf(40000, 444, flagSYN), 6), Denied | Replied, "some egress out"},
		{"answer in", in(tcpOf(443, 40000, flagSYN|flagACK), 6), Forward6, ""},
		{"bare SYN in to a client port", in(tcpOf(443, 40000, flagSYN), 6), Denied | Replied, "some ingress in"},
		{"answer from another port", in(tcpOf(444, 40000, flagACK), 6), Denied | Replied, "some egress out"},
		{"DNS", out(udpOf(50000, 53), 17), Forward4, ""},
		{"DNS's answer", in(udpOf(53, 50000), 17), Forward6, ""},
		{"other UDP in", in(udpOf(54, 50000), 17), Denied | Replied, "some egress out"},
		{"connection in", in(tcpOf(50000, 80, flagSYN), 6), Forward6, ""},
		{"its answer", out(tcpOf(80, 50000, flagSYN|flagACK), 6), Forward4, ""},
		{"SYN out of that port", out(tcpOf(80, 50000, flagSYN), 6), Denied | Replied, "some egress out"},
		{"connection in to another port", in(tcpOf(50000, 81, flagSYN), 6), Denied | Replied, "some ingress in"},
		{"ping", out(func(src, dst string) []byte { return icmp6(src, dst, 128, 0, 7<<16, nil) }, 58), Forward4, ""},
		{"pong", in(func(_, _ string) []byte { return icmp4(0, 0, 7<<16, nil) }, 1), Forward6, ""},
		{"ping in", in(func(_, _ string) []byte { return icmp4(8, 0, 7<<16, nil) }, 1), Denied | Replied, "some ingress in"},
		{"pong out", out(func(src, dst string) []byte { return icmp6(src, dst, 129, 0, 7<<16, nil) }, 58), Denied | Replied, "some ingress in"},
		{"GRE out", hdr6{src: work6, dst: server6, proto: 47}.packet(data(20)), Denied | Replied, "some egress out"},
		{"GRE in", hdr4{src: server4, dst: work4, proto: 47}.packet(data(20)), Denied | Replied, "some ingress in"},
		{"later fragment in", hdr4{src: server4, dst: work4, proto: 17, flags: 100}.packet(data(16)), DeniedFragment, ""},
		{"later fragment of others", hdr4{src: "192.0.2.34", dst: work4, proto: 17, flags: 100}.packet(data(16)), Denied, "some ingress in"},
		{"fragment inside of the header", hdr4{src: server4, dst: work4, proto: 6, flags: 1}.packet(data(16)), DeniedFragment, ""},
		{"error about what is allowed", hdr4{src: "192.0.2.200", dst: work4, proto: 1}.packet(icmp4(11, 0, 0,
			hdr4{src: work4, dst: server4, proto: 17}.packet(udp(work4, server4, 50000, 53, nil)))), Forward6, ""},
		{"error about what is not", hdr4{src: "192.0.2.200", dst: work4, proto: 1}.packet(icmp4(11, 0, 0,
			hdr4{src: work4, dst: server4, proto: 17}.packet(udp(work4, server4, 50000, 54, nil)))), Denied, "some egress out"},
		{"error of the workload", hdr6{src: work6, dst: server6, proto: 58}.packet(icmp6(work6, server6, 1, 4, 0,
			hdr6{src: server6, dst: work6, proto: 6}.packet(flagged(server6, work6, 50000, 80, flagSYN)))), Forward4, ""},
		{"error of the workload about what was denied", hdr6{src: work6, dst: server6, proto: 58}.packet(icmp6(work6, server6, 1, 4, 0,
			hdr6{src: server6, dst: work6, proto: 6}.packet(flagged(server6, work6, 50000, 81, flagSYN)))), Denied, "some ingress in"},
		{"the translator's own address", hdr6{src: work6, dst: own6, proto: 17}.packet(udp(work6, own6, 40000, 5353, nil)), Local, ""},
		{"the translator's own IPv4 address", hdr6{src: work6, dst: in6(own4), proto: 17}.packet(udp(work6, in6(own4), 40000, 5353, nil)), Local, ""},
		{"who has a mapping of the configuration", hdr4{src: server4, dst: "203.0.113.5", proto: 17}.packet(udp(server4, "203.0.113.5", 1, 2, nil)), Forward6, ""},
		{"another workload", hdr6{src: work6, dst: in6(shared4), proto: 17}.packet(udp(work6, in6(shared4), 40000, 1030, nil)), Denied | Replied, "some egress out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := packetOf(test.in)
			if v := w.Translate(p); v != test.want {
				t.Errorf("verdict %v, want %v", v, test.want)
			}
			got := ""
			if r := w.Rule(); r != nil {
				got = r.ID()
			}
			if got != test.rule {
				t.Errorf("rule %q, want %q", got, test.rule)
			}
		})
	}
	rule := w.s.policy.All()[1]
	if rule.ID() != "some egress out" || rule.Denied.Load() == 0 || rule.Counter.Audited.Load() != 0 {
		t.Errorf("%s counts %d denied", rule.ID(), rule.Denied.Load())
	}
}

// TestPolicyAnswers: what the sender of a denied packet hears, byte for byte.
func TestPolicyAnswers(t *testing.T) {
	syn6, syn4 := flagged(work6, server6, 40000, 25, flagSYN), flagged(server4, work4, 40000, 25, flagSYN)
	in6, in4 := hdr6{src: work6, dst: server6, proto: 6}.packet(syn6), hdr4{src: server4, dst: work4, proto: 6}.packet(syn4)
	rst := func(src, dst string) []byte {
		b := tcp(src, dst, 25, 40000, nil)
		clear(b[4:])
		binary.BigEndian.PutUint32(b[8:], 0x12345678+1)
		b[12], b[13] = 5<<4, flagRST|flagACK
		return summed(src, dst, 6, 16, b)
	}
	t.Run("icmp", func(t *testing.T) {
		w := heldTo(t, somePolicy(policy.ICMP), false)
		wantTranslated(t, w, in6, Denied|Replied, hdr6{src: own6, dst: work6, proto: 58, hop: 64}.packet(icmp6(own6, work6, 1, 1, 0, in6)))
		wantTranslated(t, w, in4, Denied|Replied, hdr4{src: own4, dst: server4, proto: 1, ttl: 64, id: 1}.packet(icmp4(3, 13, 0, in4)))
	})
	t.Run("silence", func(t *testing.T) {
		w := heldTo(t, somePolicy(policy.Silence), false)
		wantVerdict(t, w, in6, Denied)
		wantVerdict(t, w, in4, Denied)
	})
	t.Run("reset", func(t *testing.T) {
		w := heldTo(t, somePolicy(policy.Reset), false)
		wantTranslated(t, w, in6, Denied|Replied, hdr6{src: server6, dst: work6, proto: 6, hop: 64}.packet(rst(server6, work6)))
		wantTranslated(t, w, in4, Denied|Replied, hdr4{src: work4, dst: server4, proto: 6, ttl: 64, id: 1}.packet(rst(work4, server4)))
		wantVerdict(t, w, hdr6{src: work6, dst: server6, proto: 6}.packet(flagged(work6, server6, 40000, 25, flagRST)), Denied)
		wantVerdict(t, w, udp6(work6, server6), Denied|Replied)
	})
	t.Run("inside", func(t *testing.T) {
		w := heldTo(t, somePolicy(policy.ICMP), true)
		out := hdr4{src: work4, dst: server4, proto: 6}.packet(flagged(work4, server4, 40000, 25, flagSYN))
		passes(t, w, work6, out, Denied|Replied, work6, hdr4{src: own4, dst: work4, proto: 1, ttl: 64, id: 1}.packet(icmp4(3, 13, 0, out)))
		arrives(t, w, in4, Denied|Replied, "", hdr4{src: own4, dst: server4, proto: 1, ttl: 64, id: 2}.packet(icmp4(3, 13, 0, in4)))
		passes(t, w, work6, hdr4{src: work4, dst: server4, proto: 6}.packet(flagged(work4, server4, 40000, 443, flagSYN)), Pass4, "", nil)
		arrives(t, w, hdr4{src: server4, dst: work4, proto: 6}.packet(flagged(server4, work4, 443, 40000, flagACK)), Deliver4, work6, nil)
	})
	t.Run("inside, reset", func(t *testing.T) {
		w := heldTo(t, somePolicy(policy.Reset), true)
		out := hdr4{src: work4, dst: server4, proto: 6}.packet(flagged(work4, server4, 40000, 25, flagSYN))
		passes(t, w, work6, out, Denied|Replied, work6, hdr4{src: server4, dst: work4, proto: 6, ttl: 64, id: 1}.packet(rst(server4, work4)))
	})
}

// TestPolicyHairpin: both ends are judged, and a RST comes from whom was meant.
func TestPolicyHairpin(t *testing.T) {
	p := somePolicy(policy.Reset)
	p.Egress = nil // all may leave
	w := heldTo(t, p, false)
	to := in6(shared4)
	syn := hdr6{src: work6, dst: to, proto: 6}.packet(flagged(work6, to, 40000, 1030, flagSYN))
	got := packetOf(syn)
	if v := w.Translate(got); v != Denied|Replied || w.Rule().ID() != "some ingress in" {
		t.Fatalf("%v, %v", v, w.Rule())
	}
	if d := w.Denial(); d.Out || d.LocalPort != 1030 || d.FarPort != 40000 || w.t.Denials(d.Slot) != 1 {
		t.Errorf("%+v, %d of its slot", d, w.t.Denials(d.Slot))
	}
	want := flagged(to, work6, 1030, 40000, flagRST|flagACK)
	clear(want[4:12])
	binary.BigEndian.PutUint32(want[8:], 0x12345678+1)
	want[14], want[15], want[16], want[17] = 0, 0, 0, 0
	wantPacket(t, got, hdr6{src: to, dst: work6, proto: 6, hop: 64}.packet(summed(to, work6, 6, 16, want)))
}

// TestPolicyAudit: what an audited policy would deny passes, and is counted for its rule.
func TestPolicyAudit(t *testing.T) {
	p := somePolicy(policy.ICMP)
	p.Audit = true
	w := heldTo(t, p, false)
	wantVerdict(t, w, udp6(work6, server6), Forward4)
	if r := w.Rule(); r == nil || r.ID() != "some egress out" || r.Audited.Load() != 1 || r.Denied.Load() != 0 {
		t.Errorf("rule %v", r)
	}
	wantVerdict(t, w, hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 40000, 53, nil)), Forward4)
	if r := w.Rule(); r != nil {
		t.Errorf("what is allowed names %v", r)
	}
}

// TestPolicyBudget: denied packets are answered within the budgets of ICMP errors, RSTs,
// too.
func TestPolicyBudget(t *testing.T) {
	for _, answer := range []policy.Answer{policy.ICMP, policy.Reset} {
		w := heldTo(t, somePolicy(answer), false)
		w.s = nil
		c := w.t.Config()
		c.ErrorRate, c.ErrorBurst = 1, 10
		if err := w.t.Reload(c, w.t.Table()); err != nil {
			t.Fatal(err)
		}
		answered := 0
		for range 1000 {
			p := packetOf(hdr6{src: work6, dst: server6, proto: 6}.packet(flagged(work6, server6, 40000, 25, flagSYN)))
			switch v := w.Translate(p); {
			case v.Reason() != Denied:
				t.Fatal(v)
			case v.Replied():
				answered++
			}
		}
		if answered == 0 || answered > 40 {
			t.Errorf("%v: %d of 1000 were answered, with a burst of 10", answer, answered)
		}
	}
}
