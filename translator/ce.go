package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
	"github.com/natless/natless/translator/ports"
)

// Who sends has a mapping, or else is a CE by a rule of MAP-T, or neither. What follows is
// asked of either: where there is no mapping, of w.ce.

// shares says that the sender has some of the ports of an address.
func (w *Worker) shares(e *mapping.Entry) bool {
	if e != nil {
		return e.Shared()
	}
	return w.ce.Shared()
}

// owns says that a sender that shares its address has a port of it.
func (w *Worker) owns(e *mapping.Entry, port uint16) bool {
	if e != nil {
		return e.Owns(port)
	}
	return w.ce.Owns(port)
}

// sender6 is the address that echo trailers of a sender are for.
func (w *Worker) sender6(e *mapping.Entry, h *parsed) mapping.Addr6 {
	if e != nil {
		return e.To6(h.src4)
	}
	return h.src6
}

func (w *Worker) echoRange(e *mapping.Entry) ports.Range {
	if e != nil {
		return e.EchoRange()
	}
	return w.ce.EchoRange()
}

// countOutside counts a packet from a port that its sender has not.
func (w *Worker) countOutside(e *mapping.Entry) {
	switch {
	case w.trial:
	case e != nil:
		w.s.violations.at(e.Slot()).Add(1)
	default:
		w.s.rules.CountOutside(w.ce)
	}
}

// plainFromCE is what plainTo4 asks of a packet that no mapping has sent: the IPv4 address
// of the CE that it is from, out of one of that one's ports.
func (w *Worker) plainFromCE(src mapping.Addr6, l4 []byte) (src4 uint32, ok bool) {
	src4, w.ce, _, ok = w.s.rules.To4(src)
	return src4, ok && w.ce.Owns(binary.BigEndian.Uint16(l4))
}

// plainToCE is what plainTo6 asks of a packet that is for no mapping: the CE that it is
// for, and its address.
func (s *snapshot) plainToCE(dst4 uint32, l4 []byte) (mapping.Addr6, mapt.CE) {
	if dst4 == s.host4 {
		return mapping.Addr6{}, mapt.CE{}
	}
	dst, ce, _ := s.rules.To6(dst4, binary.BigEndian.Uint16(l4[2:]))
	return dst, ce
}
