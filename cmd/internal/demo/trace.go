package demo

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/natless/natless/translator"
)

// traceLimit is how many packets are kept: more than the demo sends.
const traceLimit = 1 << 16

// trace keeps the packets that were translated, before and after.
type trace struct {
	before head // of the packet that is under way, of the goroutine that moves it

	mu      sync.Mutex // guards what follows
	packets []translated
}

type translated struct {
	before, after head
	verdict       translator.Verdict
}

// Begin is the observer's.
func (t *trace) Begin(int, time.Time) {}

// Read is the observer's.
func (t *trace) Read(_ int, p *translator.Packet) { t.before = makeHead(p.Bytes()) }

// Translated is the observer's.
func (t *trace) Translated(_ int, p *translator.Packet, v translator.Verdict, _ uint32) {
	if v == translator.Local {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.packets) < traceLimit {
		t.packets = append(t.packets, translated{t.before, makeHead(p.Bytes()), v})
	}
}

// of are the packets of one conversation, found by the port or identifier that
// the workload has in it.
func (t *trace) of(workload netip.Addr, proto uint8, port uint16) (found []translated) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range t.packets {
		six := x.before
		if six.v4 {
			six = x.after
		}
		out := six.src == workload && six.sport == port
		in := six.dst == workload && six.dport == port
		if six.kind() == proto && (out || in) {
			found = append(found, x)
		}
	}
	return found
}

// head is what people look at in a packet.
type head struct {
	v4           bool
	proto        uint8
	src, dst     netip.Addr
	sport, dport uint16 // of an echo, both the identifier
	hops         uint8
	length       int
	note         string
}

const (
	protoICMP4 = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58
)

// kind is proto, the same for ICMP of both families.
func (h head) kind() uint8 {
	if h.proto == protoICMP6 {
		return protoICMP4
	}
	return h.proto
}

func makeHead(b []byte) (h head) {
	var upper []byte
	switch {
	case len(b) >= 28 && b[0]>>4 == 4:
		h = head{v4: true, proto: b[9], hops: b[8], length: int(binary.BigEndian.Uint16(b[2:]))}
		h.src, h.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		upper = b[20:]
	case len(b) >= 48 && b[0]>>4 == 6:
		h = head{proto: b[6], hops: b[7], length: 40 + int(binary.BigEndian.Uint16(b[4:]))}
		h.src, h.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		upper = b[40:]
	default:
		return head{note: "?"}
	}
	switch h.kind() {
	case protoTCP, protoUDP:
		h.sport, h.dport = binary.BigEndian.Uint16(upper), binary.BigEndian.Uint16(upper[2:])
		if h.proto == protoTCP && len(upper) >= 14 {
			h.note = tcpNote(upper, h.length-(len(b)-len(upper)))
		}
	case protoICMP4:
		h.sport = binary.BigEndian.Uint16(upper[4:])
		h.dport = h.sport
		h.note = map[byte]string{8: "echo", 128: "echo", 0: "reply", 129: "reply"}[upper[0]]
	}
	return h
}

func tcpNote(tcp []byte, length int) string {
	var words []string
	for i, name := range []string{"FIN", "SYN", "RST"} {
		if tcp[13]&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	if tcp[13]&0x10 != 0 {
		words = append(words, "ACK")
	}
	if n := length - int(tcp[12]>>4)*4; n > 0 {
		words = append(words, fmt.Sprintf("%d bytes", n))
	}
	return strings.Join(words, " ")
}

func (h head) String() string {
	s := fmt.Sprintf("%s > %s", end(h.src, h.sport), end(h.dst, h.dport))
	if h.kind() == protoICMP4 {
		s = fmt.Sprintf("%s > %s  id %d", h.src, h.dst, h.sport)
	}
	return s
}

func end(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// connection is of for TCP, and waits a moment for its two FINs, which may come
// after the program that used it is content.
func (t *trace) connection(workload netip.Addr, port uint16) (found []translated) {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ends := 0
		found = t.of(workload, protoTCP, port)
		for _, x := range found {
			if strings.HasPrefix(x.before.note, "FIN") {
				ends++
			}
		}
		if ends >= 2 || time.Now().After(deadline) {
			return found
		}
	}
}

// sides writes packets as the two sides see them, one beside the other, the
// IPv6 side first. What lies in the middle of a long conversation is counted; a
// connection's end has up to four packets, in whatever order.
func sides(packets []translated, most int) string {
	tail := min(4, most/2)
	rows := [][]string{{"IPv6, as the workload has it", "", "IPv4, as the server has it", "hops", ""}}
	for i, x := range packets {
		skipped := len(packets) - most
		if skipped > 0 && i >= most-tail && i < len(packets)-tail {
			if i == most-tail {
				rows = append(rows, []string{"", "..", "", "", fmt.Sprintf("%d more", skipped+1)})
			}
			continue
		}
		six, four, arrow := x.before, x.after, "->"
		if x.before.v4 {
			six, four, arrow = x.after, x.before, "<-"
		}
		rows = append(rows, []string{six.String(), arrow, four.String(), fmt.Sprintf("%d/%d", six.hops, four.hops), six.note})
	}
	return columns(rows)
}

// columns writes rows with each column as wide as its widest cell.
func columns(rows [][]string) string {
	var widths [5]int
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], len(cell))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		line := ""
		for i, cell := range r {
			line += fmt.Sprintf("%-*s  ", widths[i], cell)
		}
		b.WriteString("  " + strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
