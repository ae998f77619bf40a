package translator

import (
	"encoding/binary"
	"net/netip"

	"github.com/natless/natless/translator/mapping"
)

// Sender names whom a packet is from, whole or quoted, for those who share
// something out among senders: a hash with a key of this process over the
// workload, or over the prefix of a stranger (IPv4 /24, IPv6 /64). Of a packet
// that is none, and of a fragment without a port, it names as much as is known.
func (t *Translator) Sender(packet []byte) uint64 {
	switch {
	case len(packet) >= size6 && packet[0]>>4 == 6:
		return t.sender6(header6(packet).src())
	case len(packet) >= size4 && packet[0]>>4 == 4:
		h := header4(packet)
		port := uint16(0)
		if l4 := h.headerLen(); h.fragment()&maskOffset == 0 && l4+2 <= len(packet) &&
			(h.protocol() == protoTCP || h.protocol() == protoUDP) {
			port = binary.BigEndian.Uint16(packet[l4:])
		}
		return t.sender4(h.src(), port)
	}
	return 0
}

// SenderAt is Sender for who sends from an address and port.
func (t *Translator) SenderAt(a netip.AddrPort) uint64 {
	if addr := a.Addr().Unmap(); addr.Is4() {
		return t.sender4(mapping.Addr4From(addr), a.Port())
	} else if addr.Is6() {
		return t.sender6(mapping.Addr6From(addr))
	}
	return 0
}

func (t *Translator) sender6(src mapping.Addr6) uint64 {
	return t.errors.hash(hearer6(t.snapshot.Load().table, src))
}

func (t *Translator) sender4(src uint32, port uint16) uint64 {
	table := t.snapshot.Load().table
	e := table.Lookup4(src)
	if e != nil && e.Shared() {
		e = table.Port(e, src, port)
	}
	if e != nil {
		return t.errors.hash(hearer{slot: e.Slot(), addr: uint64(src)})
	}
	return t.errors.hash(hearer{addr: uint64(src >> 8)})
}
