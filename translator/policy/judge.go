package policy

// Packet is what of a packet its judgement hangs on.
type Packet struct {
	Remote     uint32 // the IPv4 address of the other end
	Proto      uint8  // as in IPv4
	Out        bool   // the workload sends it
	Client     bool   // Local is a port that the workload's own connections come from
	Asks       bool   // TCP: SYN without ACK; echo: a request
	Later      bool   // its ports are not known: a later fragment, or a quote that is too short
	Overwrites bool   // a later fragment of TCP that begins inside of the header (RFC 3128)
	Local, Far uint16 // ports, of the workload and of the other end
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Allow    bool
	Fragment bool // denied for what it does not say
	*Decision
}

// Audited is the rule that would have denied a packet that passes, or 0.
func (v Verdict) Audited() uint32 {
	if v.Allow && !v.Would {
		return v.Audit
	}
	return 0
}

// protocols are numbered as a cell has them.
const (
	slotTCP = iota
	slotUDP
	slotUDPLite
	slotSCTP
	slotDCCP
	slotICMP
	slotOther
	numSlots
)

var slots = [256]uint8{}

// numbers are the protocols of slots; that of others is one that nobody names.
var numbers = [numSlots]uint8{ProtoTCP, ProtoUDP, ProtoUDPLite, ProtoSCTP, ProtoDCCP, ProtoICMP, 255}

func init() {
	for i := range slots {
		slots[i] = slotOther
	}
	for slot, n := range numbers[:slotOther] {
		slots[n] = uint8(slot)
	}
}

// Judge says what becomes of a packet of a workload whose policies have a number. It
// remembers nothing of connections: the ports of the workload say who began.
func (t *Table) Judge(number uint16, p *Packet) Verdict {
	c := t.cell(number, p.Remote)
	slot := slots[p.Proto]
	switch {
	case p.Overwrites: // rule 1.7.tiny
		return Verdict{false, true, &t.decisions[unjudged]}
	case slot == slotOther: // rule 1.7.no-ports
		return t.one(c, direction(p.Out), slot, 0)
	case slot == slotICMP && !p.Later: // rule 1.7.echo
		return t.one(c, direction(p.Out == p.Asks), slot, 0)
	case p.Later:
		return t.later(c, p.Out, slot)
	case !p.Out && p.Client && !(p.Asks && slot == slotTCP): // rule 1.7.in-client
		return t.one(c, Egress, slot, p.Far)
	case !p.Out: // rules 1.7.in-published, 1.7.in-syn
		return t.one(c, Ingress, slot, p.Local)
	case p.Client || p.Asks && slot == slotTCP: // rule 1.7.out-client
		return t.one(c, Egress, slot, p.Far)
	}
	return t.either(t.decide(c, Egress, slot, p.Far), t.decide(c, Ingress, slot, p.Local)) // rule 1.7.out-published
}

// direction is whose rules decide where a packet goes to the end that began, or not.
func direction(out bool) Direction {
	if out {
		return Egress
	}
	return Ingress
}

func (t *Table) one(c *cell, d Direction, slot uint8, port uint16) Verdict {
	decision := t.decide(c, d, slot, port)
	return Verdict{decision.Allow, false, decision}
}

// either is what passes by one or by the other. The first is named where both deny.
func (t *Table) either(a, b *Decision) Verdict {
	switch {
	case a.Allow && a.Would:
		return Verdict{true, false, a}
	case b.Allow && b.Would:
		return Verdict{true, false, b}
	case a.Would != b.Would && a.Allow != b.Allow: // one in force, the other by what is audited
		return Verdict{true, false, &t.decisions[accepted]}
	case a.Allow:
		return Verdict{true, false, a}
	case b.Allow:
		return Verdict{true, false, b}
	}
	return Verdict{false, false, a}
}

// later judges what has no ports: it passes where the rules of one direction let
// everything pass, and is denied where those of both let nothing.
func (t *Table) later(c *cell, out bool, slot uint8) Verdict { // rule 1.7.later
	own, other := t.spread(c, direction(out), slot), t.spread(c, direction(!out), slot)
	switch {
	case own.none && other.none:
		return Verdict{false, false, own.first}
	case !own.all && !other.all:
		return Verdict{false, true, &t.decisions[unjudged]}
	case own.allWould || other.allWould:
		return Verdict{true, false, &t.decisions[accepted]}
	case own.audited != nil:
		return Verdict{true, false, own.audited}
	}
	return Verdict{true, false, other.audited}
}
