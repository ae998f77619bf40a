package doctor

import "github.com/natless/natless/cmd/internal/words"

// mapRules looks at what comes from the CEs of MAP-T.
func (v *visit) mapRules() {
	const check = "map-t"
	if v.status == nil || len(v.status.MAP) == 0 {
		return
	}
	for _, r := range v.status.MAP {
		const remedy = "compare the rule with what CEs are told (DHCPv6, RFC 7598): prefixes, ea_bits, psid_offset"
		switch {
		case r.To4 == 0 && r.Spoofed > 0:
			v.fail(check, remedy, "all that came from %s was dropped (%d packets): by the rule, no CE has such addresses", r.IPv6, r.Spoofed)
		case r.To4 == 0 && r.Outside > 0:
			v.fail(check, remedy, "all that came from %s was dropped (%d packets): by the rule, its CEs have other ports", r.IPv6, r.Outside)
		}
	}
	if v.sound(check) {
		v.ok(check, "%s; packets of CEs are translated for them", words.Count(len(v.status.MAP), "rule"))
	}
}
