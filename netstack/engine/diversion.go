//go:build linux

package engine

import (
	"fmt"
	"sync"
)

// Diversion has the fast path leave every packet to the daemon while somebody wants
// to see all. Being stateless, packets may take either way at any time. The zero
// value is of a daemon that sees all packets anyway.
type Diversion struct {
	pause      func(on bool) error // nil: there is no other way
	interfaces func() int          // where packets take it just now

	mu     sync.Mutex // guards what follows
	wanted int
}

// Begin diverts packets until end is called.
func (d *Diversion) Begin() (end func(), err error) {
	if d.pause == nil {
		return func() {}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wanted == 0 {
		if err := d.pause(true); err != nil {
			return nil, fmt.Errorf("have the kernel's fast path leave all packets to the daemon: %w", err)
		}
	}
	d.wanted++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.wanted--; d.wanted == 0 {
			d.pause(false)
		}
	}, nil
}

// Note says what is not seen without it; "" when all is.
func (d *Diversion) Note() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pause == nil || d.wanted > 0 {
		return ""
	}
	if n := d.interfaces(); n > 0 {
		return fmt.Sprintf("the kernel's fast path translates plain packets on %d interfaces by itself: they are not shown; --all shows them", n)
	}
	return ""
}
