//go:build linux

package engine

import (
	"fmt"
	"sync"
	"time"
)

// Diversion has the fast path leave packets to the daemon while somebody wants to see
// them. Being stateless, packets may take either way at any time. The zero value is of
// a daemon that sees all packets anyway.
type Diversion struct {
	divert     func(during time.Duration) error // nil: there is no other way
	interfaces func() int                       // where packets take it just now
	daemon     func() uint64                    // packets that the daemon has translated

	mu       sync.Mutex // guards what follows
	all      int        // who wants to see all
	samplers int        // who wants to see some
	slice    bool       // they see them just now
	diverted bool
	again    *time.Timer   // says so anew, while diverted
	stop     chan struct{} // ends the sampling
}

// Sampling: the packets of a moment take the way through the daemon, of each period as
// many as are wanted, at most. Where there are fewer, all do.
const (
	samplePeriod = time.Second
	sampleMost   = 1000
	sampleLook   = 5 * time.Millisecond
)

// divertFor is how long packets wait for a daemon that hangs, or that was killed and left
// its device to the next: then the fast path translates them again.
const divertFor = time.Second

// All diverts packets until end is called.
func (d *Diversion) All() (end func(), err error) {
	if d.divert == nil {
		return func() {}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all++
	if err := d.settle(); err != nil {
		d.all--
		return nil, fmt.Errorf("have the kernel's fast path leave all packets to the daemon: %w", err)
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.all--
		d.settle()
	}, nil
}

// Sample diverts a sample of the packets until end is called.
func (d *Diversion) Sample() (end func()) {
	if d.divert == nil {
		return func() {}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.samplers++; d.samplers == 1 {
		d.stop, d.slice = make(chan struct{}), true // from the first packet on
		d.settle()
		go d.sample(d.stop, d.daemon())
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.samplers--; d.samplers == 0 {
			close(d.stop)
			d.slice = false
			d.settle()
		}
	}
}

// sample begins a slice of packets in each period, and ends it when there are enough.
func (d *Diversion) sample(stop <-chan struct{}, first uint64) {
	look := time.NewTicker(sampleLook)
	defer look.Stop()
	until := time.Now().Add(samplePeriod)
	for {
		now, seen := time.Now(), d.daemon()
		switch {
		case !now.Before(until):
			until, first = now.Add(samplePeriod), seen
			d.cut(stop, true)
		case seen-first >= sampleMost:
			d.cut(stop, false)
		}
		select {
		case <-stop:
			return
		case <-look.C:
		}
	}
}

// cut begins or ends a slice, unless the sampling has ended.
func (d *Diversion) cut(stop <-chan struct{}, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-stop:
	default:
		d.slice = on
		d.settle() // which is tried again
	}
}

// settle has the fast path do what is wanted.
func (d *Diversion) settle() error {
	on := d.all > 0 || d.slice
	if on == d.diverted {
		return nil
	}
	var during time.Duration
	if on {
		during = divertFor
	}
	if err := d.divert(during); err != nil {
		return err
	}
	if d.diverted = on; on {
		d.again = time.AfterFunc(divertFor/4, d.renew)
	} else {
		d.again.Stop()
	}
	return nil
}

// renew diverts packets for longer.
func (d *Diversion) renew() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.diverted {
		_ = d.divert(divertFor) // which is tried again
		d.again.Reset(divertFor / 4)
	}
}

// Note says what is not seen without it; "" when all is. sampled: what is seen is a
// sample.
func (d *Diversion) Note(sampled bool) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.divert == nil || d.all > 0 {
		return ""
	}
	n := d.interfaces()
	switch {
	case n == 0:
		return ""
	case sampled:
		return fmt.Sprintf("the kernel's fast path translates plain packets on %d interfaces by itself: of these, up to %d a second take "+
			"the way through the daemon meanwhile and are seen; --all shows all of them", n, sampleMost)
	}
	return fmt.Sprintf("the kernel's fast path translates plain packets on %d interfaces by itself: they are not shown", n)
}
