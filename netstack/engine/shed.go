//go:build linux

package engine

import (
	"time"

	"github.com/natless/natless/netstack/shed"
)

// openShed makes who decides who gives way. What confines the daemon comes later.
func (h *Host) openShed(o Options) (err error) {
	c := shed.Config{Table: h.Table, Edge: h.Translator.EdgeTable, Plane: shedPlane{h}, Tell: h.Local.Hold, Off: o.NoShedding, Log: o.Log}
	if h.FastPath.Manager != nil {
		c.Elsewhere, c.Maps = h.FastPath.Translated, h.FastPath.Policer()
	}
	h.Shed, err = shed.New(c)
	return err
}

// shedQueues are what the queues of a device ask.
func (h *Host) shedQueues(n int, device bool) (all []*shed.Queue) {
	for range n {
		all = append(all, h.Shed.NewQueue(device))
	}
	return all
}

// shedPlane is both dataplanes to who decides who gives way.
type shedPlane struct{ h *Host }

// Worked see shed.Plane.
func (p shedPlane) Worked() (spent time.Duration, packets float64) {
	spent, packets = p.h.Dataplane.Worked()
	if p.h.Inside != nil {
		s, n := p.h.Inside.Worked()
		spent, packets = spent+s, packets+n
	}
	return spent, packets
}

// Lost see shed.Plane.
func (p shedPlane) Lost() uint64 { return p.h.Dataplane.Lost() }

// Police see shed.Plane.
func (p shedPlane) Police(program int) error { return p.h.Dataplane.Police(program) }
