package policy_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// random makes policies of few addresses, ports and labels, so that much of it meets.
type random struct{ *rand.Rand }

func (r random) address() netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], r.remote())
	return netip.AddrFrom4(a)
}

// remote is an address whose parts are near the ends of what each step of the trie has.
func (r random) remote() (a uint32) {
	for _, octet := range []uint32{r.Uint32N(3), r.Uint32N(3), r.Uint32N(4), r.Uint32N(4)} {
		a = a<<8 | (octet-1)&0xff
	}
	return a
}

func (r random) networks() (list []netip.Prefix) {
	for range 1 + r.IntN(3) {
		p, _ := r.address().Prefix([]int{0, 1, 8, 15, 16, 17, 23, 24, 25, 30, 31, 32}[r.IntN(12)])
		list = append(list, p)
	}
	if r.IntN(8) == 0 {
		list = append(list, netip.MustParsePrefix("::/0"))
	}
	return list
}

var someProtocols = []uint8{6, 17, 136, 132, 33, 1}

func (r random) port() uint16 { return []uint16{1, 53, 80, 443, 1023, 1024, 65535}[r.IntN(7)] }

func (r random) protocols() (list []policy.Protocol) {
	for range r.IntN(3) {
		p := policy.Protocol{Number: someProtocols[r.IntN(6)]}
		if p.Number != 1 && r.IntN(3) != 0 {
			a, b := r.port(), r.port()
			p.Ports = ports.Range{First: min(a, b), Last: max(a, b)}
		}
		list = append(list, p)
	}
	return list
}

func (r random) rules() (list []policy.Rule) {
	for range r.IntN(4) {
		list = append(list, policy.Rule{Action: policy.Action(r.IntN(3)), Networks: r.networks(), Protocols: r.protocols()})
	}
	return list
}

func (r random) policies() (list []policy.Policy) {
	for i := range 1 + r.IntN(5) {
		p := policy.Policy{Name: fmt.Sprint("p", i), Tier: policy.Tier(r.IntN(3)), Priority: r.IntN(3), Audit: r.IntN(4) == 0,
			Answer: policy.Answer(r.IntN(3)), Egress: r.rules(), Ingress: r.rules()}
		switch r.IntN(4) {
		case 0:
			p.Subject.Name = []string{"a/*", "*/x", "?/x", "nobody"}[r.IntN(4)]
		case 1:
			p.Subject.Namespace = "a"
		case 2:
			p.Subject.Labels = map[string]string{"app": "web"}
		}
		list = append(list, p)
	}
	return list
}

func (r random) packet() (p policy.Packet) {
	p = policy.Packet{Remote: r.remote(), Proto: append(someProtocols, 47)[r.IntN(7)], Out: r.IntN(2) == 0, Client: r.IntN(2) == 0,
		Asks: r.IntN(3) == 0, Local: r.port(), Far: r.port()}
	p.Later = r.IntN(6) == 0 && p.Proto != 47
	p.Overwrites = p.Later && p.Proto == 6 && r.IntN(4) == 0
	return p
}

// policyPlain asks what the straight way of the translator asks.
func policyPlain(t *policy.Table, n uint16, p *policy.Packet) bool {
	switch {
	case p.Later || p.Overwrites || p.Proto == 1 || p.Proto == 47:
		return false
	case p.Out || p.Client && !(p.Asks && p.Proto == 6):
		return t.Plain(n, policy.Egress, p.Remote, p.Proto, p.Far)
	}
	return t.Plain(n, policy.Ingress, p.Remote, p.Proto, p.Local)
}

var someWorkloads = []policy.Workload{
	{}, {Name: "a/x"}, {Name: "b/x", Labels: map[string]string{"app": "web", "tier": "front"}}, {Name: "plain", Labels: map[string]string{"app": "db"}},
}

// agree holds a table against the reference, which asks the rules one by one.
func agree(t *testing.T, r random) {
	t.Helper()
	all := r.policies()
	table, err := policy.Compile(all, policy.NewLedger())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range someWorkloads {
		n, err := table.Number(w)
		if err != nil {
			t.Fatal(err)
		}
		if table, err = table.With(n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			continue // nothing is asked
		}
		for range 60 {
			p := r.packet()
			got := table.Judge(n, &p)
			now, would := reference.Policies{All: all, Workload: w}.Fates(&p)
			if got.Allow != now.Passes || got.Fragment != now.Fragment {
				t.Fatalf("%+v of %+v: %+v %+v, the reference %+v\n%+v", p, w, got, got.Decision, now, all)
			}
			if plain := policyPlain(table, n, &p); plain && (!got.Allow || got.Audited() != 0) {
				t.Fatalf("%+v of %+v is plainly allowed, and judged %+v\n%+v", p, w, got, all)
			} else if !plain && !p.Later && !p.Overwrites && (p.Client || !p.Out || p.Asks && p.Proto == 6) && p.Proto != 47 && p.Proto != 1 && got.Allow && got.Audited() == 0 {
				t.Fatalf("%+v of %+v is allowed, and not plainly\n%+v", p, w, all)
			}
			if audited := got.Audited() != 0; audited != (now.Passes && !would.Passes) {
				t.Fatalf("%+v of %+v: audited %v, the reference: %+v, %+v if it were in force\n%+v", p, w, audited, now, would, all)
			}
		}
	}
}

// TestAgreesWithReference judges random packets by random policies.
func TestAgreesWithReference(t *testing.T) {
	for seed := range uint64(150) {
		agree(t, random{rand.New(rand.NewPCG(seed, 7))})
	}
}

// TestNamesTheRule: what is named is the rule that the reference finds.
func TestNamesTheRule(t *testing.T) {
	named := 0
	for seed := range uint64(200) {
		r := random{rand.New(rand.NewPCG(seed, 8))}
		all := r.policies()
		w := someWorkloads[r.IntN(4)]
		table, err := policy.Compile(all, policy.NewLedger())
		if err != nil {
			t.Fatal(err)
		}
		n, _ := table.Number(w)
		if table, err = table.With(n); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			p := policy.Packet{Out: true, Client: true, Remote: r.remote(), Proto: 6, Far: r.port()}
			if n == 0 {
				break
			}
			a := netip.AddrFrom4([4]byte{byte(p.Remote >> 24), byte(p.Remote >> 16), byte(p.Remote >> 8), byte(p.Remote)})
			want := reference.Policies{All: all, Workload: w}.Of(policy.Egress, a, 6, p.Far, false)
			got, id := table.Judge(n, &p), ""
			if rule := table.Rule(got.Rule); rule != nil {
				id = rule.ID()
				named++
			}
			if id != want.Rule || got.Allow != want.Allow {
				t.Fatalf("%+v: %q %v, the reference %+v\n%+v", p, id, got.Allow, want, all)
			}
		}
	}
	if named < 1000 {
		t.Errorf("only %d packets were decided by a rule: that proves little", named)
	}
}

// FuzzJudge is TestAgreesWithReference for seeds that the fuzzer thinks of.
func FuzzJudge(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { agree(t, random{rand.New(rand.NewPCG(a, b))}) })
}

// TestNumbersStay: a number means the same from one table to the next, and a table that
// gets what a number stands for leaves the one before as it was.
func TestNumbersStay(t *testing.T) {
	ledger := policy.NewLedger()
	web := policy.Policy{Name: "web", Subject: policy.Subject{Namespace: "a"}, Egress: []policy.Rule{
		{Action: policy.Deny, Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}}}
	first, err := policy.Compile([]policy.Policy{web}, ledger)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := first.Number(policy.Workload{Name: "a/x"})
	none, _ := first.Number(policy.Workload{Name: "b/x"})
	second, err := first.With(n)
	if err != nil || n == 0 || none != 0 || first.Has(n) || !second.Has(n) {
		t.Fatalf("numbers %d and %d, %v, %v %v", n, none, err, first.Has(n), second.Has(n))
	}
	p := policy.Packet{Out: true, Client: true, Remote: 203<<24 | 113<<8 | 9, Proto: 17}
	if v := second.Judge(n, &p); v.Allow || second.Rule(v.Rule).ID() != "web egress[0]" {
		t.Errorf("%+v", v)
	}
	if v := first.Judge(n, &p); v.Allow {
		t.Errorf("a table without the number lets pass: %+v", v)
	}
	web.Egress[0].Networks[0] = netip.MustParsePrefix("198.51.100.0/24")
	third, err := policy.Compile([]policy.Policy{{Name: "other"}, web}, ledger)
	if err != nil {
		t.Fatal(err)
	}
	if third, err = third.With(n); err != nil {
		t.Fatal(err)
	}
	if v := third.Judge(n, &p); !v.Allow {
		t.Errorf("by the rule before: %+v", v)
	}
	again, _ := third.Number(policy.Workload{Name: "a/x"})
	if again == n {
		t.Error("what other policies select, too, has the same number")
	}
}

// TestNoAllocations: judging makes nothing.
func TestNoAllocations(t *testing.T) {
	table, n := large(t, 100, 1000)
	p := policy.Packet{Out: true, Client: true, Proto: 6, Far: 443}
	if got := testing.AllocsPerRun(1000, func() { p.Remote += 0x01234567; table.Judge(n, &p) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// large is a table of so many rules, with so many networks in all, for one workload.
func large(t testing.TB, rules, networks int) (*policy.Table, uint16) {
	t.Helper()
	table, err := policy.Compile(many(rules, networks), policy.NewLedger())
	if err != nil {
		t.Fatal(err)
	}
	n, err := table.Number(policy.Workload{Name: "a/x"})
	if err != nil {
		t.Fatal(err)
	}
	if table, err = table.With(n); err != nil {
		t.Fatal(err)
	}
	return table, n
}

// many are policies of 25 rules each, as the API allows, with networks anywhere.
func many(rules, networks int) (all []policy.Policy) {
	r := rand.New(rand.NewPCG(1, 2))
	for rules > 0 {
		p := policy.Policy{Name: fmt.Sprint("p", len(all)), Priority: len(all)}
		for range min(25, rules) {
			rule := policy.Rule{Action: policy.Action(r.IntN(2)), Protocols: []policy.Protocol{
				{Number: 6, Ports: ports.Single(443)}, {Number: 17, Ports: ports.Range{First: 8000, Last: 9000}}}}
			for range networks / rules {
				a := netip.AddrFrom4([4]byte{byte(1 + r.IntN(220)), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
				n, _ := a.Prefix(16 + r.IntN(17))
				rule.Networks = append(rule.Networks, n)
			}
			p.Egress = append(p.Egress, rule)
			networks -= networks / rules
			rules--
		}
		all = append(all, p)
	}
	all = append(all, policy.Policy{Name: "rest", Tier: policy.Baseline, Egress: []policy.Rule{
		{Action: policy.Deny, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}})
	return all
}

func BenchmarkCompile(b *testing.B) {
	all := many(10_000, 100_000)
	for b.Loop() {
		table, err := policy.Compile(all, policy.NewLedger())
		if err != nil {
			b.Fatal(err)
		}
		n, _ := table.Number(policy.Workload{Name: "a/x"})
		if table, err = table.With(n); err != nil {
			b.Fatal(err)
		}
		classes, cells, bytes := table.Size()
		b.ReportMetric(float64(classes), "classes")
		b.ReportMetric(float64(cells), "cells")
		b.ReportMetric(float64(bytes)/1e6, "MB")
	}
}

func BenchmarkJudge(b *testing.B) {
	for _, size := range []struct{ rules, networks int }{{10, 100}, {10_000, 100_000}} {
		table, n := large(b, size.rules, size.networks)
		r := rand.New(rand.NewPCG(3, 4))
		remotes := make([]uint32, 1<<16)
		for i := range remotes {
			remotes[i] = r.Uint32()
		}
		for _, spread := range []int{16, 1 << 16} {
			b.Run(fmt.Sprintf("%d rules of %d networks, %d remotes", size.rules, size.networks, spread), func(b *testing.B) {
				p := policy.Packet{Out: true, Client: true, Proto: 6, Far: 443}
				i := 0
				for b.Loop() {
					p.Remote = remotes[i&(spread-1)]
					i++
					table.Plain(n, policy.Egress, p.Remote, 6, 443)
				}
			})
		}
	}
}
