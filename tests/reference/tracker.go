package reference

import (
	"net/netip"
	"slices"
	"time"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// tracker remembers which workload a datagram in fragments belongs to. Unlike
// the real one it has no bound: tests stay below it.
type tracker map[trackerKey]*tracked

type trackerKey struct {
	src, dst netip.Addr
	protocol byte
	id       uint32
	sent     bool // by a client's workload, and not for one
}

type tracked struct {
	since int64 // its first packet
	owner *mapping.Mapping
	held  []heldFragment
}

type heldFragment struct {
	Held
	until int64
}

// Held is a fragment that waited for the first one of its datagram.
type Held struct {
	Packet
	hairpin bool // it is on its way back to IPv6
}

const (
	trackFor = int64(30 * time.Second)
	holdFor  = int64(time.Second)
	holdMost = 64 << 10
)

func keyOf(d *datagram) trackerKey { return trackerKey{d.src, d.dst, d.protocol, d.frag.id, false} }

func (c *call) entry(key trackerKey) *tracked {
	if c.t.tracker == nil {
		c.t.tracker = tracker{}
	}
	e := c.t.tracker[key]
	if e == nil || c.t.now > e.since+trackFor {
		e = &tracked{since: c.t.now}
		c.t.tracker[key] = e
	}
	return e
}

// track remembers the owner of a first fragment.
func (c *call) track(d *datagram, owner *mapping.Mapping) {
	c.rule("1.3.tracker")
	e := c.entry(keyOf(d))
	e.owner = owner
	c.t.first = e
}

// trackedOwner is the owner of a later fragment, or the verdict that it waits.
func (c *call) trackedOwner(d *datagram, list []*mapping.Mapping) *mapping.Mapping {
	e := c.entry(keyOf(d))
	if e.owner != nil {
		c.rule("1.3.tracker")
		for _, m := range list {
			if m.IPv6 == e.owner.IPv6 {
				return m
			}
		}
	}
	c.waits = true
	bytes := 0
	if n := len(e.held); n > 0 && e.held[n-1].until >= c.t.now {
		for _, h := range e.held {
			bytes += len(h.Bytes)
		}
	}
	if bytes+d.total > holdMost {
		c.rule("1.3.held-bound")
		c.fault(translator.FragmentUnknown)
		return nil
	}
	c.rule("1.3.held")
	c.fault(translator.FragmentHeld)
	return nil
}

// hold keeps a fragment that has no other fault than that it has to wait.
func (c *call) hold(d *datagram) {
	if !c.waits || len(c.faults) != 1 || c.faults[0].Verdict != translator.FragmentHeld || c.reading != 0 {
		return
	}
	e := c.entry(keyOf(d))
	if n := len(e.held); n > 0 && e.held[n-1].until < c.t.now {
		e.held = nil // all of it is forgotten
	}
	p := Packet{Bytes: slices.Clone(c.in.Bytes[:d.total]), Offload: c.in.Offload}
	e.held = append(e.held, heldFragment{Held{p, c.hairpin}, c.t.now + holdFor})
}

// Held gives the fragments that waited for the packet just translated, if it was
// a first one. Each of them is to be given to TranslateHeld now.
func (t *Translator) Held() (out []Held) {
	if t.first == nil {
		return nil
	}
	for _, h := range t.first.held {
		if h.until >= t.now {
			out = append(out, h.Held)
		}
	}
	t.first.held, t.first = nil, nil
	return out
}

// TranslateHeld is Translate for what Held has given.
func (t *Translator) TranslateHeld(p Held, h Hints) (out []Outcome) {
	return t.translate(p.Packet, h, p.hairpin)
}
