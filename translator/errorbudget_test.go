package translator

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// flooding is a worker with ordinary budgets, and what is sent to it.
type flooding struct {
	*testing.T
	*Worker
	now int64
}

func newFlooding(t *testing.T) *flooding {
	w := newTestWorker(t, func(c *Config, _ *string) {
		c.ErrorRate, c.ErrorBurst, c.MTU4, c.MTU6 = 0, 0, 1400, 1400
	})
	return &flooding{t, w, 7e18}
}

// send says how many of n of a packet, at so many a second, are answered.
func (f *flooding) send(in []byte, n, perSecond int) (answered int) {
	f.Helper()
	for range n {
		if perSecond > 0 {
			f.now += int64(1e9) / int64(perSecond)
		}
		f.SetTime(f.now)
		if v := f.Translate(packetOf(in)); !v.IsDrop() {
			f.Fatalf("verdict %v of a packet that is to be refused", v)
		} else if v.Replied() {
			answered++
		}
	}
	return answered
}

// about allows six deviations: what an answer costs is drawn, from nought to twice its
// share, and who has two half buckets goes over the end of each.
func (f *flooding) about(what string, got, want int) {
	f.Helper()
	if got < want*3/4-6 || got > want*3/2+6 {
		f.Errorf("%s: %d answered, want about %d", what, got, want)
	}
}

// notIts comes from a port that is not its sender's.
var notIts = hdr6{src: sharedA6, dst: server6, proto: 17}.packet(udp(sharedA6, server6, 1, 2, nil))

// hops6 and hops4 are at the end of their way, big6 and big4 are too long.
func hops6(src, dst string) []byte {
	return hdr6{src: src, dst: dst, proto: 17, hop: 1}.packet(udp(src, dst, 1, 2, nil))
}

func hops4(src, dst string) []byte {
	return hdr4{src: src, dst: dst, proto: 17, ttl: 1}.packet(udp(src, dst, 1, 2, nil))
}

func big6(src, dst string) []byte {
	return hdr6{src: src, dst: dst, proto: 17, hop: 64}.packet(udp(src, dst, 2050, 2, data(1440)))
}

func big4(src, dst string) []byte {
	return hdr4{src: src, dst: dst, proto: 17, ttl: 64, flags: flagDF}.packet(udp(src, dst, 1, 1030, data(1400)))
}

// Errors of ours come at a limited rate to each sender, over all workers.
func TestSection6_ErrorRate(t *testing.T) {
	for name, in := range map[string][]byte{
		"workload": hops6(work6, server6), "too big": big6(work6, server6),
		"stranger": hops6(inside6, server6), "remote": hops4(server4, work4), "remote, too big": big4(server4, work4),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "stranger" {
				in = udp6(inside6, server6) // no mapping: refused whatever its hop limit
			}
			f := newFlooding(t)
			f.about("burst", f.send(in, 400, 0), 50)
			f.Worker = f.t.NewWorker()
			f.about("burst of another worker", f.send(in, 400, 0), 0)
			f.about("ten seconds", f.send(in, 10_000, 1000), 1000)
			f.now += 60e9
			f.about("burst after a pause", f.send(in, 400, 0), 50)
		})
	}
}

// TestSection6_ErrorBudgets: who floods, wherever it stands and whatever it
// floods with, leaves everybody else's errors to them, all of them, and "too
// big" to itself as well. 25 uploads of another learn their path MTU at once.
func TestSection6_ErrorBudgets(t *testing.T) {
	floods := map[string][]byte{
		"a workload's ports":             notIts,
		"a workload's hop limit":         hops6(work6, server6),
		"a workload's long packets":      big6(work6, server6),
		"one of a mapped subnet":         hops6("2001:db8:7::6", server6),
		"an address without a mapping":   udp6(inside6, server6),
		"a remote host":                  hops4("192.0.2.200", work4),
		"a remote host's long packets":   big4("192.0.2.200", work4),
		"a workload toward another":      hops6(work6, "2001:db8:64::203.0.113.6"),
		"a workload at another's port":   hdr6{src: work6, dst: "2001:db8:64::198.51.100.9", proto: 17}.packet(udp(work6, "2001:db8:64::198.51.100.9", 1, 9, nil)),
		"an IPv4 address in the prefix":  hops6("2001:db8:64::192.0.2.200", "2001:db8:64::192.0.2.201"),
		"a remote host at nobody's port": hdr4{src: "192.0.2.200", dst: shared4, proto: 17, ttl: 64}.packet(udp("192.0.2.200", shared4, 1, 9, nil)),
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			f := newFlooding(t)
			f.send(flood, 3000, 1000)
			before := refusals(f.Worker)
			others := map[string][]byte{
				"another workload":           big6(sharedB6, server6),
				"another of a mapped subnet": big6(other6, server6),
				"another's hop limit":        hops6(other6, server6),
				"a remote host":              big4("203.0.114.1", work4),
				"a remote host's traceroute": hops4("203.0.114.1", work4),
				"a stranger elsewhere":       udp6("2001:db8:beef::1", server6),
			}
			if name == "a workload's hop limit" {
				others["its own long packets"] = big6(work6, server6)
			}
			for who, in := range others {
				answered := 0
				for range 25 {
					f.send(flood, 10, 1000)
					answered += f.send(in, 1, 0)
				}
				if answered != 25 {
					t.Errorf("%s: %d of 25 answered", who, answered)
				}
			}
			if refusals(f.Worker) == before {
				t.Error("what was refused is not counted")
			}
		})
	}
}

// TestManyAddressesOfOne: who has a whole subnet, or pretends to be everybody,
// leaves the others theirs as well.
func TestManyAddressesOfOne(t *testing.T) {
	for name, flood := range map[string]func(i int) []byte{
		"a subnet":              func(i int) []byte { return hops6(fmt.Sprintf("2001:db8:7::%x", i%256), server6) },
		"a subnet's long ones":  func(i int) []byte { return big6(fmt.Sprintf("2001:db8:7::%x", i%256), server6) },
		"everybody":             func(i int) []byte { return hops4(fmt.Sprintf("11.%d.%d.1", i>>8&255, i&255), other4) },
		"everybody's long ones": func(i int) []byte { return big4(fmt.Sprintf("11.%d.%d.1", i>>8&255, i&255), other4) },
		"every IPv6 network":    func(i int) []byte { return udp6(fmt.Sprintf("2001:db8:d:%x::1", i&0xffff), server6) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlooding(t)
			var packets [1024][]byte
			for i := range packets {
				packets[i] = flood(i)
			}
			n := 0
			flooded := func(count int) {
				for range count {
					n++
					f.send(packets[n%len(packets)], 1, 20_000)
				}
			}
			flooded(12_000)
			for who, in := range map[string][]byte{
				"a workload": big6(work6, server6), "its traceroute": hops6(work6, server6), "a remote host": big4(server4, work4), "its traceroute too": hops4(server4, work4),
			} {
				answered := 0
				for range 25 {
					flooded(100)
					answered += f.send(in, 1, 0)
				}
				if answered != 25 {
					t.Errorf("%s: %d of 25 answered", who, answered)
				}
			}
		})
	}
}

// refusals are all that a worker counted.
func refusals(w *Worker) (n uint64) {
	v4, v6 := w.ErrorsLimited()
	v4.Add(v6)
	for k := range v4 {
		for _, c := range v4[k] {
			n += c
		}
	}
	return n
}

// TestErrorsLimitedByCause: each refusal counts once, under the budget that had
// nothing left.
func TestErrorsLimitedByCause(t *testing.T) {
	for _, c := range []struct {
		in     func(i int) []byte
		kind   ErrorKind
		budget Budget
		v4     bool
	}{
		{func(int) []byte { return hops6(work6, server6) }, OtherError, WorkloadBudget, false},
		{func(int) []byte { return big6(work6, server6) }, TooBigError, WorkloadBudget, false},
		{func(int) []byte { return hops4(server4, work4) }, OtherError, SourceBudget, true},
		{func(int) []byte { return udp6(inside6, server6) }, OtherError, SourceBudget, false},
		{func(i int) []byte { return udp6(fmt.Sprintf("2001:db8:1:%x::1", i), server6) }, OtherError, AllSourcesBudget, false},
		{func(i int) []byte { return big4(fmt.Sprintf("12.%d.%d.1", i>>8, i&255), work4) }, TooBigError, DestinationBudget, true},
		{func(i int) []byte {
			return big4(fmt.Sprintf("12.%d.%d.1", i>>8, i&255), fmt.Sprintf("11.1.%d.%d", i>>8, i&255))
		}, TooBigError, DestinationBudget, true},
		{func(i int) []byte {
			return hops4(fmt.Sprintf("12.%d.%d.1", i>>8, i&255), fmt.Sprintf("11.1.%d.%d", i>>8, i&255))
		}, OtherError, AllSourcesBudget, true},
		{func(i int) []byte { return hops6(fmt.Sprintf("2001:db8:a::%x", i), server6) }, OtherError, MappingBudget, false},
		{func(i int) []byte { return hops6(fmt.Sprintf("2001:db8:b::%x:0", i%200), server6) }, OtherError, AllWorkloadsBudget, false},
	} {
		t.Run(fmt.Sprint(c.kind, " ", c.budget), func(t *testing.T) {
			f := newFlooding(t)
			config := f.t.Config()
			config.ErrorRate, config.ErrorBurst, config.ErrorTotalRate, config.ErrorTotalBurst = 10, 10, 150, 150
			wide := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:a::/112"), IPv4: netip.MustParsePrefix("11.1.0.0/16")}
			table, err := f.t.Table().Insert(wide)
			for i := 0; i < 200 && err == nil; i++ { // many that have one each
				table, err = table.Insert(mapping.Mapping{IPv6: netip.MustParsePrefix(fmt.Sprintf("2001:db8:b::%x:0/128", i)), IPv4: netip.MustParsePrefix(fmt.Sprintf("11.2.0.%d/32", i))})
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := f.t.Reload(config, table); err != nil {
				t.Fatal(err)
			}
			const n = 1000
			answered := 0
			for i := range n {
				answered += f.send(c.in(i), 1, 0)
			}
			v4, v6 := f.ErrorsLimited()
			if c.v4 {
				v4, v6 = v6, v4
			}
			// By chance two may share half of a budget: a few then count there.
			refused := n - answered
			if most := v6[c.kind][c.budget]; answered == 0 || answered > 300 || int(most) < refused*19/20 || refusals(f.Worker) != uint64(refused) || v4 != (ErrorsLimited{}) {
				t.Errorf("%d of %d answered, counted %v and %v", answered, n, v6, v4)
			}
		})
	}
}

// TestTrial: a trial costs nobody anything and is never refused an answer.
func TestTrial(t *testing.T) {
	f := newFlooding(t)
	real := f.Worker
	f.Worker = f.t.NewTrial()
	if n := f.send(hops6(work6, server6), 1000, 0); n != 1000 {
		t.Errorf("%d of 1000 trials answered", n)
	}
	f.send(notIts, 10, 0)
	if n := f.t.Violations(slotOf(f.t.Table().Lookup6(mapping.Addr6From(netip.MustParseAddr(sharedA6))))); n != 0 {
		t.Errorf("%d trials are held against a workload", n)
	}
	f.Worker = real
	f.about("burst after trials", f.send(hops6(work6, server6), 400, 0), 50)
	if n := refusals(f.Worker); n < 300 {
		t.Errorf("%d counted as refused", n)
	}
}

func TestErrorNoAllocs(t *testing.T) {
	f := newFlooding(t)
	p, in := packetOf(hops6(work6, server6)), hops6(work6, server6)
	if n := testing.AllocsPerRun(500, func() {
		p.Start, p.End = Headroom, Headroom+len(in)
		copy(p.Bytes(), in)
		f.Translate(p)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkErrorFlood is what a refused error costs, that of a flood.
func BenchmarkErrorFlood(b *testing.B) {
	w := newTestWorker(b, func(c *Config, _ *string) { c.ErrorRate, c.ErrorBurst = 0, 0 })
	in := hops6(work6, server6)
	p := packetOf(in)
	for b.Loop() {
		p.Start, p.End = Headroom, Headroom+len(in)
		copy(p.Bytes(), in)
		w.Translate(p)
	}
}
