package reference

import (
	"net/netip"
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
}

type tracked struct {
	owner *mapping.Mapping
	until int64
	held  []heldFragment
}

type heldFragment struct {
	packet Packet
	until  int64
}

const (
	trackFor = int64(30 * time.Second)
	holdFor  = int64(time.Second)
	holdMost = 64 << 10
)

func keyOf(d *datagram) trackerKey { return trackerKey{d.src, d.dst, d.protocol, d.frag.id} }

func (c *call) entry(d *datagram) *tracked {
	if c.t.tracker == nil {
		c.t.tracker = tracker{}
	}
	e := c.t.tracker[keyOf(d)]
	if e == nil {
		e = &tracked{}
		c.t.tracker[keyOf(d)] = e
	}
	return e
}

// track remembers the owner of a first fragment.
func (c *call) track(d *datagram, owner *mapping.Mapping) {
	c.rule("1.3.tracker")
	e := c.entry(d)
	e.owner, e.until = owner, c.t.now+trackFor
}

// trackedOwner is the owner of a later fragment, or the verdict that it waits.
func (c *call) trackedOwner(d *datagram, list []*mapping.Mapping) *mapping.Mapping {
	e := c.entry(d)
	if e.owner != nil && c.t.now <= e.until {
		c.rule("1.3.tracker")
		for _, m := range list {
			if m.IPv6 == e.owner.IPv6 {
				return m
			}
		}
	}
	bytes := 0
	for _, h := range e.held {
		if h.until >= c.t.now {
			bytes += len(h.packet.Bytes)
		}
	}
	if bytes+len(c.in.Bytes) > holdMost {
		c.rule("1.3.held-bound")
		c.fault(translator.FragmentUnknown)
		return nil
	}
	c.rule("1.3.held")
	c.fault(translator.FragmentHeld)
	if len(c.faults) == 1 && c.reading == 0 {
		e.held = append(e.held, heldFragment{c.in, c.t.now + holdFor})
	}
	return nil
}

// Held gives the fragments that waited for the first fragment p, if it was
// one; each of them is to be translated now.
func (t *Translator) Held(p Packet) (out []Packet) {
	d, why := read4(p.Bytes, false)
	if why != ok || d.frag == nil || d.later() {
		return nil
	}
	e := t.tracker[keyOf(d)]
	if e == nil || e.owner == nil {
		return nil
	}
	for _, h := range e.held {
		if h.until >= t.now {
			out = append(out, h.packet)
		}
	}
	e.held = nil
	return out
}
