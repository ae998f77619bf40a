package reference

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// Policies are policies as they are written, and a workload that some may select. They
// are asked one after the other, from the first to the last.
type Policies struct {
	All      []policy.Policy
	Workload policy.Workload
}

// Opinion is what policies say of something.
type Opinion struct {
	Allow  bool
	Answer policy.Answer
	Rule   string // policy, direction and rule; "": none matches
}

// Of says what the rules of a direction say of a remote, a protocol and a port; also is
// whether those of audited policies count.
func (p Policies) Of(d policy.Direction, remote netip.Addr, proto uint8, port uint16, also bool) Opinion {
	for tier := policy.Admin; tier <= policy.Baseline; tier++ {
		for _, i := range p.inTier(tier) {
			one := &p.All[i]
			if one.Audit && !also || !one.Subject.Selects(p.Workload) {
				continue
			}
			o, decided, pass := ask(one, d, remote, proto, port)
			if decided {
				return o
			}
			if pass {
				break
			}
		}
	}
	return Opinion{Allow: true}
}

// inTier are the policies of a tier, those with the least priority first, and of those
// the first.
func (p Policies) inTier(tier policy.Tier) (list []int) {
	for i := range p.All {
		if p.All[i].Tier == tier {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b int) int { return p.All[a].Priority - p.All[b].Priority })
	return list
}

// ask asks the rules of one policy.
func ask(p *policy.Policy, d policy.Direction, remote netip.Addr, proto uint8, port uint16) (o Opinion, decided, pass bool) {
	for i, r := range p.Rules(d) {
		if !slices.ContainsFunc(r.Networks, func(n netip.Prefix) bool { return n.Contains(remote) }) {
			continue
		}
		if len(r.Protocols) > 0 && !slices.ContainsFunc(r.Protocols, func(o policy.Protocol) bool {
			return o.Number == proto && (o.Ports.First == 0 && o.Ports.Last == 0 || o.Ports.First <= port && port <= o.Ports.Last)
		}) {
			continue
		}
		if r.Action == policy.Pass {
			return o, false, true
		}
		id := (&policy.Rules{Policy: p, Direction: d, Rule: r, Index: i}).ID()
		return Opinion{r.Action == policy.Accept, p.Answer, id}, true, false
	}
	return o, false, false
}

// fate is what becomes of a packet.
type fate uint8

const (
	passes fate = iota
	denied
	unsaid // denied for what a fragment does not say
)

// Fates are what becomes of a packet, and what would if what is audited were in force.
func (p Policies) Fates(q *policy.Packet) (now, would Fate) {
	return p.fate(q, false), p.fate(q, true)
}

// Fate is one of these.
type Fate struct {
	Passes, Fragment bool
}

func (p Policies) fate(q *policy.Packet, also bool) Fate {
	f := p.judge(q, also)
	return Fate{f == passes, f == unsaid}
}

func (p Policies) judge(q *policy.Packet, also bool) fate {
	remote := netip.AddrFrom4([4]byte{byte(q.Remote >> 24), byte(q.Remote >> 16), byte(q.Remote >> 8), byte(q.Remote)})
	says := func(d policy.Direction, port uint16) bool { return p.Of(d, remote, q.Proto, port, also).Allow }
	verdict := func(ok bool) fate {
		if ok {
			return passes
		}
		return denied
	}
	out := policy.Ingress // whose rules are about what goes this way and begins something
	if q.Out {
		out = policy.Egress
	}
	syn := q.Asks && q.Proto == tcp
	switch q.Proto {
	default:
		return verdict(says(out, 0))
	case icmp4:
		if q.Later {
			return p.later(q.Proto, remote, also)
		}
		if q.Asks {
			return verdict(says(out, 0))
		}
		return verdict(says(1-out, 0))
	case tcp, udp, udpLite, sctp, dccp:
	}
	switch {
	case q.Overwrites:
		return unsaid
	case q.Later:
		return p.later(q.Proto, remote, also)
	case q.Out && says(policy.Egress, q.Far):
		return passes
	case q.Out:
		return verdict(!q.Client && !syn && says(policy.Ingress, q.Local))
	case q.Client && !syn:
		return verdict(says(policy.Egress, q.Far))
	}
	return verdict(says(policy.Ingress, q.Local))
}

// later is what has no ports: what is said of each port decides.
func (p Policies) later(proto uint8, remote netip.Addr, also bool) fate {
	ports := []uint16{0}
	for _, one := range p.All {
		for _, r := range slices.Concat(one.Egress, one.Ingress) {
			for _, o := range r.Protocols {
				ports = append(ports, o.Ports.First, o.Ports.Last, o.Ports.First-1, o.Ports.Last+1)
			}
		}
	}
	all, none := [2]bool{true, true}, [2]bool{true, true}
	for d := range all {
		for _, port := range ports {
			ok := p.Of(policy.Direction(d), remote, proto, port, also).Allow
			all[d], none[d] = all[d] && ok, none[d] && !ok
		}
	}
	switch {
	case all[0] || all[1]:
		return passes
	case none[0] && none[1]:
		return denied
	}
	return unsaid
}

// police holds a packet to the policies of the workload that sends it (out), or that it
// is for.
func (c *call) police(d *datagram, m *mapping.Mapping, out bool, remote netip.Addr) {
	if m == nil || m.Policy == 0 || !remote.IsValid() || remote.IsUnspecified() {
		return
	}
	q := asked(d, m, out, remote)
	c.rule(policeRules[out][0])
	if out && c.ownEnd(&q, remote) {
		c.rule("1.7.own")
		return
	}
	held := Policies{c.t.Policies, c.t.Subjects[m.IPv6]}
	f, reason := held.judge(&q, false), translator.Denied
	c.policeRules(&q)
	if f == passes {
		return
	}
	answer := policy.ICMP
	switch {
	case f == unsaid:
		reason = translator.DeniedFragment
	default:
		answer = held.answer(&q, remote)
	}
	typ := byte(3)
	code := byte(13)
	if c.subject != nil && c.subject.src.Is6() {
		typ, code = 1, 1
	}
	switch {
	case answer == policy.Silence:
		c.rule("1.7.silence")
		c.fault(reason)
	case answer == policy.Reset && d.protocol == tcp && !d.later():
		c.rule("1.7.reset")
		c.resets(d, reason)
	default:
		c.rule("1.7.answer")
		c.faultReply(reason, typ, code, 0)
	}
}

var policeRules = map[bool][]string{true: {"1.7.out"}, false: {"1.7.in"}}

// policeRules counts the rules that a packet is judged by.
func (c *call) policeRules(q *policy.Packet) {
	ported := q.Proto == tcp || q.Proto == udp || q.Proto == udpLite || q.Proto == sctp || q.Proto == dccp
	switch {
	case q.Overwrites:
		c.rule("1.7.tiny")
	case !ported && q.Proto != icmp4:
		c.rule("1.7.no-ports")
	case q.Later:
		c.rule("1.7.later")
	case q.Proto == icmp4:
		c.rule("1.7.echo")
	case q.Out && q.Client:
		c.rule("1.7.out-client")
	case q.Out:
		c.rule("1.7.out-published")
	case !q.Client:
		c.rule("1.7.in-published")
	case q.Asks && q.Proto == tcp:
		c.rule("1.7.in-syn")
	default:
		c.rule("1.7.in-client")
	}
}

// policeQuote holds an ICMP error to the policies that what it quotes was held to.
func (c *call) policeQuote(q *datagram, m *mapping.Mapping, out bool, remote netip.Addr) {
	if m == nil || m.Policy == 0 || !remote.IsValid() {
		return
	}
	c.rule("1.7.error")
	p := asked(q, m, out, remote)
	if c.ownEnd(&p, remote) {
		return
	}
	switch (Policies{c.t.Policies, c.t.Subjects[m.IPv6]}).judge(&p, false) {
	case denied:
		c.fault(translator.Denied)
	case unsaid:
		c.fault(translator.DeniedFragment)
	}
}

// ownEnd reports whether the other end is the translator itself.
func (c *call) ownEnd(q *policy.Packet, remote netip.Addr) bool {
	if remote != c.t.IPv4 {
		return false
	}
	list := c.t.covering4(remote)
	return len(list) == 0 || !shared(list) || !q.Later && ownerOf(list, q.Far) == nil
}

// answer is what the sender of a denied packet hears.
func (p Policies) answer(q *policy.Packet, remote netip.Addr) policy.Answer {
	d, port := policy.Ingress, q.Local
	switch {
	case q.Later && q.Out, q.Proto == icmp4 && q.Out == q.Asks, q.Out && q.Proto != icmp4, !q.Later && !q.Out && q.Client && !(q.Asks && q.Proto == tcp) && q.Proto != icmp4:
		d, port = policy.Egress, q.Far
	}
	if q.Later {
		port = 0
	}
	switch q.Proto {
	case tcp, udp, udpLite, sctp, dccp:
	case icmp4:
		port = 0
	default:
		port = 0
		if d = policy.Ingress; q.Out {
			d = policy.Egress
		}
	}
	return p.Of(d, remote, q.Proto, port, false).Answer
}

// asked is what policies go by.
func asked(d *datagram, m *mapping.Mapping, out bool, remote netip.Addr) (q policy.Packet) {
	a := remote.As4()
	q = policy.Packet{Remote: binary.BigEndian.Uint32(a[:]), Proto: d.protocol, Out: out}
	if q.Proto == icmp6 {
		q.Proto = icmp4
	}
	src, dst, has := portsOf(d.protocol, d.upper)
	if d.later() || !has {
		q.Later = true
		q.Overwrites = d.later() && d.protocol == tcp && d.frag.offset < 24
		return q
	}
	q.Far, q.Local = src, dst
	if out {
		q.Far, q.Local = dst, src
	}
	switch d.protocol {
	case tcp:
		q.Asks = len(d.upper) > 13 && d.upper[13]&0x12 == 0x02
	case icmp4:
		q.Asks = d.upper[0] == 8
	case icmp6:
		q.Asks = d.upper[0] == 128
	}
	q.Client = client(m, q.Local)
	return q
}

// client reports whether a port is one of those that a workload's own connections come
// from: 32768 and above, or of a share the greatest power-of-two block inside of its
// longest run, at a multiple of its size.
func client(m *mapping.Mapping, port uint16) bool {
	if m.Ports.IsZero() {
		return port >= 32768
	}
	run := m.Ports.Longest()
	for size := 1 << 16; size > 0; size /= 2 {
		for base := 0; base+size <= 1<<16; base += size {
			if base >= int(run.First) && base+size-1 <= int(run.Last) {
				return base <= int(port) && int(port) < base+size
			}
		}
	}
	return false
}

// resets is a fault that is answered by a RST in the name of who was meant.
func (c *call) resets(d *datagram, v translator.Verdict) {
	switch {
	case c.hairpin:
		c.hairpinFault(v)
		return
	case d.upper[13]&4 != 0 || !c.allowed:
		c.fault(v)
		return
	}
	e := &datagram{src: d.dst, dst: d.src, ttl: 64, protocol: tcp, df: c.hints.DontFragment, id: c.hints.Identification}
	if !e.df {
		e.id = max(1, e.id)
	}
	h := header.TCPFields{SrcPort: binary.BigEndian.Uint16(d.upper[2:]), DstPort: binary.BigEndian.Uint16(d.upper), DataOffset: 20, Flags: header.TCPFlagRst}
	if d.upper[13]&16 != 0 {
		h.SeqNum = binary.BigEndian.Uint32(d.upper[8:])
	} else {
		n := uint32(len(d.upper) - int(d.upper[12]>>4)*4)
		for _, flag := range []byte{1, 2} {
			if d.upper[13]&flag != 0 {
				n++
			}
		}
		h.AckNum, h.Flags = binary.BigEndian.Uint32(d.upper[4:])+n, h.Flags|header.TCPFlagAck
	}
	e.upper = make([]byte, 20)
	header.TCP(e.upper).Encode(&h)
	e.claimed = 20
	binary.BigEndian.PutUint16(e.upper[16:], ^checksum.Checksum(e.upper, e.pseudoSum()))
	out := Packet{Bytes: c.write6(e)}
	if d.src.Is4() {
		out = Packet{Bytes: c.write4(e)}
	}
	c.faults = append(c.faults, Outcome{Verdict: v | translator.Replied, Packets: []Packet{out}})
}
