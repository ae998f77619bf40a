package translator

import (
	"net/netip"

	"github.com/natless/natless/translator/mapping"
)

// Sender names whom something is from, for those who share something out among
// senders. Strangers can pretend to be as many as they like, workloads cannot: what
// one is given should not come out of what the other has.
type Sender struct {
	Hash     uint64 // with a key of this process
	Workload bool
}

// Sender names the sender of a packet, whole or quoted: the workload, or the prefix
// of a stranger (IPv4 /24, IPv6 /64). If the bytes are no packet, or a fragment without
// a port, it names as much as is known.
func (t *Translator) Sender(packet []byte) Sender {
	switch {
	case len(packet) >= size6 && packet[0]>>4 == 6:
		return t.sender6(header6(packet).src())
	case len(packet) >= size4 && packet[0]>>4 == 4:
		h := header4(packet)
		port := uint16(0)
		if l4 := h.headerLen(); h.fragment()&maskOffset == 0 && l4 <= len(packet) {
			port, _, _ = portsOf(h.protocol(), packet[l4:])
		}
		return t.sender4(h.src(), port)
	}
	return Sender{}
}

// SenderAt is Sender for who sends from an address and port.
func (t *Translator) SenderAt(a netip.AddrPort) Sender {
	if addr := a.Addr().Unmap(); addr.Is4() {
		return t.sender4(mapping.Addr4From(addr), a.Port())
	} else if addr.Is6() {
		return t.sender6(mapping.Addr6From(addr))
	}
	return Sender{}
}

func (t *Translator) sender6(src mapping.Addr6) Sender {
	return t.sender(hearer6(t.snapshot.Load().table, src))
}

func (t *Translator) sender4(src uint32, port uint16) Sender {
	table := t.snapshot.Load().table
	e := table.Lookup4(src)
	if e != nil && e.Shared() {
		e = table.Port(e, src, port)
	}
	if e != nil {
		return t.sender(hearer{slot: e.Slot(), addr: uint64(src)})
	}
	return t.sender(hearer{addr: uint64(src >> 8)})
}

func (t *Translator) sender(h hearer) Sender { return Sender{t.errors.hash(h), h.slot != 0} }
