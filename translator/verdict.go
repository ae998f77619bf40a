package translator

// Verdict is what Translate decided: what to do with the packet, or the one
// reason why it was not translated. The same names are metric labels, trace
// text and test expectations.
type Verdict uint8

// What becomes of a packet that is not dropped.
const (
	Forward4 Verdict = iota // translated 6→4: write the packet
	Forward6                // translated 4→6: write the packet, in fragments if Worker says so
	Hairpin                 // translated 6→4→6 (RFC 7757 4.2.2): write the packet
	Local                   // for the translator's own address, as IPv4 or IPv6: give it to the local stack
	Segment                 // a superpacket that must be segmented first, each segment translated by itself; untouched
)

// Replied is set beside a reason: the packet now is an ICMP error of ours, to be
// written to the device.
const Replied Verdict = 0x80
