package reference

import (
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// Packet is the bytes of an IP packet and what the virtio-net header says.
type Packet struct {
	Bytes   []byte
	Offload translator.Offload
	From    netip.Prefix // of the workload that sent it by IPv4, which it has inside; else zero
}

// Outcome is one right answer: a verdict, and the packets that come out (the
// translated packet, its fragments, or the ICMP error of ours).
type Outcome struct {
	Verdict translator.Verdict
	Packets []Packet
}

// Hints are what the rules leave to an implementation, as it was chosen by the
// one under test. A hint that breaks a rule is not followed.
type Hints struct {
	Identification       uint16     // of an IPv4 packet with DF=0 and no fragment header
	QuotedIdentification uint16     // the same, in the packet that an ICMPv4 error quotes
	DontFragment         bool       // of an ICMPv4 error of ours
	ErrorSource          netip.Addr // out of the pool of RFC 6791
	Trailer              []byte     // the 8 bytes behind an echo request whose identifier is folded

	// Partition is a mapping's share of the identification space: base, mask.
	Partition func(mapping.Mapping) (base, mask uint16)
}

// World is everything that translation depends on.
type World struct {
	translator.Config
	Prefix   netip.Prefix
	Mappings []mapping.Mapping
	Policies []policy.Policy
	Subjects map[netip.Prefix]policy.Workload // who has a mapping with a policy, by its IPv6 prefix
}

// Translator remembers what section 1.3 lets it remember, and which rules it
// has followed how often.
type Translator struct {
	World
	Rules    map[string]int       // nil: not counted
	alike    [][]*mapping.Mapping // for each mapping, those with its IPv4 prefix
	ces      ces
	trailers map[trailerKey]bool
	tracker  tracker
	first    *tracked // whose first fragment was translated last
	now      int64

	half   bool        // of an edge, toward the fabric
	fabric *Translator // that half; nil: there is no edge

	calls [allReadings]call // one for each reading
	out   []Outcome
	room  []byte // for packets
	taken int    // of it
}

// New makes a reference translator; defaults are those of translator.Config.
func New(w World) *Translator {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&w.MTU4, 1500)
	def(&w.MTU6, 1500)
	def(&w.LowestMTU6, 1280)
	t := &Translator{World: w, Rules: map[string]int{}, trailers: map[trailerKey]bool{}}
	if w.Edge.Enabled() {
		t.fabric = half(w)
	}
	t.alike = make([][]*mapping.Mapping, len(w.Mappings))
	for i := range w.Mappings {
		for j := range w.Mappings {
			if w.Mappings[j].IPv4 == w.Mappings[i].IPv4 {
				t.alike[i] = append(t.alike[i], &w.Mappings[j])
			}
		}
	}
	return t
}

// SetTime tells the time in nanoseconds.
func (t *Translator) SetTime(now int64) { t.now = now }

// reading is a set of choices that the rules leave; every set gives right
// answers.
type reading int

const (
	// ownSource: the translator's own IPv6 address is its own IPv4 address on
	// the other side.
	ownSource reading = 1 << iota
	// shortErrors: an ICMP error keeps to the bound of ICMPv4 in the middle of
	// a hairpin.
	shortErrors
	allReadings
)

// bytes takes n bytes, good until the next packet. They are not zero.
func (t *Translator) bytes(n int) []byte {
	if len(t.room)-t.taken < n {
		t.room, t.taken = make([]byte, 2*len(t.room)+n), 0 // those taken stay what they are
	}
	b := t.room[t.taken : t.taken+n : t.taken+n]
	t.taken += n
	return b
}

func (t *Translator) copied(b []byte) []byte {
	out := t.bytes(len(b))
	copy(out, b)
	return out
}

// Translate gives every right answer for a packet, good until the next one. The
// first byte decides the direction.
func (t *Translator) Translate(p Packet, h Hints) (out []Outcome) {
	if t.first = nil; t.fabric != nil {
		return t.edge(p, h)
	}
	return t.translate(p, h, false)
}

func (t *Translator) translate(p Packet, h Hints, hairpin bool) (out []Outcome) {
	var asked reading // those that could make a difference
	out, t.taken = t.out[:0], 0
	for r := reading(0); r < allReadings; r++ {
		if r&^asked != 0 {
			continue
		}
		c := &t.calls[r]
		*c = call{t: t, in: p, hints: h, reading: r, asked: &asked, hairpin: hairpin, faults: c.faults[:0], results: c.results[:0]}
		c.translate()
		out = append(append(out, c.faults...), c.results...)
	}
	t.out = out
	return out
}

// reads reports whether this call takes a choice.
func (c *call) reads(r reading) bool {
	*c.asked |= r
	return c.reading&r != 0
}

func (c *call) translate() {
	switch b := c.in.Bytes; {
	case c.in.From.IsValid():
		c.pass()
	case len(b) > 0 && b[0]>>4 == 4:
		c.to6()
	case len(b) > 0 && b[0]>>4 == 6:
		c.to4()
	default:
		c.rule("7.malformed")
		c.fault(translator.Malformed)
	}
}

// call is the translation of one packet.
type call struct {
	t       *Translator
	in      Packet
	hints   Hints
	reading reading
	asked   *reading

	faults  []Outcome // each of them forbids to forward
	results []Outcome // forwarded, or what the rules leave open beside it

	local   bool      // the packet is for the translator itself
	hairpin bool      // the second half of a hairpin
	waits   bool      // for the first fragment of its datagram
	left    bool      // the checksums of a superpacket are left to its segments
	subject *datagram // what an ICMP error of ours would be about
	allowed bool      // an ICMP error of ours may answer this packet
	silent  bool      // it may as well be dropped in silence: ICMP that is neither echo nor error, or has no type
}

func (c *call) rule(ids ...string) {
	if c.t.Rules == nil {
		return
	}
	for _, id := range ids {
		c.t.Rules[id]++
	}
}

// fault says that the packet must not be forwarded, and for which reason.
func (c *call) fault(v translator.Verdict) {
	c.faults = append(c.faults, Outcome{Verdict: v})
}

// faultReply says that the packet must not be forwarded and that its sender is
// told so, if rules permit to tell.
func (c *call) faultReply(v translator.Verdict, typ, code byte, rest uint32) {
	if c.hairpin {
		c.hairpinFault(v)
		return
	}
	if !c.allowed {
		c.rule("6.answer-only-to")
		c.fault(v)
		return
	}
	c.rule("6.answer")
	if c.silent {
		c.fault(v)
	}
	c.faults = append(c.faults, Outcome{Verdict: v | translator.Replied, Packets: []Packet{c.answer(typ, code, rest)}})
}

// faultMay says that the packet must not be forwarded, and leaves it open
// whether its sender is told.
func (c *call) faultMay(v translator.Verdict, typ, code byte, rest uint32) {
	c.fault(v)
	if !c.hairpin && c.allowed {
		c.faults = append(c.faults, Outcome{Verdict: v | translator.Replied, Packets: []Packet{c.answer(typ, code, rest)}})
	}
}

// forUs says that the packet is for the translator itself. Faults behind its IP
// header do not concern translation then, but may be found first.
func (c *call) forUs() {
	c.local = true
	c.results = append(c.results, Outcome{Verdict: translator.Local})
}

// open says that the rules leave it open whether the packet is dropped.
func (c *call) open(v translator.Verdict) {
	c.results = append(c.results, Outcome{Verdict: v})
}

func (c *call) forward(v translator.Verdict, packets ...Packet) {
	if len(c.faults) == 0 && !c.local {
		c.results = append(c.results, Outcome{Verdict: v, Packets: packets})
	}
}
