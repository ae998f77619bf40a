package translator

import (
	"fmt"
	"strings"
)

// Verdict is what Translate decided: what to do with the packet, or the one
// reason why it was not translated. The same names are metric labels, trace
// text and test expectations.
type Verdict uint8

// What becomes of a packet that is not dropped.
const (
	Forward4 Verdict = iota // translated 6→4: write the packet
	Forward6                // translated 4→6: write the packet, in fragments if Worker says so
	Hairpin                 // translated 6→4→6 (RFC 7757 4.2.2): write the packet
	Pass4                   // IPv4 of a workload that has it inside, as it came: write the packet, whose hop the host counts
	Deliver4                // IPv4 for a workload that has it inside: give it to that one (Worker.Inside), in fragments if Worker says so
	Local                   // for the translator's own address, as IPv4 or IPv6: give it to the local stack
	Segment                 // a superpacket that must be segmented first, each segment translated by itself; untouched

	// Reasons: the packet goes no further. Where Replied is set, its buffer
	// holds an ICMP error of ours instead.

	Malformed                 // lengths or headers that disagree with each other or with what was read
	BadChecksum               // of the IPv4 header, or of an ICMP error
	HopLimitExceeded          // TTL or hop limit ran out here
	TooBig                    // for the next hop of the other side, and not to be fragmented
	SourceRoute               // IPv4 with an unexpired source route
	RoutingHeader             // IPv6 with a routing header that is not used up
	HeaderBehindFragment      // IPv6 extension header behind the fragment header
	UntranslatableSource      // neither a mapping nor the prefix covers it
	UntranslatableDestination // neither a mapping nor the prefix covers it
	NeverTranslated           // loopback, link-local, multicast, reserved: in no mode
	NonGlobal                 // non-global IPv4 under the well-known prefix
	UDPZeroChecksumRefused    // IPv4 UDP without a checksum
	ICMPFragment              // a fragment of an ICMP message: its checksum covers what is not there
	ICMPUntranslatable        // an ICMP type, code or pointer without a counterpart
	ICMPErrorInError          // an ICMP error about an ICMP error
	PortOutsideSet            // a workload used a port that is not its own
	PortUnassigned            // nobody owns the destination port of a shared address
	ProtocolNotShareable      // no ports, from or to a shared address
	FragmentHeld              // came before its first fragment; NextHeld gives it back when that arrives
	FragmentUnknown           // a later fragment for a shared address that nothing is known about
	SpoofedSource             // from an address of ours or, of a workload's IPv4, not its own; or an error about another's packet
	ProtocolUntranslatable    // a protocol that the other family cannot carry: IPsec AH, IPv6's own headers
	PrefixClosed              // to the prefix, from a workload that has its IPv4 address inside
	Denied                    // a policy denies it; Worker.Rule says which
	DeniedFragment            // a later fragment, or a quote too short for ports, where policies look at ports

	Shed // its workload gave way: dropped before anything was done with it, by who calls the translator

	FirstUse // from who may have an assignment by first use and has none yet: untouched, for who gives them

	// NumVerdicts is the number of verdicts, Replied left aside: the length
	// of an array of counters.
	NumVerdicts
)

// Replied is set beside a reason: the packet now is an ICMP error of ours, to be
// written to the device.
const Replied Verdict = 0x80

// Reason is the verdict without the Replied mark.
func (v Verdict) Reason() Verdict { return v &^ Replied } // rule 7.one-reason

// Replied says that the packet now is an ICMP error of ours, to be written to
// the device.
func (v Verdict) Replied() bool { return v&Replied != 0 }

// IsDrop says that the packet went no further, replied to or not.
func (v Verdict) IsDrop() bool { return v.Reason() >= Malformed }

// IsForward says that the packet goes on: it is translated, or IPv4 that stays so.
func (v Verdict) IsForward() bool { return v <= Deliver4 }

// IsDenied says that policies denied the packet.
func (v Verdict) IsDenied() bool { return v.Reason() == Denied || v.Reason() == DeniedFragment }

// Leaves says that there is a packet to be written to the device: the translated
// one, or an ICMP error of ours about it.
func (v Verdict) Leaves() bool { return v.IsForward() || v.Replied() }

// verdicts are the names and sources of every verdict, in the enum's order.
var verdicts = [NumVerdicts]struct{ name, section string }{
	Forward4:                  {"forward4", "RFC 7915 5.1"},
	Forward6:                  {"forward6", "RFC 7915 4.1"},
	Hairpin:                   {"hairpin", "RFC 7757 4.2.2"},
	Pass4:                     {"pass4", "RFC 1812 5.3, RFC 7597 5.1"},
	Deliver4:                  {"deliver4", "RFC 1812 5.3, RFC 7597 5.1"},
	Local:                     {"local", "RFC 7915 1.1"},
	Segment:                   {"segment", "RFC 7915 4.1"},
	Malformed:                 {"malformed", "RFC 791 3.1, RFC 8200 3"},
	BadChecksum:               {"bad-checksum", "RFC 1812 5.2.2, RFC 4443 2.3"},
	HopLimitExceeded:          {"hop-limit-exceeded", "RFC 7915 4.1, 5.1"},
	TooBig:                    {"too-big", "RFC 7915 4.1, 5.1"},
	SourceRoute:               {"source-route", "RFC 7915 4.1"},
	RoutingHeader:             {"routing-header", "RFC 7915 5.1"},
	HeaderBehindFragment:      {"header-behind-fragment", "RFC 7915 5.1.1"},
	UntranslatableSource:      {"untranslatable-source", "RFC 7915 6, RFC 7757 3.3"},
	UntranslatableDestination: {"untranslatable-destination", "RFC 7915 6, RFC 7757 3.3"},
	NeverTranslated:           {"never-translated", "RFC 6890 2.2, RFC 1812 5.3.7"},
	NonGlobal:                 {"non-global", "RFC 6052 3.1"},
	UDPZeroChecksumRefused:    {"udp-zero-checksum", "RFC 7915 4.5"},
	ICMPFragment:              {"icmp-fragment", "RFC 7915 4.1, 5.1"},
	ICMPUntranslatable:        {"icmp-untranslatable", "RFC 7915 4.2, 5.2"},
	ICMPErrorInError:          {"icmp-error-in-error", "RFC 7915 4.3, 5.3"},
	PortOutsideSet:            {"port-outside-set", "RFC 7599 8.3"},
	PortUnassigned:            {"port-unassigned", "RFC 7599 8.4"},
	ProtocolNotShareable:      {"protocol-not-shareable", "RFC 7599 8.3, 8.4"},
	FragmentHeld:              {"fragment-held", "RFC 7599 10.2"},
	FragmentUnknown:           {"fragment-unknown", "RFC 7599 10.2"},
	SpoofedSource:             {"spoofed-source", "RFC 2827 3, RFC 5927 4"},
	ProtocolUntranslatable:    {"protocol-untranslatable", "RFC 4302 3.3.3, RFC 7045 2"},
	PrefixClosed:              {"prefix-closed", "RFC 4443 3.1"},
	Denied:                    {"denied", "RFC 4443 3.1, RFC 1812 5.2.7.1"},
	DeniedFragment:            {"denied-fragment", "RFC 1858 3, RFC 3128 2"},
	Shed:                      {"shed", "RFC 2475 2.3.3"},
	FirstUse:                  {"first-use", "RFC 7757 3.3"},
}

const repliedSuffix = "/replied"

// String is the verdict's name, such as "forward6" or
// "hop-limit-exceeded/replied".
func (v Verdict) String() string {
	r := v.Reason()
	if r >= NumVerdicts {
		return fmt.Sprintf("verdict-%d", uint8(v))
	}
	if v.Replied() {
		return verdicts[r].name + repliedSuffix
	}
	return verdicts[r].name
}

// Section names the RFC and the sections where the rule behind v stands.
func (v Verdict) Section() string {
	if r := v.Reason(); r < NumVerdicts {
		return verdicts[r].section
	}
	return ""
}

// ParseVerdict is the inverse of String.
func ParseVerdict(s string) (Verdict, error) {
	name, replied := strings.CutSuffix(s, repliedSuffix)
	for v := range NumVerdicts {
		if verdicts[v].name != name {
			continue
		}
		if !replied {
			return v, nil
		}
		if v.IsDrop() {
			return v | Replied, nil
		}
	}
	return 0, fmt.Errorf("verdict %q: no such name", s)
}
