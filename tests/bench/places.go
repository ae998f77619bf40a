//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// place is where natless stands, other than between workloads with mappings and IPv4.
type place struct {
	keys     string            // of the configuration, in the place of a mapping
	up, down map[string]string // by namespace: what the place takes, and how it goes
}

var places = map[string]func(way) place{"edge": atEdge, "map-t": border}

// knownPlaces are the names of those.
func knownPlaces() []string { return []string{"edge", "map-t"} }

// atEdge is the host as the edge of a fabric without IPv4. The server has the address that
// relays reach IPv4 by, so that none is in the figures: the host alone is, as in the kernel's
// forwarding, of which it differs by the addresses.
func atEdge(w way) place {
	far := fabricOf(netip.MustParseAddr("192.0.2.2"))
	block := fmt.Sprintf("2001:db8:e0::%x", mapping.Addr4From(netip.MustParseAddr(w.ipv4))&0xffff)
	return place{
		keys: fmt.Sprintf("edge: {enabled: true, prefix: %q, mtu: 1500, blocks: [{ipv4: %s/32, ipv6: \"%s/128\"}]}\n%s", fabric, w.ipv4, block, mapped(w)),
		up: map[string]string{
			"s4": fmt.Sprintf("ip addr add %s/128 dev eth0 nodad; ip -6 route add %s/128 via 2001:db8:4::1 src %s", far, block, far),
			"x":  fmt.Sprintf("ip -6 route add %s via 2001:db8:4::2", fabric),
		},
		down: map[string]string{
			"s4": fmt.Sprintf("ip -6 route del %s/128; ip addr del %s/128 dev eth0", block, far),
			"x":  fmt.Sprintf("ip -6 route del %s", fabric),
		},
	}
}

const fabric = "2001:db8:f64::/96"

func fabricOf(a netip.Addr) netip.Addr {
	b := netip.MustParsePrefix(fabric).Addr().As16()
	copy(b[12:], a.AsSlice())
	return netip.AddrFrom16(b)
}

// border is the host as a border relay of MAP-T, and the workload a CE that has the upper half
// of an address's ports, where Linux takes its own from.
func border(w way) place {
	v4 := mapping.Addr4From(netip.MustParseAddr(w.ipv4))
	rule := mapt.Rule{IPv6: netip.MustParsePrefix("2001:db8:ce00::/62"), IPv4: netip.PrefixFrom(mapping.Addr4(v4), 31), EABits: 2}
	rules, err := mapt.New([]mapt.Rule{rule})
	if err != nil {
		panic(err)
	}
	a6, _, _ := rules.To6(v4, 40000)
	ce := a6.Addr()
	own := netip.PrefixFrom(ce, 64).Masked()
	return place{
		keys: fmt.Sprintf("map:\n  rules:\n    - {ipv6: \"%v\", ipv4: %v, ea_bits: %d, psid_offset: 0}\n", rule.IPv6, rule.IPv4, rule.EABits),
		up: map[string]string{
			"w6": fmt.Sprintf("ip addr add %s/128 dev lo nodad; ip -6 route add %s via 2001:db8:6::1 src %s", ce, w.prefix, ce),
			"x":  fmt.Sprintf("ip -6 route add %s via 2001:db8:6::2", own),
		},
		down: map[string]string{
			"w6": fmt.Sprintf("ip -6 route del %s; ip addr del %s/128 dev lo", w.prefix, ce),
			"x":  fmt.Sprintf("ip -6 route del %s", own),
		},
	}
}

// placed are the contenders of natless in a place, in each of its ways.
func (l *lab) placed(o options, variants []variant, first int) (list []*contender, err error) {
	for i, name := range o.places {
		make := places[name]
		if make == nil {
			return nil, fmt.Errorf("-places: %q: want some of %s", name, strings.Join(knownPlaces(), ", "))
		}
		for j, v := range variants[:min(2, len(variants))] {
			w := newWay(first + 2*i + j)
			p := make(w)
			full := "natless " + name
			if j > 0 {
				full = nameOf(j, name+" "+v.name)
			}
			list = append(list, &contender{name: full, target: w.target(), tidy: func() { _ = l.all(p.down) },
				begin: func() (*exec.Cmd, error) {
					if err := l.all(p.up); err != nil {
						return nil, err
					}
					return l.beginDaemon(o.daemon, w, p.keys+v.yaml)
				}})
		}
	}
	return list, nil
}

// all runs scripts in their namespaces.
func (l *lab) all(scripts map[string]string) error {
	for _, ns := range []string{"w6", "x", "s4"} {
		if s := scripts[ns]; s != "" {
			if err := l.in(ns, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// mapped is the mapping of the workload.
func mapped(w way) string {
	return fmt.Sprintf("mappings:\n  - {ipv6: \"%s\", ipv4: %s}\n", workload6, w.ipv4)
}

// named splits what a flag lists.
func named(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(name string) bool { return name == "" })
}
