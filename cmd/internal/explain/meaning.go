package explain

import "github.com/natless/natless/translator"

// meaning is each verdict in a sentence, for people.
var meaning = [translator.NumVerdicts]string{
	translator.Forward4:                  "translated to IPv4",
	translator.Forward6:                  "translated to IPv6",
	translator.Hairpin:                   "translated to IPv4 and straight back to IPv6, for another workload",
	translator.Pass4:                     "forwarded as IPv4, as it came from a workload that has it inside",
	translator.Deliver4:                  "given as IPv4 to a workload that has it inside",
	translator.Local:                     "for the translator itself, whose own stack answers",
	translator.Segment:                   "a superpacket that is segmented first",
	translator.Malformed:                 "dropped: lengths or headers that disagree",
	translator.BadChecksum:               "dropped: the checksum of the IPv4 header or of the ICMP error is wrong",
	translator.HopLimitExceeded:          "dropped: its TTL or hop limit ran out here",
	translator.TooBig:                    "dropped: too big for the next hop of the other side",
	translator.SourceRoute:               "dropped: an unexpired source route cannot be translated",
	translator.RoutingHeader:             "dropped: a routing header with segments left cannot be translated",
	translator.HeaderBehindFragment:      "dropped: an extension header behind the fragment header",
	translator.UntranslatableSource:      "dropped: no mapping and no prefix covers the source",
	translator.UntranslatableDestination: "dropped: no mapping and no prefix covers the destination, or nobody has this address of ours",
	translator.NeverTranslated:           "dropped: an address that is never translated (loopback, link-local, multicast, reserved)",
	translator.NonGlobal:                 "dropped: IPv4 that is not global, under the well-known prefix (see allow_non_global)",
	translator.UDPZeroChecksumRefused:    "dropped: UDP without a checksum (see udp_zero_checksum)",
	translator.ICMPFragment:              "dropped: a fragment of an ICMP message",
	translator.ICMPUntranslatable:        "dropped: this ICMP message has no counterpart in the other family",
	translator.ICMPErrorInError:          "dropped: an ICMP error about an ICMP error",
	translator.PortOutsideSet:            "dropped: the port does not belong to the workload",
	translator.PortUnassigned:            "dropped: the port of this shared address belongs to nobody",
	translator.ProtocolNotShareable:      "dropped: the protocol has no ports, and the address is shared by ports",
	translator.FragmentHeld:              "held until the first fragment of the datagram arrives",
	translator.FragmentUnknown:           "dropped: a later fragment for a shared address, of an unknown datagram",
	translator.SpoofedSource:             "dropped: the source is an address of ours, or not the one that the workload has inside, or the error is about another's packet",
	translator.ProtocolUntranslatable:    "dropped: the protocol cannot be translated (IPsec AH, Mobility, HIP, Shim6)",
	translator.Denied:                    "dropped: a policy denies it",
	translator.DeniedFragment:            "dropped: policies look at ports here, and this has none",
	translator.FirstUse:                  "held until its sender, which nobody announced, has an assignment by first use",
	translator.Shed:                      "dropped: it brings more than it may while the host is overloaded, or than its limits allow",
	translator.PrefixClosed:              "dropped: the workload has IPv4 inside, and reaches IPv4 by that alone",
}

// Meaning is a verdict in a sentence, such as "dropped: ...".
func Meaning(v translator.Verdict) string {
	if r := v.Reason(); r < translator.NumVerdicts {
		return meaning[r]
	}
	return v.String()
}
