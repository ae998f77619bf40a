package reference

// RuleNames are the rules of tests/rules/rules.md that this translator counts
// when it follows them. A run that wants to have met every rule compares.
func RuleNames() []string { return ruleNames }

var ruleNames = []string{
	"1.1.32", "1.1.40", "1.1.48", "1.1.56", "1.1.64", "1.1.96", "1.1.error-source", "1.1.never4", "1.1.never6",
	"1.1.non-global", "1.1.non-global-knob", "1.1.ours-nobody4", "1.1.ours-nobody6", "1.1.ours-source4",
	"1.1.ours-source6", "1.2.longest-prefix", "1.2.order", "1.2.suffix", "1.3.destination-port", "1.3.echo-fold",
	"1.3.echo-mtu", "1.3.echo-no-trailer", "1.3.echo-own", "1.3.echo-unfold", "1.3.held", "1.3.held-bound", "1.3.host",
	"1.3.identification", "1.3.no-ports", "1.3.quoted-destination-port", "1.3.quoted-outside", "1.3.quoted-source-port",
	"1.3.quoted-unassigned", "1.3.source-port", "1.3.source-port-outside", "1.3.tracker", "1.3.unassigned",
	"1.3.unassigned-answered", "1.4.errors", "1.4.hairpin", "1.4.host", "1.4.one-decrement", "1.4.source", "1.5.fragments", "1.5.outside", "1.5.source-port",
	"1.6.closed", "1.6.cut", "1.6.deliver", "1.6.deliver-expired", "1.6.deliver-too-big", "1.6.echo-fold", "1.6.echo-fragment", "1.6.echo-unfold", "1.6.error-inside", "1.6.error-mtu",
	"1.6.error-sender", "1.6.error-types", "1.6.held", "1.6.hop-limit", "1.6.hop-limit-out", "1.6.identification",
	"1.6.informational-other", "1.6.never", "1.6.no-ports", "1.6.nobody", "1.6.one-decrement", "1.6.pass", "1.6.quote-unfold",
	"1.6.quoted-outside", "1.6.source", "1.6.source-port", "1.6.source-port-outside", "1.6.source-route", "1.6.too-big",
	"1.10.flow-label", "1.10.hop-in", "1.10.hop-out", "1.10.in", "1.10.non-global", "1.10.one-decrement", "1.10.ours", "1.10.out", "1.10.size", "1.10.source",
	"1.10.spoofed",
	"1.7.answer", "1.7.echo", "1.7.error", "1.7.in", "1.7.in-client", "1.7.in-published", "1.7.in-syn", "1.7.later", "1.7.no-ports",
	"1.7.out", "1.7.out-client", "1.7.out-published", "1.7.own", "1.7.reset", "1.7.silence", "1.7.tiny", "2.addresses",
	"1.8.ea", "1.8.error-sender", "1.8.identifier", "1.8.offset", "1.8.order", "1.8.psid", "1.8.source", "1.9.first-use",
	"2.extension-protocol", "2.flow-label", "2.fragment", "2.fragment-length", "2.fragmented", "2.hop-limit",
	"2.hop-limit-out", "2.icmp-fragment", "2.next-header", "2.next-header-icmp", "2.no-atomic", "2.options-dropped",
	"2.options-malformed", "2.payload-length", "2.source-route", "2.source-route-expired", "2.too-big",
	"2.too-big-fragment", "2.traffic-class", "2.traffic-class-knob", "2.untranslatable-protocol",
	"2.untranslatable-source", "3.addresses", "3.atomic", "3.df", "3.df-fragment", "3.extension-headers",
	"3.header-behind-fragment", "3.icmp-fragment", "3.identification-counter", "3.identification-df",
	"3.identification-fragment", "3.mf-offset", "3.protocol", "3.protocol-icmp", "3.routing-header", "3.too-big",
	"3.tos", "3.tos-knob", "3.total-length", "3.ttl", "3.ttl-out", "3.untranslatable-destination",
	"3.untranslatable-protocol", "3.untranslatable-source", "3.version", "4.dccp", "4.icmp", "4.icmp-error-verified",
	"4.ipv4-header", "4.other", "4.sctp", "4.tcp", "4.udp", "4.udp-lite", "4.zero-calculate", "4.zero-calculate-super", "4.zero-drop",
	"4.zero-forward", "4.zero-fragment", "4.zero-reject", "5.csum-start", "5.finish", "5.flag-before-zero",
	"5.gso-size", "5.gso-type", "5.gso-udp", "5.hdr-len", "5.mismatch", "5.partial", "5.segment-size", "5.whole", "6.answer",
	"6.answer-only-to", "6.echo", "6.error-inside", "6.error-sender", "6.extensions-dropped", "6.extensions-kept",
	"6.foreign", "6.informational-other", "6.mtu-to4", "6.mtu-to6", "6.mtu-to6-plateau", "6.pointer-to4",
	"6.pointer-to6", "6.quote", "6.quote-error", "6.quote-fragment", "6.quote-truncated", "6.quote-ttl", "6.size4",
	"6.size6", "6.source4-own", "6.source4-pool", "6.source6-own", "6.source6-pool", "6.to4.1-other", "6.to4.1-port",
	"6.to4.1-prohibited", "6.to4.1-unreachable", "6.to4.2", "6.to4.3", "6.to4.4-0", "6.to4.4-1", "6.to4.4-other",
	"6.to4.others", "6.to6.11", "6.to6.12", "6.to6.12-other", "6.to6.3-14", "6.to6.3-fragmentation", "6.to6.3-other",
	"6.to6.3-port", "6.to6.3-prohibited", "6.to6.3-protocol", "6.to6.3-unreachable", "6.to6.others", "7.length",
	"7.malformed", "7.trailing", "7.upper-header",
}
