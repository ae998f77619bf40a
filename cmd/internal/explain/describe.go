package explain

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Describe says in the words of Grammar what a packet is. What it cannot read
// it says so; it never fails.
func Describe(b []byte) string {
	var w writer
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		w.ipv4(b)
	case len(b) >= 40 && b[0]>>4 == 6:
		w.ipv6(b)
	default:
		w.add("%d bytes that are not an IP packet", len(b))
	}
	return strings.Join(w.words, " ")
}

type writer struct{ words []string }

func (w *writer) add(format string, args ...any) {
	w.words = append(w.words, fmt.Sprintf(format, args...))
}

func (w *writer) ipv4(b []byte) {
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	w.add("ipv4 src %s dst %s", src, dst)
	bits := binary.BigEndian.Uint16(b[6:])
	offset, head := int(bits&0x1fff)*8, min(int(b[0]&15)*4, len(b))
	w.upper(b[9], b[head:], offset, false)
	w.add("ttl %d", b[8])
	if b[1] != 0 {
		w.add("class %d", b[1])
	}
	w.add("len %d", binary.BigEndian.Uint16(b[2:]))
	if bits&0x4000 != 0 {
		w.add("df")
	}
	if id := binary.BigEndian.Uint16(b[4:]); id != 0 {
		w.add("id %d", id)
	}
	w.fragment(offset, bits&0x2000 != 0)
	w.quoted(b[9] == 1 && offset == 0, b[head:], 3, 4, 5, 11, 12)
}

func (w *writer) fragment(offset int, more bool) {
	if offset > 0 {
		w.add("offset %d", offset)
	}
	if more {
		w.add("more")
	}
}

func (w *writer) ipv6(b []byte) {
	src, _ := netip.AddrFromSlice(b[8:24])
	dst, _ := netip.AddrFromSlice(b[24:40])
	w.add("ipv6 src %s dst %s", src, dst)
	proto, body, frag := b[6], b[40:], []byte(nil)
	if proto == 44 && len(body) >= 8 {
		proto, frag, body = body[0], body[:8], body[8:]
	}
	offset, more := 0, false
	if frag != nil {
		bits := binary.BigEndian.Uint16(frag[2:])
		offset, more = int(bits&^7), bits&1 != 0
	}
	w.upper(proto, body, offset, true)
	w.add("hlim %d", b[7])
	if class := b[0]<<4 | b[1]>>4; class != 0 {
		w.add("class %d", class)
	}
	w.add("len %d", 40+int(binary.BigEndian.Uint16(b[4:])))
	if frag != nil {
		w.add("id %d", binary.BigEndian.Uint32(frag[4:]))
	}
	w.fragment(offset, more)
	w.quoted(proto == 58 && offset == 0, body, 1, 2, 3, 4)
}

func (w *writer) upper(proto uint8, b []byte, offset int, v6 bool) {
	names := map[uint8]string{6: "tcp", 17: "udp"}
	name := names[proto]
	switch {
	case name != "" && offset > 0:
		w.add("%s", name)
	case name != "" && len(b) >= 4:
		w.add("%s sport %d dport %d", name, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
		if proto == 17 && len(b) >= 8 && b[6] == 0 && b[7] == 0 {
			w.add("nocsum")
		}
	case (proto == 1 && !v6 || proto == 58 && v6) && len(b) >= 8 && offset == 0:
		w.icmp(b, v6)
	default:
		w.add("proto %d", proto)
	}
}

func (w *writer) icmp(b []byte, v6 bool) {
	family := 0
	if v6 {
		family = 1
	}
	rest := binary.BigEndian.Uint32(b[4:])
	name := ""
	for n, types := range icmpNames {
		if types[family] == b[0] && (n != "too-big" || v6 || b[1] == 4) && (n != "unreachable" || v6 || b[1] != 4) {
			name = n
		}
	}
	code := func() {
		if b[1] != 0 {
			w.add("code %d", b[1])
		}
	}
	switch name {
	case "":
		w.add("icmp type %d code %d", b[0], b[1])
	case "echo", "reply":
		w.add("icmp %s ident %d seq %d", name, rest>>16, rest&0xffff)
	case "too-big":
		w.add("icmp too-big mtu %d", rest)
	case "parameter-problem":
		w.add("icmp %s", name)
		code()
		if !v6 {
			rest >>= 24
		}
		w.add("pointer %d", rest)
	default:
		w.add("icmp %s", name)
		code()
	}
}

// quoted describes the packet inside an ICMP message of one of the types.
func (w *writer) quoted(is bool, b []byte, types ...uint8) {
	if is && len(b) > 8 && slices.Contains(types, b[0]) {
		w.add("quoting %s", Describe(b[8:]))
	}
}
