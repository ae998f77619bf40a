package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// slow is a relay that knows nothing but whole sets, and looks at each rule beside each.
type slow struct {
	boot  string
	epoch uint64
	rules []api.Rule
	ended []Ended
}

func (s slow) put(set api.RuleSet, boot string) (slow, api.Code) {
	if set.Epoch < s.epoch {
		return s, api.CodeStale
	}
	if set.Epoch == 0 {
		return s, api.CodeInvalid
	}
	for _, r := range set.Rules {
		if r.Lease == 0 || r.IPv4.IsSingleIP() != r.IPv6.IsSingleIP() || !r.IPv4.IsSingleIP() && !r.Ports.IsZero() {
			return s, api.CodeInvalid
		}
	}
	for i, r := range set.Rules {
		for _, o := range set.Rules[:i] {
			if r.IPv6.Overlaps(o.IPv6) || r.IPv4.Overlaps(o.IPv4) && (r.Ports.IsZero() || o.Ports.IsZero() || r.Ports.Overlaps(o.Ports)) {
				return s, api.CodeInvalid
			}
		}
	}
	for _, r := range set.Rules {
		for _, have := range s.rules {
			switch {
			case have.IPv4 != r.IPv4 || !have.Ports.Equal(r.Ports):
			case r.Lease < have.Lease:
				return s, api.CodeStale
			case r.Lease == have.Lease && r.IPv6 != have.IPv6:
				return s, api.CodeInvalid
			}
		}
	}
	next := slow{boot, set.Epoch, set.Rules, slices.Clone(s.ended)}
	for _, have := range s.rules {
		if slices.ContainsFunc(set.Rules, func(r api.Rule) bool {
			return r.IPv4 == have.IPv4 && r.Ports.Equal(have.Ports) && r.Lease == have.Lease
		}) {
			continue
		}
		next.ended = slices.DeleteFunc(next.ended, func(e Ended) bool {
			return e.IPv4 == have.IPv4 && e.Ports.Equal(have.Ports) && e.Lease <= have.Lease
		})
		if !slices.ContainsFunc(next.ended, func(e Ended) bool { return e.IPv4 == have.IPv4 && e.Ports.Equal(have.Ports) }) {
			next.ended = append(next.ended, Ended{IPv4: have.IPv4, Ports: have.Ports, Lease: have.Lease})
		}
	}
	for _, r := range set.Rules {
		for _, e := range next.ended {
			if e.IPv4.Overlaps(r.IPv4) && (e.Ports.IsZero() || r.Ports.IsZero() || e.Ports.Overlaps(r.Ports)) && r.Lease <= e.Lease {
				return s, api.CodeStale
			}
		}
	}
	return next, ""
}

// lines is a state as text, in one order.
func lines(boot string, epoch uint64, rules []api.Rule, ended []Ended) []string {
	all := []string{fmt.Sprint(boot, " ", epoch)}
	for _, r := range rules {
		all = append(all, fmt.Sprint("rule ", r.IPv4, r.Ports, r.IPv6, r.Lease))
	}
	for _, e := range ended {
		all = append(all, fmt.Sprint("ended ", e.IPv4, e.Ports, e.Lease))
	}
	slices.Sort(all)
	return all
}

// drawn is rules and what goes, drawn out of few addresses: they meet all the time.
type drawn struct {
	*rand.Rand
	lease uint64
}

func (d *drawn) rule() api.Rule {
	d.lease++
	bits := []int{32, 32, 32, 32, 31, 30}[d.IntN(6)]
	r := api.Rule{IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(d.IntN(16))}), bits).Masked(), Lease: d.lease}
	to := [16]byte{0x20, 1, 0xd, 0xb8, 15: byte(d.IntN(64))}
	r.IPv6 = netip.PrefixFrom(netip.AddrFrom16(to), 96+bits).Masked()
	if bits == 32 {
		r.Ports = []ports.Set{{}, {}, ports.MustParse("0-1023"), ports.MustParse("1024-2047,4096"), ports.MustParse("512-1500")}[d.IntN(5)]
	}
	switch d.IntN(24) {
	case 0:
		r.Lease = uint64(d.IntN(int(d.lease)))
	case 1:
		r.Lease = 0
	}
	return r
}

// next is another set of rules, with how it differs: by block, each has one.
func (d *drawn) next(rules []api.Rule) (all []api.Rule, delta api.RuleDelta) {
	come := map[lent]api.Rule{}
	for range d.IntN(4) {
		r := d.rule()
		come[lentBy(r)] = r
	}
	if len(rules) > 0 && d.IntN(3) == 0 { // to somebody else
		r := rules[d.IntN(len(rules))]
		r.IPv6 = d.rule().IPv6
		if r.Lease += uint64(d.IntN(3)) - 1; r.IPv6.Bits() == 96+r.IPv4.Bits() {
			come[lentBy(r)] = r
		}
	}
	for _, r := range rules {
		switch _, other := come[lentBy(r)]; {
		case other:
		case d.IntN(6) == 0:
			delta.Gone = append(delta.Gone, Ended{IPv4: r.IPv4, Ports: r.Ports, Lease: r.Lease})
		default:
			all = append(all, r)
		}
	}
	for _, r := range come {
		delta.Rules = append(delta.Rules, r)
	}
	d.Shuffle(len(delta.Rules), func(i, j int) { delta.Rules[i], delta.Rules[j] = delta.Rules[j], delta.Rules[i] })
	all = append(all, delta.Rules...)
	var sum api.RuleSum
	for _, r := range all {
		sum.Add(r)
	}
	delta.Digest = sum.String()
	return all, delta
}

func codeOf(err error) api.Code {
	if p := (*api.Problem)(nil); errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// TestDeltas: a series of deltas comes to what whole sets come to that are looked at rule by rule,
// is refused where these are, and says what goes and comes; also where the state was on disk
// meanwhile, where an answer was lost, and where a whole set comes in between.
func TestDeltas(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	d := &drawn{Rand: rand.New(rand.NewPCG(seed, 0))}
	t.Logf("seed %d", seed)
	by := RelayAsked{Boot: "now"}
	fast, _, err := Relay{}.Apply(api.RuleSet{Epoch: 1}, by)
	if err != nil {
		t.Fatal(err)
	}
	reference := slow{boot: "now", epoch: 1}
	count := map[string]int{}
	for step := range 10_000 {
		if step%500 == 499 { // else soon nothing fits any more
			fast, reference = NewRelay("now", 1, nil, nil), slow{boot: "now", epoch: 1}
			d.lease = 0
		}
		rules, delta := d.next(reference.rules)
		delta.Base, delta.Epoch = fast.Digest(), fast.Epoch+uint64(d.IntN(3))
		if d.IntN(50) == 0 {
			delta.Epoch--
		}
		set := api.RuleSet{Epoch: delta.Epoch, Rules: rules}
		for _, l := range delta.Gone {
			set.Fenced = append(set.Fenced, l.IPv4)
		}
		want, code := reference.put(set, "now")
		before := fast
		var got Relay
		if d.IntN(8) == 0 {
			got, _, err = fast.Apply(set, by)
		} else {
			var x Exchange
			if got, x, err = fast.Change(delta, by); err == nil {
				exchanges(t, before.Rules(), x, got.Rules())
			}
		}
		if codeOf(err) != code {
			t.Fatalf("step %d: %+v on %v: %v, want %q", step, delta, lines("", before.Epoch, before.Rules(), before.Ended()), err, code)
		}
		if is, wanted := lines(got.Boot, got.Epoch, got.Rules(), got.Ended()), lines(want.boot, want.epoch, want.rules, want.ended); !slices.Equal(is, wanted) {
			t.Fatalf("step %d: %v, want %v", step, is, wanted)
		}
		if d.IntN(16) == 0 && err == nil {
			again, _, err := got.Change(delta, by)
			if err != nil || !again.Same(got) {
				t.Fatalf("step %d: told again: %v", step, err)
			}
			if _, _, err := before.Change(api.RuleDelta{Base: "of another", Digest: delta.Digest, Epoch: delta.Epoch}, by); err == nil && got.Digest() != before.Digest() {
				t.Fatalf("step %d: a change of other rules is taken", step)
			}
		}
		count[string(code)]++
		if fast, reference = got, want; d.IntN(16) == 0 {
			fast = onceMore(t, fast)
		}
		if !before.Same(onceMore(t, before)) {
			t.Fatalf("step %d changed the state before it", step)
		}
	}
	t.Log(count)
	for _, code := range []api.Code{"", api.CodeInvalid, api.CodeStale} {
		if count[string(code)] < 300 {
			t.Errorf("%q: %d times", code, count[string(code)])
		}
	}
}

// onceMore is a state as the disk gives it back, with sums that are made anew.
func onceMore(t *testing.T, r Relay) (again Relay) {
	t.Helper()
	b, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(b, &again)
	}
	if err != nil || again.Digest() != r.Digest() || again.LastLease() != r.LastLease() {
		t.Fatalf("%s: %v, %s, %d and %d", b, err, again.Digest(), r.LastLease(), again.LastLease())
	}
	return again
}

// exchanges: what goes and comes makes the one of the other.
func exchanges(t *testing.T, before []api.Rule, x Exchange, after []api.Rule) {
	t.Helper()
	for _, r := range x.Gone {
		i := slices.IndexFunc(before, func(o api.Rule) bool { return sameRule(o, r) })
		if i < 0 {
			t.Fatalf("%+v goes and was not there", r)
		}
		before = slices.Delete(before, i, i+1)
	}
	if !slices.Equal(lines("", 0, append(before, x.Come...), nil), lines("", 0, after, nil)) {
		t.Fatalf("%+v makes %v of %v", x, after, before)
	}
}

func sameRule(a, b api.Rule) bool {
	return a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && a.Lease == b.Lease && a.Ports.Equal(b.Ports)
}

// TestDeltaRefused: what a set must be told for.
func TestDeltaRefused(t *testing.T) {
	t.Parallel()
	by := RelayAsked{Boot: "now"}
	start, _, err := Relay{}.Apply(ruleSet(7, ruleA, ruleB, ruleC, shared, beside), by)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(rules ...string) string {
		var sum api.RuleSum
		for _, text := range rules {
			sum.Add(rule(text))
		}
		return sum.String()
	}
	loan := func(text string, lease uint64) api.Loan {
		r := rule(text)
		return api.Loan{IPv4: r.IPv4, Ports: r.Ports, Lease: lease}
	}
	for _, c := range []struct {
		name  string
		boot  string
		delta api.RuleDelta
		want  error
		field string
	}{
		{"a rule less, that is not said to go", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Digest: sum(ruleA, ruleB, ruleC, shared)}, api.ErrStale, "digest"},
		{"an end of no loan", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Gone: []api.Loan{loan(ruleA, 2)}}, api.ErrInvalid, "gone[0].lease"},
		{"an end of all of an address", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Gone: []api.Loan{loan("198.51.100.9/32 ::/128 0", 4)}}, api.ErrInvalid, "gone[0].lease"},
		{"an end twice", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Gone: []api.Loan{loan(ruleA, 1), loan(ruleA, 1)}}, api.ErrInvalid, "gone[1].lease"},
		{"an end of nothing", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Gone: []api.Loan{{}}}, api.ErrInvalid, "gone[0].ipv4"},
		{"an end of IPv6", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Gone: []api.Loan{{IPv4: netip.MustParsePrefix("2001:db8::/32"), Lease: 1}}}, api.ErrInvalid, "gone[0].ipv4"},
		{"a rule that changes nothing, as it says", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Digest: start.Digest(),
			Rules: []api.Rule{rule("198.51.100.77/32 2001:db8::77/128 9")}}, api.ErrStale, "digest"},
		{"a rule that is none and changes nothing", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Digest: start.Digest(), Rules: []api.Rule{{}}}, api.ErrInvalid, "rules[0].ipv4"},
		{"other rules", "now", api.RuleDelta{Epoch: 8, Base: sum(ruleA)}, api.ErrStale, "base"},
		{"an older epoch", "now", api.RuleDelta{Epoch: 6, Base: start.Digest(), Digest: start.Digest()}, api.ErrStale, "epoch"},
		{"a relay that was booted", "then", api.RuleDelta{Epoch: 7, Base: start.Digest(), Digest: start.Digest()}, api.ErrStale, "base"},
		{"nothing", "now", api.RuleDelta{Epoch: 9, Base: start.Digest(), Digest: start.Digest()}, nil, ""},
		{"an end", "now", api.RuleDelta{Epoch: 8, Base: start.Digest(), Digest: sum(ruleA, ruleB, ruleC, beside), Gone: []api.Loan{loan(shared, 4)}}, nil, ""},
	} {
		next, _, err := start.Change(c.delta, RelayAsked{Boot: c.boot})
		p := new(api.Problem)
		if !errors.Is(err, c.want) || errors.As(err, &p) && p.Field != c.field {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && !next.Same(start) {
			t.Errorf("%s was refused, and changed something", c.name)
		}
	}
	if _, _, err := (Relay{}).Change(api.RuleDelta{Epoch: 1, Digest: sum(ruleA), Base: Relay{}.Digest(), Rules: []api.Rule{rule(ruleA)}}, by); !errors.Is(err, api.ErrStale) {
		t.Errorf("to a relay that was told nothing: %v", err)
	}
}

// BenchmarkSet: the whole of many rules, one of them another.
func BenchmarkSet(b *testing.B) {
	set := api.RuleSet{Epoch: 1}
	for i := range 16_384 {
		set.Rules = append(set.Rules, ruleNumber(i, 1))
	}
	var state Relay
	for b.Loop() {
		set.Epoch++
		set.Rules[int(set.Epoch)%len(set.Rules)].Lease++
		var err error
		if state, _, err = state.Apply(set, RelayAsked{Boot: "now"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDelta: one change of many rules, and of few.
func BenchmarkDelta(b *testing.B) {
	for _, n := range []int{16, 1024, 16_384} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var rules []api.Rule
			for i := range n {
				rules = append(rules, ruleNumber(i, 1))
			}
			state := NewRelay("now", 1, rules, nil)
			for i := 0; b.Loop(); i++ {
				one, sum := ruleNumber(i%n, uint64(i/n+2)), state.entries().sum
				sum.Remove(ruleNumber(i%n, uint64(i/n+1)))
				sum.Add(one)
				var err error
				if state, _, err = state.Change(api.RuleDelta{Base: state.Digest(), Digest: sum.String(), Epoch: uint64(i + 2), Rules: []api.Rule{one}}, RelayAsked{Boot: "now"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
