package mapt

// Numbers is a rule as a packet is held against it, for who translates elsewhere.
type Numbers struct {
	Hi6, Mask6   uint64 // the IPv6 prefix, which is within the upper half
	EA           uint64 // as many ones as there are EA bits
	IPv4, Mask4  uint32
	EAAt         uint8 // where they end in the upper half
	More         uint8 // bits of an IPv4 address that are behind the EA bits
	K, M, Offset uint8 // bits of the PSID, behind it, and before it in a port
	PSID         uint16
}

// Numbers are the rules, in the order of All.
func (r *Rules) Numbers() (all []Numbers) {
	if r == nil {
		return nil
	}
	for i := range r.compiled {
		c := &r.compiled[i]
		all = append(all, Numbers{c.hi6, c.mask6, c.ea, c.v4, c.mask4, c.eaAt, c.more, c.k, c.m, c.a, c.psid})
	}
	return all
}
