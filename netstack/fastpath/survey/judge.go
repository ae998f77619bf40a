//go:build linux

package survey

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator/special"
)

// Rules are judged by what they could do to a packet of ours, in any of the forms
// and places in which it passes netfilter. What surely does not match does not
// matter, what surely accepts ends a chain, and anything but accepting that could
// be done is said. An expression that is not known could do anything.

// leg is a form and place of packets of ours.
type leg struct {
	name     string
	family   byte     // NFPROTO_IPV4 or NFPROTO_IPV6
	in, out  []string // names of interfaces; nil: any
	src, dst prefixes
	never    prefixes // where neither source nor destination are from, where they are not known
}

// legs are all of them: a packet comes in for the device, and out of it.
func legs(o Ours) []leg {
	device, never := []string{o.Device}, append(neverTranslated, o.Elsewhere...)
	if o.GlobalOnly {
		never = append(never, notGlobal...)
	}
	from := leg{name: "IPv6 from workloads", family: unix.NFPROTO_IPV6, in: o.Workloads, out: device, src: o.Mapped6, dst: prefixes{o.Prefix}}
	to := leg{name: "IPv6 from " + o.Device, family: unix.NFPROTO_IPV6, in: device, out: o.Workloads, src: prefixes{o.Prefix}, dst: o.Mapped6}
	if o.Relays.IsValid() {
		return []leg{
			from,
			{name: "IPv6 to relays", family: unix.NFPROTO_IPV6, in: device, out: o.Uplinks, src: o.Blocks, dst: prefixes{o.Relays}},
			{name: "IPv6 from relays", family: unix.NFPROTO_IPV6, in: o.Uplinks, out: device, src: prefixes{o.Relays}, dst: o.Blocks},
			to,
		}
	}
	return []leg{
		from,
		{name: "IPv4 from " + o.Device, family: unix.NFPROTO_IPV4, in: device, out: o.Uplinks, src: o.Mapped4, never: never},
		{name: "IPv4 to workloads", family: unix.NFPROTO_IPV4, in: o.Uplinks, out: device, dst: o.Mapped4, never: never},
		to,
	}
}

// neverTranslated and notGlobal are destinations that the program passes on, of
// those it does not take to be IPv4 addresses of the host or of workloads.
var (
	neverTranslated = passedOn(func(e special.Entry) bool { return e.Never })
	notGlobal       = passedOn(func(e special.Entry) bool { return !e.Never && !e.Global })
)

// passedOn are the IPv4 entries that which is true of, two halves as one, but for
// those around addresses that another entry says otherwise of.
func passedOn(which func(special.Entry) bool) (all prefixes) {
	for _, e := range special.Registry {
		mixed := slices.ContainsFunc(special.Registry, func(o special.Entry) bool {
			return e.Prefix.Overlaps(o.Prefix) && o.Global
		})
		if !e.Prefix.Addr().Is4() || !which(e) || mixed {
			continue
		}
		if n := len(all); n > 0 && half(all[n-1]) == half(e.Prefix) && all[n-1].Bits() == e.Prefix.Bits() {
			all[n-1] = half(e.Prefix)
		} else {
			all = append(all, e.Prefix)
		}
	}
	return slices.Clip(all)
}

// half is what p is one half of.
func half(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
}

const (
	verdictNone   = int32(0x7fffffff)
	verdictDrop   = 0
	verdictAccept = 1
	verdictJump   = -3
	verdictGoto   = -4
	verdictReturn = -5
	verdictGoOn   = -1
)

// OwnTable says that an nftables table of that name is natless's: packages route
// and guard have one each, and the fast path does what they do.
func OwnTable(name string) bool { return name == "natless" || name == "natless-guard" }

// verdictCache is what chains do, by leg.
type verdictCache struct {
	rules    *rules
	links    interfaces
	outcomes map[string]outcome
}

// outcome is what becomes of packets in a chain.
type outcome struct {
	harm     string // what could be done to one; "": nothing
	accepted bool   // all are, surely
}

// judged is what rules came to when they were last judged, and for whom.
type judged struct {
	ours   Ours
	links  interfaces
	passed Passed
}

// netfilter judges rules, as long as nothing has changed only once.
func (s *Survey) netfilter(o Ours, l interfaces, p *Passed) error {
	changed, err := s.nft.refresh()
	if err != nil {
		s.judged.links = nil
		return err
	}
	if j := &s.judged; changed || !maps.Equal(j.links, l) || !reflect.DeepEqual(j.ours, o) {
		*j = judged{o, l, Passed{Interfaces: map[int]string{}}}
		s.judge(o, l, &j.passed)
	}
	if s.judged.passed.Host != "" {
		p.host("%s", s.judged.passed.Host)
	}
	for i, what := range s.judged.passed.Interfaces {
		p.at(i, "%s", what)
	}
	return nil
}

func (s *Survey) judge(o Ours, l interfaces, p *Passed) {
	v := &verdictCache{rules: &s.nft, links: l, outcomes: map[string]outcome{}}
	inOrder := func(a, b *chain) int { return strings.Compare(a.key.String(), b.key.String()) } // what is told is always the same
	for _, c := range slices.SortedFunc(maps.Values(s.nft.chains), inOrder) {
		if !c.hooked || OwnTable(c.key.table) || s.nft.dormant[chainKey{family: c.key.family, table: c.key.table}] {
			continue
		}
		if c.key.family == unix.NFPROTO_NETDEV || c.key.family == unix.NFPROTO_INET && c.hook == 5 {
			v.atDevices(c, o, l, p)
			continue
		}
		if c.hook == unix.NF_INET_LOCAL_IN || c.hook == unix.NF_INET_LOCAL_OUT {
			continue
		}
		for _, g := range legs(o) {
			if c.key.family != g.family && c.key.family != unix.NFPROTO_INET {
				continue
			}
			if c.hook == unix.NF_INET_PRE_ROUTING {
				g.out = nil
			}
			if harm := v.base(c, g); harm != "" {
				p.host("%s (%s)", harm, g.name)
			}
		}
	}
}

// atDevices judges a chain at the ingress or the egress of interfaces. A packet
// that a program at an ingress sends on meets none at the egress, at any interface.
func (v *verdictCache) atDevices(c *chain, o Ours, l interfaces, p *Passed) {
	for name, index := range l {
		hooked := slices.Contains(c.devices, name) ||
			slices.ContainsFunc(c.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !hooked {
			continue
		}
		for _, g := range legs(o) {
			switch from := len(g.in) == 1 && g.in[0] == o.Device; {
			case c.hook == 1 && c.key.family == unix.NFPROTO_NETDEV: // NF_NETDEV_EGRESS
				if from == (name == o.Device) {
					continue // they leave by another
				}
				g.in, g.out = nil, []string{name}
				if harm := v.base(c, g); harm != "" {
					p.host("%s at the egress of %s", harm, name)
				}
			case name == o.Device:
				if !from {
					continue
				}
				if harm := v.base(c, g); harm != "" {
					p.host("%s at %s", harm, name)
				}
			case from: // they come in at the device
			default:
				g.in, g.out = []string{name}, nil
				if harm := v.base(c, g); harm != "" {
					p.at(index, "%s at its ingress", harm)
				}
			}
		}
	}
}

// base judges a chain at a hook, with its policy.
func (v *verdictCache) base(c *chain, g leg) string {
	r := v.chain(c, g)
	if r.harm == "" && !r.accepted && c.drops {
		return fmt.Sprintf("policy drop of chain %s", c.key)
	}
	return r.harm
}

func (k chainKey) String() string {
	family := map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
		unix.NFPROTO_NETDEV: "netdev"}[k.family]
	return strings.TrimSpace(family + " " + k.table + " " + k.name)
}

func (v *verdictCache) chain(c *chain, g leg) (r outcome) {
	at := fmt.Sprint(c.key, g.name, g.in, g.out)
	if r, ok := v.outcomes[at]; ok {
		return r
	}
	v.outcomes[at] = outcome{} // a chain that leads to itself: the kernel allows none
	defer func() { v.outcomes[at] = r }()
	for i := range c.rules {
		s := v.rule(c, &c.rules[i], g)
		if s.harm != "" {
			return outcome{harm: s.harm}
		}
		if s.accepted {
			return outcome{accepted: true}
		}
		if s.ends {
			return outcome{}
		}
	}
	return outcome{}
}

// step is what becomes of packets at a rule.
type step struct {
	outcome
	ends bool // none goes on in this chain
}

func (v *verdictCache) rule(c *chain, u *rule, g leg) (s step) {
	harm := func(what string) step {
		return step{outcome: outcome{harm: fmt.Sprintf("%s in chain %s, rule with handle %d", what, c.key, u.handle)}}
	}
	m := matcher{leg: g, links: v.links, registers: map[uint32]field{}}
	sure := true
	for i := range u.exprs {
		e := &u.exprs[i]
		matches, effect := m.expression(e)
		if effect != "" {
			return harm(effect)
		}
		if matches == no {
			return step{}
		}
		if e.name == "lookup" && v.outside(c, e, &m) {
			return step{}
		}
		sure = sure && matches == yes
		verdicts, err := v.verdicts(c, e, &m)
		if err != nil {
			return harm("a map that cannot be read (" + err.Error() + ")")
		}
		for _, d := range verdicts {
			r := v.apply(c, d, g, sure && len(verdicts) == 1 && e.name == "immediate")
			if r.harm == dropped {
				return harm("drop")
			}
			if r.harm != "" || r.accepted || r.ends {
				return r
			}
		}
	}
	return step{}
}

// outside says that what a rule looks for in a set is surely not in it.
func (v *verdictCache) outside(c *chain, e *expression, m *matcher) bool {
	a := e.attributes()
	if a[unix.NFTA_LOOKUP_DREG] != nil || number(a[unix.NFTA_LOOKUP_FLAGS])&1 != 0 { // a map; NFT_LOOKUP_F_INV
		return false
	}
	key := chainKey{family: c.key.family, table: c.key.table, name: text(a[unix.NFTA_LOOKUP_SET])}
	if v.rules.dynamic[key] {
		return false
	}
	all, err := v.rules.elements(key)
	of := m.registers[number(a[unix.NFTA_LOOKUP_SREG])]
	return err == nil && !slices.ContainsFunc(all, func(x element) bool { return x.other || m.first(of, x.key) != no })
}

const dropped = "drop"

// verdicts are those that an expression may give.
func (v *verdictCache) verdicts(c *chain, e *expression, m *matcher) (list []verdict, err error) {
	a := e.attributes()
	switch e.name {
	case "immediate":
		if number(a[unix.NFTA_IMMEDIATE_DREG]) == unix.NFT_REG_VERDICT {
			return []verdict{immediateVerdict(a[unix.NFTA_IMMEDIATE_DATA])}, nil
		}
	case "lookup":
		if d, ok := a[unix.NFTA_LOOKUP_DREG]; !ok || number(d) != unix.NFT_REG_VERDICT {
			return nil, nil
		}
		key := chainKey{family: c.key.family, table: c.key.table, name: text(a[unix.NFTA_LOOKUP_SET])}
		all, err := v.rules.elements(key)
		if err != nil {
			return nil, err
		}
		of := m.registers[number(a[unix.NFTA_LOOKUP_SREG])]
		for _, x := range all {
			if x.verdict.code == verdictNone && x.other || !x.other && m.first(of, x.key) == no {
				continue
			}
			if !slices.Contains(list, x.verdict) {
				list = append(list, x.verdict)
			}
		}
	}
	return list, nil
}

// apply is what a verdict does.
func (v *verdictCache) apply(c *chain, d verdict, g leg, sure bool) (s step) {
	switch d.code {
	case verdictAccept:
		return step{outcome: outcome{accepted: sure}}
	case verdictReturn:
		return step{ends: sure}
	case verdictGoOn:
		return step{}
	case verdictJump, verdictGoto:
		to := v.rules.chains[chainKey{family: c.key.family, table: c.key.table, name: d.chain}]
		if to == nil {
			return step{outcome: outcome{harm: "chain " + d.chain + ", which cannot be found"}}
		}
		r := v.chain(to, g)
		r.accepted = r.accepted && sure
		return step{outcome: r, ends: sure && d.code == verdictGoto}
	}
	return step{outcome: outcome{harm: dropped}} // or a queue
}
