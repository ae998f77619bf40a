//go:build linux

package daemon

import (
	"fmt"
	"net/netip"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// rules are those of MAP-T that are in force; nil: there are none.
func (d *Daemon) mapRules() *mapt.Rules { return d.host.Translator.Config().Rules }

// mapStatus is what came of each rule.
func (d *Daemon) mapStatus() (all []api.MapRule) {
	rules := d.mapRules()
	for i, r := range rules.All() {
		n := rules.Counts(i)
		if m := d.host.FastPath.Manager; m != nil {
			kernel, _ := m.RuleTraffic(rules, i) // what cannot be read counts as 0
			n.To4, n.To6 = n.To4+kernel.Sent.Packets, n.To6+kernel.Received.Packets
		}
		all = append(all, api.MapRule{Rule: r.String(), IPv6: r.IPv6, IPv4: r.IPv4, CEs: r.CEs(),
			To4: n.To4, To6: n.To6, Spoofed: n.Spoofed, Outside: n.Outside})
	}
	return all
}

// mapCheck says what people should know of rules.
func mapCheck(rules []mapt.Rule, fast bool) []api.Check {
	if len(rules) == 0 {
		return nil
	}
	ces := uint64(0)
	for _, r := range rules {
		ces += r.CEs()
	}
	detail := fmt.Sprintf("%s for up to %d CEs", words.Count(len(rules), "rule"), ces)
	if fast {
		detail += "; the fast path has a part in it where it stands: what is not plain, and CEs among themselves, are the daemon's"
	}
	return []api.Check{{Name: "map-t", State: "ok", Detail: detail}}
}

// customers4 are the CEs that have an IPv4 address, or a port of it (-1: any). Of many
// that share it, the first few are told.
func (d *Daemon) customers4(a netip.Addr, port int) (owners []api.Owner) {
	rules, a4 := d.mapRules(), mapping.Addr4From(a)
	if shared, ok := rules.At(a4); !ok {
		return nil
	} else if port >= 0 || !shared {
		return ce(rules, a4, uint16(max(port, 0)))
	}
	const most = 16
	seen := map[mapt.CE]bool{}
	for p := range 1 << 16 {
		_, ce6, ok := rules.To6(a4, uint16(p))
		if !ok || seen[ce6] {
			continue
		}
		if seen[ce6] = true; len(seen) > most {
			break
		}
		owners = append(owners, ce(rules, a4, uint16(p))...)
	}
	return owners
}

func ce(rules *mapt.Rules, a4 uint32, port uint16) []api.Owner {
	a6, found, ok := rules.To6(a4, port)
	if !ok {
		return nil
	}
	return []api.Owner{customer(rules, a6.Addr(), a4, found)}
}

func customer(rules *mapt.Rules, ipv6 netip.Addr, a4 uint32, found mapt.CE) api.Owner {
	return api.Owner{Kind: api.OwnerCE, IPv6: []netip.Addr{ipv6}, Address: mapping.Addr4(a4), Ports: found.Ports(),
		Detail: fmt.Sprintf("a CE of MAP-T, PSID %d, by the rule %v", found.PSID(), rules.All()[found.Rule()])}
}

// customer6 is the CE that has an IPv6 address, or in whose prefix it lies.
func (d *Daemon) customer6(a netip.Addr) []api.Owner {
	rules := d.mapRules()
	if a4, found, _, ok := rules.To4(mapping.Addr6From(a)); ok {
		return []api.Owner{customer(rules, a, a4, found)}
	}
	own, a4, found, ok := rules.Holder(a)
	if !ok {
		return nil
	}
	o := customer(rules, own, a4, found)
	o.Detail = fmt.Sprintf("%s; %v is in its prefix, and not the address by which it has IPv4", o.Detail, a)
	return []api.Owner{o}
}
