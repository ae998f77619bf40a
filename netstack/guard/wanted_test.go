package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/netstack/internal/nexthops"
	"github.com/natless/natless/translator/mapping"
)

// made is a host of the tests: br0 (2) with ports p1 and p2 (3, 4), veth (5),
// lan (6) with a router and uplink (7) with IPv4's default route.
func made() *host {
	p := netip.MustParsePrefix
	h := &host{
		links: map[int]link{1: {name: "lo"}, 2: {name: "br0", bridge: true}, 3: {name: "p1", master: 2}, 4: {name: "p2", master: 2},
			5: {name: "veth"}, 6: {name: "lan"}, 7: {name: "uplink"}, 8: {name: "natless0"}},
		byName: map[string]int{}, addresses: map[int][]netip.Addr{2: {netip.MustParseAddr("fe80::1")}}, defaults: map[int]bool{7: true},
		hops: nexthops.Of(map[netip.Prefix]nexthops.Hop{
			p("2001:db8:1::/64"): {Interface: 2}, p("2001:db8:2::1/128"): {Interface: 5}, p("2001:db8:3::/64"): {Interface: 6},
			p("2001:db8:4::/48"): {Interface: 6, Gateway: true}, p("2001:db8:5::/64"): {Interface: 7}, p("64:ff9b::/96"): {Interface: 8},
			p("2001:db8:7::8/126"): {Interface: 5}, p("2001:db8:8::/64"): {}, p("::/0"): {Interface: 7, Gateway: true},
		}),
	}
	for i, l := range h.links {
		h.byName[l.name] = i
	}
	return h
}

// told is what the sets hold, as people write it.
func (d *desired) told(h *host) []string {
	var out []string
	for set, all := range d.sets {
		for key := range all {
			line := set
			for i := range h.links {
				if len(key)%16 == 4 && key[:4] == string(index(i)) {
					line += " " + h.links[i].name
					key = key[4:]
					break
				}
			}
			for ; len(key) >= 16; key = key[16:] {
				line += " " + netip.AddrFrom16([16]byte([]byte(key[:16]))).String()
			}
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		name    string
		mapped  []string          // IPv6 prefixes
		named   map[string]string // their interfaces
		want    []string
		lacking []string
	}{
		{name: "a link of its own", mapped: []string{"2001:db8:2::1/128"}, want: []string{"attached veth", "sources 2001:db8:2::1"}},
		{name: "named ports", mapped: []string{"2001:db8:1::1/128", "2001:db8:1::2/128"}, named: map[string]string{"2001:db8:1::1": "p1", "2001:db8:1::2": "p2"},
			want: []string{"at p1 2001:db8:1::1", "at p2 2001:db8:1::2", "attached br0", "own p1 fe80::1", "own p2 fe80::1", "ports p1", "ports p2",
				"sources 2001:db8:1::1", "sources 2001:db8:1::2", "theirs 2001:db8:1::1", "theirs 2001:db8:1::2", "watched p1", "watched p2"}},
		{name: "one of two ports named", mapped: []string{"2001:db8:1::1/128", "2001:db8:1::2/128"}, named: map[string]string{"2001:db8:1::1": "p1"},
			want: []string{"at p1 2001:db8:1::1", "attached br0", "own p1 fe80::1", "ports p1", "sources 2001:db8:1::1", "sources 2001:db8:1::2",
				"theirs 2001:db8:1::1", "watched p1", "watched p2"},
			lacking: []string{"1 workloads are at ports of bridge br0 that nobody named (host_interface): who is on it can use their addresses, if the bridge lets it"}},
		{name: "a name that is gone", mapped: []string{"2001:db8:2::1/128"}, named: map[string]string{"2001:db8:2::1": "gone"},
			want: []string{"attached veth", "sources 2001:db8:2::1"}},
		{name: "behind a router", mapped: []string{"2001:db8:4::1/128"}},
		{name: "behind a router and on the link", mapped: []string{"2001:db8:4::1/128", "2001:db8:3::1/128", "2001:db8:3::2/128"},
			want: []string{"sources 2001:db8:3::1", "sources 2001:db8:3::2"},
			lacking: []string{"2 workloads share the link of lan, which is not a bridge of this host: who is on it can use their addresses",
				"there are workloads on the link of lan, and others behind a router there: ICMPv6 errors of whoever is on that link are believed"}},
		{name: "on the uplink", mapped: []string{"2001:db8:5::1/128"}, want: []string{"sources 2001:db8:5::1"}},
		{name: "nowhere", mapped: []string{"2001:db8:8::1/128"}},
		{name: "a prefix", mapped: []string{"2001:db8:1::10/124", "2001:db8:1::14/126", "2001:db8:1::20/124"},
			want:    []string{"attached br0", "ranges 2001:db8:1::10 2001:db8:1::2f"},
			lacking: []string{"3 workloads are at ports of bridge br0 that nobody named (host_interface): who is on it can use their addresses, if the bridge lets it"}},
		{name: "a prefix with a route to a part", mapped: []string{"2001:db8:7::/120"}, want: []string{"attached veth", "ranges 2001:db8:7::8 2001:db8:7::b"}},
		{name: "the translation prefix", mapped: []string{"64:ff9b::1/128"}, want: []string{"sources 64:ff9b::1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mappings []mapping.Mapping
			named := map[netip.Addr]Workload{}
			for i, p := range c.mapped {
				six := netip.MustParsePrefix(p)
				m := mapping.Mapping{IPv6: six, IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(100 + i), 0}), max(six.Bits()-96, 24))}
				if six.IsSingleIP() {
					m.IPv4 = netip.PrefixFrom(m.IPv4.Addr(), 32)
				}
				mappings = append(mappings, m)
				if name := c.named[six.Addr().String()]; name != "" {
					named[six.Addr()] = Workload{Mapping: m, Interface: name}
				}
			}
			table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), mappings)
			if err != nil {
				t.Fatal(err)
			}
			h := made()
			d := h.wanted(Config{Device: "natless0", Uplink: "uplink"}, table, lookup(named))
			if diff := cmp.Diff(c.want, d.told(h)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			m := &Manager{host: h, want: d}
			if diff := cmp.Diff(c.lacking, m.lacking()); diff != "" {
				t.Errorf("lacking: (-want +got)\n%s", diff)
			}
			// One by one it comes to the same.
			one := newDesired()
			for _, m := range mappings {
				w, ok := named[m.IPv6.Addr()]
				if !ok {
					w.Mapping = m
				}
				h.place(Config{Device: "natless0", Uplink: "uplink"}, w, one)
			}
			h.inner(Config{Device: "natless0"}, table, one)
			one.sets[rangesSet] = joined(one.sets[rangesSet])
			if diff := cmp.Diff(d.sets, one.sets); diff != "" {
				t.Errorf("one by one: %s", diff)
			}
		})
	}
}

// BenchmarkWanted is a look at ten thousand workloads at a thousand ports.
func BenchmarkWanted(b *testing.B) {
	h := made()
	var mappings []mapping.Mapping
	named := map[netip.Addr]Workload{}
	for i := range 10000 {
		port := 100 + i%1000
		name := fmt.Sprint("port", port)
		h.links[port], h.byName[name] = link{name: name, master: 2}, port
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", i+16))
		m := mapping.Mapping{IPv6: netip.PrefixFrom(a, 128), IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)}), 32)}
		mappings, named[a] = append(mappings, m), Workload{Mapping: m, Interface: name}
	}
	table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), mappings)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.wanted(Config{Device: "natless0"}, table, lookup(named))
	}
}

// TestTextTellsDevice: rules are compared by their texts, so what a predecessor
// left with another device's name must have others.
func TestTextTellsDevice(t *testing.T) {
	one, two := attachedDef("natless0"), attachedDef("natless1")
	if sameRules(two.rules, &one) {
		t.Error("rules for another device are taken for ours")
	}
	if !sameRules(one.rules, &one) {
		t.Error("ours are not")
	}
}

func lookup(named map[netip.Addr]Workload) func(netip.Addr) (Workload, bool) {
	return func(a netip.Addr) (Workload, bool) { w, ok := named[a]; return w, ok }
}
