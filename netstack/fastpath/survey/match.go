//go:build linux

package survey

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// prefixes are where an address is from; nil: anywhere.
type prefixes []netip.Prefix

// answer is whether packets of ours match.
type answer uint8

const (
	maybe answer = iota
	no
	yes
)

func (a answer) not() answer { return [...]answer{maybe, yes, no}[a] }

// field is what a register of nftables holds, as far as it is of use.
type field struct {
	kind kind
	mask []byte // of an address; nil: all of it
}

type kind uint8

const (
	anything kind = iota
	inName
	outName
	inIndex
	outIndex
	source
	destination
	family     // NFPROTO
	ethertype  // of the packet
	upper      // protocol of the upper layer
	mark       // of the packet: nobody has set it, or that is found elsewhere
	ctStatus   // of the connection
	translated // whether connection tracking rewrites the connection: nobody does, or that is found elsewhere
	destType   // of the destination's route: not local, else the packet would not be for the device
	none       // a field of the other family: a rule that looks at it has asked for that before
)

// matcher follows one rule.
type matcher struct {
	leg
	links     interfaces
	registers map[uint32]field
}

// natBits are those of a connection's status that NAT sets (IPS_SRC_NAT and IPS_DST_NAT of
// linux/netfilter/nf_conntrack_common.h). Not that it is done (1<<7, 1<<8), which every
// connection has that a chain of NAT has seen.
const natBits = 1<<4 | 1<<5

// harmless are expressions that only look, or count; their result is not known.
var harmless = []string{"counter", "last", "flow_offload", "byteorder", "range", "rt", "socket", "osf", "numgen", "hash",
	"xfrm", "tunnel", "inner", "limit", "connlimit", "lookup", "notrack"}

// effects are what others do, for people.
var effects = map[string]string{"masq": "masquerade", "redir": "redirect", "dup": "duplicate", "fwd": "forward elsewhere",
	"dynset": "set update",
	"nat":    "NAT", "objref": "named object"}

// harmlessTargets are of iptables: a checksum that the device completes, and what
// connection tracking is told.
var harmlessTargets = []string{"CHECKSUM", "CT", "NOTRACK"}

// expression is what one does to packets of ours: whether they go on to the next
// one, or what else could be done to them.
func (m *matcher) expression(e *expression) (matches answer, effect string) {
	a := e.attributes()
	switch e.name {
	case "meta":
		if _, sets := a[unix.NFTA_META_SREG]; sets {
			return maybe, "set of a packet's mark or priority"
		}
		m.registers[number(a[unix.NFTA_META_DREG])] = field{kind: metaKind(number(a[unix.NFTA_META_KEY]))}
		return yes, ""
	case "payload":
		if _, sets := a[unix.NFTA_PAYLOAD_SREG]; sets {
			return maybe, "change of a packet"
		}
		m.registers[number(a[unix.NFTA_PAYLOAD_DREG])] = m.payload(a)
		return yes, ""
	case "bitwise":
		m.bitwise(a)
		return yes, ""
	case "fib":
		to := field{}
		if number(a[unix.NFTA_FIB_RESULT]) == unix.NFT_FIB_RESULT_ADDRTYPE && number(a[unix.NFTA_FIB_FLAGS])&unix.NFTA_FIB_F_DADDR != 0 {
			to.kind = destType
		}
		m.registers[number(a[unix.NFTA_FIB_DREG])] = to
		return yes, ""
	case "ct", "exthdr":
		// In both, the third or a later attribute is the register written from.
		if sets := map[string]uint16{"ct": 4, "exthdr": 7}[e.name]; a[sets] != nil {
			return maybe, "set of " + e.name
		}
		of := field{}
		if e.name == "ct" && number(a[unix.NFTA_CT_KEY]) == unix.NFT_CT_STATUS {
			of.kind = ctStatus
		}
		m.registers[number(a[1])] = of // NFTA_CT_DREG, NFTA_EXTHDR_DREG
		return yes, ""
	case "cmp":
		return m.compare(a), ""
	case "match":
		return m.extension(text(a[unix.NFTA_MATCH_NAME]), a[unix.NFTA_MATCH_INFO]), ""
	case "target":
		if name := text(a[unix.NFTA_TARGET_NAME]); !slices.Contains(harmlessTargets, name) {
			return maybe, "target " + name
		}
		return maybe, ""
	case "lookup":
		if d := number(a[unix.NFTA_LOOKUP_DREG]); d != unix.NFT_REG_VERDICT {
			m.registers[d] = field{}
		}
		return maybe, ""
	case "immediate":
		m.registers[number(a[unix.NFTA_IMMEDIATE_DREG])] = field{}
		return yes, ""
	case "counter", "last":
		return yes, ""
	}
	if slices.Contains(harmless, e.name) {
		for _, at := range []uint16{1, 2, 3} { // whichever is the register of a result
			if e.name != "range" && len(a[at]) == 4 {
				m.registers[number(a[at])] = field{}
			}
		}
		return maybe, ""
	}
	if what := effects[e.name]; what != "" {
		return maybe, what
	}
	return maybe, e.name
}

func metaKind(key uint32) kind {
	switch key {
	case unix.NFT_META_IIFNAME:
		return inName
	case unix.NFT_META_OIFNAME:
		return outName
	case unix.NFT_META_IIF:
		return inIndex
	case unix.NFT_META_OIF:
		return outIndex
	case unix.NFT_META_NFPROTO:
		return family
	case unix.NFT_META_PROTOCOL:
		return ethertype
	case unix.NFT_META_L4PROTO:
		return upper
	case unix.NFT_META_MARK:
		return mark
	}
	return anything
}

// payload is what a piece of the IP header is.
func (m *matcher) payload(a map[uint16][]byte) field {
	if number(a[unix.NFTA_PAYLOAD_BASE]) != unix.NFT_PAYLOAD_NETWORK_HEADER {
		return field{}
	}
	at, size := number(a[unix.NFTA_PAYLOAD_OFFSET]), number(a[unix.NFTA_PAYLOAD_LEN])
	addresses := map[uint32]kind{12: source, 16: destination}
	length := uint32(4)
	if m.leg.family == unix.NFPROTO_IPV6 {
		addresses, length = map[uint32]kind{8: source, 24: destination}, 16
	}
	if k, ok := addresses[at]; ok && size <= length {
		mask := make([]byte, length)
		for i := range size {
			mask[i] = 0xff
		}
		return field{k, mask}
	}
	return field{}
}

func (m *matcher) bitwise(a map[uint16][]byte) {
	f := m.registers[number(a[unix.NFTA_BITWISE_SREG])]
	mask, xor := value(a[unix.NFTA_BITWISE_MASK]), value(a[unix.NFTA_BITWISE_XOR])
	zero := len(bytes.Trim(xor, "\x00")) == 0
	switch {
	case f.kind == mark && zero && len(mask) > 0: // 0 stays 0
	case f.kind == ctStatus && zero && len(mask) == 4 && binary.NativeEndian.Uint32(mask)&^natBits == 0:
		f.kind = translated
	case (f.kind == source || f.kind == destination) && zero && len(mask) <= len(f.mask) && len(mask) > 0:
		n := slices.Clone(f.mask)
		for i := range n {
			if i < len(mask) {
				n[i] &= mask[i]
			} else {
				n[i] = 0
			}
		}
		f.mask = n
	default:
		f = field{}
	}
	m.registers[number(a[unix.NFTA_BITWISE_DREG])] = f
}

// value is the data of a NFTA_DATA_VALUE.
func value(b []byte) []byte {
	d, err := mdl.NewAttributeDecoder(b)
	if err != nil {
		return nil
	}
	for d.Next() {
		if d.Type() == unix.NFTA_DATA_VALUE {
			return d.Bytes()
		}
	}
	return nil
}

func (m *matcher) compare(a map[uint16][]byte) answer {
	op, want := number(a[unix.NFTA_CMP_OP]), value(a[unix.NFTA_CMP_DATA])
	if op != unix.NFT_CMP_EQ && op != unix.NFT_CMP_NEQ || len(want) == 0 {
		return maybe
	}
	equal := m.equal(m.registers[number(a[unix.NFTA_CMP_SREG])], want)
	if op == unix.NFT_CMP_NEQ {
		return equal.not()
	}
	return equal
}

// equal reports whether a field has a value.
func (m *matcher) equal(f field, want []byte) answer {
	switch f.kind {
	case inName, outName:
		names := m.in
		if f.kind == outName {
			names = m.out
		}
		return named(names, want)
	case inIndex, outIndex:
		names := m.in
		if f.kind == outIndex {
			names = m.out
		}
		if len(want) != 4 {
			return maybe
		}
		return all(names, func(n string) bool { return m.links[n] == int(binary.NativeEndian.Uint32(want)) })
	case family:
		return truth(want[0] == m.leg.family)
	case ethertype:
		return truth(bytes.Equal(want, map[byte][]byte{unix.NFPROTO_IPV4: {8, 0}, unix.NFPROTO_IPV6: {0x86, 0xdd}}[m.leg.family]))
	case upper:
		if !slices.Contains([]byte{1, 6, 17, 58}, want[0]) {
			return no
		}
	case mark, translated:
		return truth(len(bytes.Trim(want, "\x00")) == 0)
	case destType:
		if len(want) == 4 && binary.NativeEndian.Uint32(want) == unix.RTN_LOCAL {
			return no
		}
	case source:
		return m.within(m.src, f.mask, want)
	case destination:
		return m.within(m.dst, f.mask, want)
	}
	return maybe
}

// first reports whether the first field of a key, which may be joined of several,
// has its value.
func (m *matcher) first(f field, key []byte) answer {
	sizes := map[kind]int{inName: 16, outName: 16, inIndex: 4, outIndex: 4, family: 1, ethertype: 2, upper: 1, mark: 4, destType: 4}
	size := sizes[f.kind]
	if f.mask != nil {
		size = len(f.mask)
	}
	if size == 0 || len(key) < size {
		return maybe
	}
	if m.equal(f, key[:size]) == no {
		return no
	}
	return maybe
}

// named compares names of interfaces with what a rule has: all 16 bytes of a name,
// or fewer of which one begins.
func named(names []string, want []byte) answer {
	exact := len(want) == unix.IFNAMSIZ
	w := text(want)
	return all(names, func(n string) bool { return n == w || !exact && strings.HasPrefix(n, w) })
}

// all reports whether something is so for all, for none, or for some.
func all(names []string, is func(string) bool) answer {
	if len(names) == 0 {
		return maybe
	}
	n := 0
	for _, name := range names {
		if is(name) {
			n++
		}
	}
	switch n {
	case 0:
		return no
	case len(names):
		return yes
	}
	return maybe
}

func truth(b bool) answer {
	if b {
		return yes
	}
	return no
}

// within reports whether addresses, of which the bits in mask are compared, are those
// of a value.
func (m *matcher) within(from prefixes, mask, want []byte) answer {
	bits := 0
	for bits < 8*len(mask) && mask[bits/8]>>(7-bits%8)&1 == 1 {
		bits++
	}
	for i := bits; i < 8*len(mask); i++ {
		if mask[i/8]>>(7-i%8)&1 == 1 {
			return maybe // holes
		}
	}
	a, ok := netip.AddrFromSlice(append(slices.Clone(want), make([]byte, max(0, len(mask)-len(want)))...))
	if !ok {
		return maybe
	}
	p := netip.PrefixFrom(a, bits).Masked()
	if from == nil {
		if slices.ContainsFunc(m.never, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Overlaps(p) }) {
			return no
		}
		return maybe
	}
	inside, overlaps := 0, 0
	for _, f := range from {
		if !p.Overlaps(f) {
			continue
		}
		overlaps++
		if p.Bits() <= f.Bits() {
			inside++
		}
	}
	switch {
	case overlaps == 0:
		return no
	case inside == len(from):
		return yes
	}
	return maybe
}

// extension judges a match of iptables (include/uapi/linux/netfilter/xt_*.h).
func (m *matcher) extension(name string, info []byte) answer {
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(info[at:]) }
	switch {
	case name == "comment":
		return yes
	case name == "mark" && len(info) >= 9: // mark, mask, invert
		matches := truth(word(0) == 0)
		if info[8] != 0 {
			return matches.not()
		}
		return matches
	case name == "addrtype" && len(info) >= 8: // source, dest, flags
		sources, dests, flags := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:]), word(4)
		if sources == 0 && dests == 1<<unix.RTN_LOCAL {
			return truth(flags&2 != 0) // XT_ADDRTYPE_INVERT_DEST
		}
	}
	return maybe
}

func immediateVerdict(b []byte) verdict {
	d, err := mdl.NewAttributeDecoder(b)
	if err != nil {
		return verdict{code: verdictDrop}
	}
	for d.Next() {
		return decodeVerdict(d.Type(), d.Bytes())
	}
	return verdict{code: verdictDrop}
}
