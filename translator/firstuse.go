package translator

import (
	"net/netip"

	"github.com/natless/natless/translator/mapping"
)

// prefix6 is an IPv6 prefix as the hot path reads it.
type prefix6 struct{ addr, mask mapping.Addr6 }

func prefixes6(all []netip.Prefix) (out []prefix6) {
	for _, p := range all {
		bits := p.Bits()
		out = append(out, prefix6{mapping.Addr6From(p.Masked().Addr()),
			mapping.Addr6{Hi: ^uint64(0) << max(64-bits, 0), Lo: ^uint64(0) << min(128-bits, 64)}})
	}
	return out
}

func (p *prefix6) contains(a mapping.Addr6) bool {
	return (a.Hi^p.addr.Hi)&p.mask.Hi|(a.Lo^p.addr.Lo)&p.mask.Lo == 0
}

// firstUse reports whether a packet, whose source has no IPv4 address, is one by which it
// may get one: the source is among those who may, and all else would let the packet pass.
func (w *Worker) firstUse(h *parsed) bool {
	if w.refuse || h.hops <= 1 || h.route != 0 || h.behind {
		return false
	}
	for i := range w.s.first {
		if w.s.first[i].contains(h.src6) {
			_, _, v := w.s.destination4(h.dst6) // rule 1.9.destination
			return !v.IsDrop()
		}
	}
	return false
}

// TranslateRefused is Translate for a packet that was FirstUse and whose sender gets
// nothing: it is told so as if there were no first use, if its budget allows it.
func (w *Worker) TranslateRefused(p *Packet) Verdict {
	w.refuse = true // rule 1.9.refused
	v := w.Translate(p)
	w.refuse = false
	return v
}
