package translator

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// manyPolicies are rules with networks anywhere, 25 to a policy, and one that denies the rest.
func manyPolicies(rules, networks int) (all []policy.Policy) {
	r := rand.New(rand.NewPCG(1, 2))
	each := networks / rules
	for ; rules > 0; rules -= 25 {
		p := policy.Policy{Name: fmt.Sprint("p", len(all)), Priority: len(all)}
		for range 25 {
			rule := policy.Rule{Action: policy.Action(r.IntN(2)), Protocols: []policy.Protocol{
				{Number: 6, Ports: ports.Single(443)}, {Number: 17, Ports: ports.Single(443)}}}
			for range each {
				n, _ := mapping.Addr4(r.Uint32() | 1<<24).Prefix(16 + r.IntN(17))
				rule.Networks = append(rule.Networks, n)
			}
			p.Egress = append(p.Egress, rule)
		}
		all = append(all, p)
	}
	return append(all, policy.Policy{Name: "rest", Tier: policy.Baseline, Egress: []policy.Rule{
		{Action: policy.Accept, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1")}},
		{Action: policy.Deny, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}})
}

// policed is a worker with a workload that policies select and one that they do not, and
// so many remotes that the first may send to.
func policed(b testing.TB, all []policy.Policy, count int) (w *Worker, remotes []uint32) {
	b.Helper()
	table, err := policy.Compile(all, policy.NewLedger())
	if err != nil {
		b.Fatal(err)
	}
	n, err := table.Number(policy.Workload{Name: "a/x"})
	if err != nil {
		b.Fatal(err)
	}
	if table, err = table.With(n); err != nil {
		b.Fatal(err)
	}
	config := testConfig()
	config.Policy = table
	mappings, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix("2001:db8:6::1/128"), IPv4: netip.MustParsePrefix("100.64.0.1/32"), Policy: n},
		{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("100.64.0.2/32")}})
	if err != nil {
		b.Fatal(err)
	}
	tr, err := New(config, mappings)
	if err != nil {
		b.Fatal(err)
	}
	w = tr.NewWorker()
	r := rand.New(rand.NewPCG(3, 4))
	p := packetOf(packetTo())
	for tried := 0; len(remotes) < count; tried++ {
		if tried > 1<<24 {
			b.Fatal("hardly anybody may be sent to")
		}
		a := r.Uint32()
		if !table.Plain(n, policy.Egress, a, 17, 443) {
			continue
		}
		address(p, 1, a)
		if w.Translate(p) == Forward4 {
			remotes = append(remotes, a)
		}
	}
	return w, remotes
}

// packetTo is a datagram to port 443.
func packetTo() []byte {
	return hdr6{src: "2001:db8:6::1", dst: server6, proto: 17}.packet(udp("2001:db8:6::1", server6, 40000, 443, data(18)))
}

// address makes p one of a workload to a remote.
func address(p *Packet, workload byte, remote uint32) {
	const length = 40 + 8 + 18
	p.Start, p.End, p.Offload = Headroom, Headroom+length, Offload{}
	h := p.Buf[Headroom:]
	binary.BigEndian.PutUint64(h, 0x60000000_001a1140)
	copy(h[8:], []byte{0x20, 0x01, 0x0d, 0xb8, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, workload})
	copy(h[24:], []byte{0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0})
	binary.BigEndian.PutUint32(h[36:], remote)
}

// BenchmarkPolicies is what a packet costs that a policy judges, more than one of who is
// held to none: prepared batches to 65,536 remotes. Beside neighbours, as much memory as
// the second-level cache has is read between batches. It says the best of many turns.
func BenchmarkPolicies(b *testing.B) {
	for _, size := range []struct{ rules, networks int }{{25, 100}, {10_000, 100_000}} {
		w, remotes := policed(b, manyPolicies(size.rules, size.networks), 1<<16)
		packets := make([]*Packet, 64)
		for i := range packets {
			packets[i] = packetOf(packetTo())
		}
		for _, neighbours := range []int{0, 1 << 20, 2 << 20} {
			crowd := make([]uint64, neighbours/8)
			b.Run(fmt.Sprintf("%d rules of %d networks, %d kB of neighbours", size.rules, size.networks, neighbours>>10), func(b *testing.B) {
				next := 0
				turn := func(workload byte) time.Duration {
					for i := 0; i < len(crowd); i += 8 {
						w.warmed += crowd[i]
					}
					for _, p := range packets {
						address(p, workload, remotes[next&(len(remotes)-1)])
						next++
					}
					start := time.Now()
					w.Prepare(packets)
					for _, p := range packets {
						if v := w.Translate(p); v != Forward4 {
							b.Fatal(v)
						}
					}
					return time.Since(start)
				}
				with, without := time.Hour, time.Hour
				for b.Loop() {
					a, z := time.Duration(0), time.Duration(0)
					for range 8 {
						a += turn(1)
						z += turn(2)
					}
					with, without = min(with, a), min(without, z)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(without.Nanoseconds())/8/64, "without-ns")
				b.ReportMetric(float64((with-without).Nanoseconds())/8/64, "policy-ns")
			})
		}
	}
}
