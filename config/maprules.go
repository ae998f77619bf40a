package config

import (
	"errors"
	"net/netip"
	"strconv"

	"github.com/natless/natless/translator/mapt"
)

// MAP is what makes this host a border relay of MAP-T (RFC 7599).
type MAP struct {
	Rules []MapRule `yaml:"rules"`
}

// MapRule is a basic mapping rule (RFC 7597 5), which the CEs of a network go by, too.
// The prefix is their default mapping rule.
type MapRule struct {
	IPv6       netip.Prefix `yaml:"ipv6"`
	IPv4       netip.Prefix `yaml:"ipv4"`
	EABits     int          `yaml:"ea_bits"`
	PSIDOffset int          `yaml:"psid_offset"`
	PSIDLength int          `yaml:"psid_length"`
	PSID       uint16       `yaml:"psid"`
}

// setDefaults completes a rule: a is 6 where nobody says otherwise (RFC 7597 5.1).
func (r *MapRule) setDefaults(given map[string]bool) {
	if !given["psid_offset"] {
		r.PSIDOffset = 6
	}
}

func (r MapRule) translated() mapt.Rule { return mapt.Rule(r) }

// rules are the translator's. They have been looked at by Load and Parse.
func (m MAP) rules() *mapt.Rules {
	all := make([]mapt.Rule, len(m.Rules))
	for i, r := range m.Rules {
		all[i] = r.translated()
	}
	rules, err := mapt.New(all)
	if err != nil {
		return nil
	}
	return rules
}

// addresses4 are those that the CEs have.
func (m MAP) addresses4() (all []netip.Prefix) {
	for _, r := range m.Rules {
		if r.translated().Validate() == nil {
			all = append(all, r.IPv4)
		}
	}
	return all
}

// overlaps finds a rule that has an address of p.
func (m MAP) overlaps(p netip.Prefix) (key string, found bool) {
	for i, r := range m.Rules {
		own := r.IPv4
		if p.Addr().Is6() {
			own = r.IPv6
		}
		if own.IsValid() && own.Overlaps(p) {
			return "map.rules[" + strconv.Itoa(i) + "]", true
		}
	}
	return "", false
}

// has says that a rule has an address of p.
func (m MAP) has(p netip.Prefix) bool {
	_, found := m.overlaps(p)
	return found
}

func (v validator) mapRules() {
	v.check(len(v.MAP.Rules) <= mapt.Most, "map.rules", "%d are more than %d: the fast path holds packets against one after the other", len(v.MAP.Rules), mapt.Most)
	v.check(len(v.MAP.Rules) == 0 || v.Prefix.IsValid(), "map.rules", "a border relay needs a prefix: it is the CEs' default mapping rule (RFC 7599 5.1)")
	for i, r := range v.MAP.Rules {
		key := "map.rules[" + strconv.Itoa(i) + "]"
		if err := r.translated().Validate(); err != nil {
			if e, ok := errors.AsType[*mapt.Error](err); ok {
				key, err = key+"."+string(e.Field), e.Err
			}
			v.fail(key, err)
			continue
		}
		v.mapRule(key, r)
		for j, other := range v.MAP.Rules[:i] {
			v.check(!other.IPv6.Overlaps(r.IPv6), key+".ipv6", "%s overlaps map.rules[%d] (%s): of a CE nobody could say by which it goes", r.IPv6, j, other.IPv6)
			v.check(!other.IPv4.Overlaps(r.IPv4), key+".ipv4", "%s overlaps map.rules[%d] (%s): one address and port would have two CEs", r.IPv4, j, other.IPv4)
		}
	}
}

// mapRule holds a rule against what else has addresses.
func (v validator) mapRule(key string, r MapRule) {
	key6, key4 := key+".ipv6", key+".ipv4"
	v.check(!v.Prefix.IsValid() || !r.IPv6.Overlaps(v.Prefix), key6, "%s overlaps the prefix, %s", r.IPv6, v.Prefix)
	v.check(!r.IPv6.Contains(v.Addresses.IPv6), key6, "%s covers addresses.ipv6, which is the translator's own", r.IPv6)
	v.check(!r.IPv4.Contains(v.Addresses.IPv4), key4, "%s covers addresses.ipv4, which is the translator's own", r.IPv4)
	source := v.ICMPSourcePool
	v.check(!source.IPv6.IsValid() || !r.IPv6.Overlaps(source.IPv6), key6, "%s overlaps icmp_source_pool.ipv6 (%s)", r.IPv6, source.IPv6)
	v.check(!source.IPv4.IsValid() || !r.IPv4.Overlaps(source.IPv4), key4, "%s overlaps icmp_source_pool.ipv4 (%s)", r.IPv4, source.IPv4)
	v.check(!v.Relay.overlaps(r.IPv4), key4, "%s overlaps relay.ipv4, whose rules the fleet tells", r.IPv4)
	for j, p := range v.Pools {
		v.check(!p.Static() || !p.IPv4.Prefix.IsValid() || !p.IPv4.Prefix.Overlaps(r.IPv4), key4, "%s overlaps pools[%d] (%s)", r.IPv4, j, p.IPv4)
	}
}
