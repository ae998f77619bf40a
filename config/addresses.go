package config

import (
	"net/netip"

	"github.com/natless/natless/translator/special"
)

// usable says that a prefix lies outside of what is never translated.
func usable(p netip.Prefix) bool {
	_, never := special.Overlaps(p)
	return !never
}

// global says that the IPv4 address a is globally reachable.
func global(a netip.Addr) bool {
	e, listed := special.Lookup(a)
	return !listed || e.Global
}
