package conformance

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// The tests of this file each keep one difference that the comparison with the
// reference translator has found; testdata/found has those that need no more than
// packets.

// TestFound translates the packets of testdata/found by both, as a failure of
// TestDifferential wrote them down.
func TestFound(t *testing.T) {
	files, err := filepath.Glob("testdata/found/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	worlds := map[string]generate.World{}
	for _, w := range generate.AllWorlds() {
		worlds[w.Name] = w
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		name, list, err := decode(string(text))
		if err != nil || worlds[name].Name == "" || len(list) == 0 {
			t.Fatalf("%s: world %q, %d packets: %v", file, name, len(list), err)
		}
		if d := replay(worlds[name], list); d != nil {
			t.Errorf("%s: %v", file, d)
		}
	}
}

// TestDestinationUnderPrefix: a destination without a mapping stands under the
// prefix, where hosts may have their addresses (rule 1.2.order).
func TestDestinationUnderPrefix(t *testing.T) {
	p := lab(t, nil)
	b := out(t, p, udp4(t, peer4, addr("8.8.8.8"), 10, nil), translator.Forward6)
	if got, want := [16]byte(b[24:40]), addr("64:ff9b::808:808").As16(); got != want {
		t.Errorf("destination %x, want %x", got, want)
	}
	p = lab(t, func(w *generate.World) { w.AllowNonGlobal = false })
	r := p.translate(reference.Packet{Bytes: udp4(t, addr("8.8.4.4"), addr("10.0.0.1"), 10, nil)})
	if r.verdict.Reason() != translator.NonGlobal {
		t.Errorf("non-global destination: %v", r.verdict)
	}
}

// TestUnassignedPortAnswered: of the protocols with ports, UDP and TCP are
// answered (rules 1.3.unassigned and 1.3.unassigned-answered).
func TestUnassignedPortAnswered(t *testing.T) {
	p := lab(t, nil)
	ip := ip4(peer4, shared4, layers.IPProtocolUDP)
	udp := &layers.UDP{SrcPort: 80, DstPort: 9}
	must(t, udp.SetNetworkLayerForChecksum(ip))
	answered4(t, p, serialize(t, ip, udp), translator.PortUnassigned, 3, 3, [4]byte{})
	tcp := &layers.TCP{SrcPort: 80, DstPort: 9}
	ip = ip4(peer4, shared4, layers.IPProtocolTCP)
	must(t, tcp.SetNetworkLayerForChecksum(ip))
	answered4(t, p, serialize(t, ip, tcp), translator.PortUnassigned, 3, 3, [4]byte{})
	dropped(t, p, icmpError4(t, peer4, shared4, 8, 0, [4]byte{0, 9, 0, 1}, data(8)), translator.PortUnassigned)
	dropped(t, p, serialize(t, ip4(peer4, shared4, 132), gopacket.Payload(make([]byte, 16))), translator.PortUnassigned)
}

// TestEchoToOwnSharedAddress: the trailer of a request stays until the reply
// brings it back (rule 1.3.echo-unfold), also in a hairpin.
func TestEchoToOwnSharedAddress(t *testing.T) {
	p := lab(t, nil)
	self := reference.Embed(p.world.Prefix, shared4)
	request := icmpError6(t, share1, self, 128, 0, [4]byte{0xff, 0xff, 0, 1}, data(8))
	b := out(t, p, request, translator.Hairpin)
	if len(b) != len(request)+8 || get(b[44:]) == 0xffff {
		t.Fatalf("% x", b)
	}
	reply := icmpError6(t, share1, self, 129, 0, [4]byte(b[44:48]), b[48:])
	b = out(t, p, reply, translator.Hairpin)
	if len(b) != len(request) || get(b[44:]) != 0xffff {
		t.Fatalf("% x", b)
	}
}

// TestErrorQuotesWhatCame: an echo reply that is too big is quoted as it came,
// its identifier not yet restored (rule 6.answer).
func TestErrorQuotesWhatCame(t *testing.T) {
	p := lab(t, nil)
	b := out(t, p, icmpError6(t, share1, peer6, 128, 0, [4]byte{0xff, 0xff, 0, 1}, data(8)), translator.Forward4)
	// A long reply with the same trailer.
	long := append(data(1460), b[len(b)-8:]...)
	reply := serialize(t, ip4(peer4, shared4, layers.IPProtocolICMPv4), raw4(0, 0, [4]byte(b[24:28]), long))
	reply[6] = 0x40
	put(reply[10:], 0)
	put(reply[10:], ^onesSum(reply[:20]))
	answered4(t, p, reply, translator.TooBig, 3, 4, [4]byte{0, 0, 1480 >> 8, 1480 & 0xff})
}

// TestLaterFragmentInDisguise: a second fragment header does not make a later
// fragment one that may be answered (rule 6.answer-only-to).
func TestLaterFragmentInDisguise(t *testing.T) {
	p := lab(t, nil)
	later := []byte{44, 0, 0, 8, 0, 0, 0, 1}
	first := []byte{17, 0, 0, 0, 0, 0, 0, 1}
	b := serialize(t, ip6(workload6, peer6, 44), gopacket.Payload(append(append(later, first...), make([]byte, 16)...)))
	dropped(t, p, b, translator.HeaderBehindFragment)
}

// TestNothingBehindHeader: no byte, or too few of them, behind the IP header.
func TestNothingBehindHeader(t *testing.T) {
	p := lab(t, nil)
	for _, protocol := range []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolICMPv4, layers.IPProtocolICMPv6, 33, 132, 136} {
		for n := range 8 {
			if protocol != layers.IPProtocolICMPv6 {
				dropped(t, p, serialize(t, ip4(peer4, workload4, protocol), data(n)), translator.Malformed)
			}
			if protocol != layers.IPProtocolICMPv4 {
				dropped(t, p, serialize(t, ip6(workload6, peer6, protocol), data(n)), translator.Malformed)
			}
		}
	}
}

// TestPortsBeyondQuote: bytes behind the end of a quoted packet are not ports
// (rule 1.3.quoted-source-port).
func TestPortsBeyondQuote(t *testing.T) {
	p := lab(t, nil)
	quote := serialize(t, ip4(shared4, peer4, layers.IPProtocolTCP))
	padding := []byte{1024 >> 8, 0, 0, 80, 0, 0, 0, 0}
	dropped(t, p, icmpError4(t, peer4, shared4, 3, 1, [4]byte{}, append(quote, padding...)), translator.Malformed)
	// Nor are they an ICMP type.
	quote = serialize(t, ip4(workload4, peer4, layers.IPProtocolICMPv4))
	out(t, p, icmpError4(t, peer4, workload4, 3, 1, [4]byte{}, append(quote, 3, 3, 0, 0)), translator.Forward6)
}
