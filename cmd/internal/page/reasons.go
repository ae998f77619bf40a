//go:build linux

package page

// passedOn says why the fast path leaves a packet to the daemon, by the reasons that
// netstack/fastpath counts.
var passedOn = map[string]string{
	"disabled":             "the fast path was off, or its tables were being replaced",
	"not-plain-link":       "a VLAN tag, no Ethernet, or not for this host",
	"not-this-family":      "nothing to translate at that interface",
	"truncated":            "too short, or lengths that disagree",
	"options":              "IPv4 options",
	"bad-header-checksum":  "the checksum of the IPv4 header is wrong",
	"fragment":             "a fragment",
	"protocol":             "an extension header, or neither TCP, UDP nor an echo",
	"upper-header":         "a TCP, UDP or ICMP header whose length is wrong",
	"no-checksum":          "UDP without a checksum, or an echo whose checksum is unfinished",
	"hop-limit":            "its TTL or hop limit runs out here",
	"too-big":              "too big for the way on",
	"superpacket":          "a superpacket of a kind that it cannot tell",
	"own-address":          "for the translator itself, or another address of ours that no workload has",
	"never-translated":     "an address that is never translated",
	"non-global":           "IPv4 that is not global, under the well-known prefix",
	"unmapped-source":      "no mapping covers the source",
	"unmapped-destination": "no mapping covers the destination",
	"mapped-peer":          "from one workload to another",
	"wrong-interface":      "the source belongs to another interface",
	"port":                 "a port that is not the workload's, or nobody's",
	"trailer":              "an echo reply that may carry the rest of a shortened one",
	"no-route":             "the host has no route for it",
	"host-route":           "the host has another way for it",
	"unchanged":            "the kernel made no room for the other header",
	"has-inside":           "between the prefix and a workload that has its IPv4 inside",
	"steering":             "IPv4 of a workload that has it inside, where nothing may be bypassed",
	"policy":               "policies do not plainly allow it: the daemon judges",
	"spoofed":              "IPv4 by an interface of which nobody knows whose it is: dropped",
}
