package registry

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/natless/natless/translator/mapping"
	bolt "go.etcd.io/bbolt"
)

// lastFew is how many earlier owners are given for a whole address.
const lastFew = 5

// Had gives the assignments that have an address, IPv4 or IPv6, or its port (-1: any),
// or had it at a time; the zero time is now. If there are none, before is the last ones
// before that time.
func (r *Registry) Had(a netip.Addr, port int, at time.Time) (found, before []*Assignment, err error) {
	found = r.ownersNow(a, port, at)
	wanted := func(o *Assignment) bool {
		return (port < 0 || !a.Is4() || o.has(uint16(port))) && (a.Is4() || slices.Contains(o.Request.IPv6, a))
	}
	if !at.IsZero() {
		err = r.ended(a, at, func(o *Assignment) bool {
			if !at.Before(o.Since) && wanted(o) {
				found = append(found, o)
			}
			return true
		})
	}
	if err != nil || len(found) > 0 {
		slices.SortFunc(found, byPorts)
		return found, nil, err
	}
	most := 1
	if a.Is4() && port < 0 { // each had some of its ports
		most = lastFew
	}
	before, err = r.latest(a, at, wanted, most)
	return nil, before, err
}

func byPorts(a, b *Assignment) int {
	first := func(o *Assignment) int {
		if o.Ports.IsZero() {
			return 0
		}
		return int(o.Ports.Min())
	}
	return cmp.Or(cmp.Compare(first(a), first(b)), a.Since.Compare(b.Since))
}

func (r *Registry) ownersNow(a netip.Addr, port int, at time.Time) (found []*Assignment) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []*held
	if a.Is6() {
		if o := r.state.byIPv6(a); o != nil {
			all, port = append(all, o), -1
		}
	} else if addr := r.state.addresses[a]; addr != nil {
		all = addr.owners
	}
	for o := range look(all) {
		// A beginning that is yet to come is that of a clock that was set back.
		if (port < 0 || o.has(uint16(port))) && (at.IsZero() || !at.Before(o.Since) || !at.Before(r.now())) {
			found = append(found, o.Clone())
		}
	}
	return found
}

// ended calls f with the assignments that ended after a time, until it says false:
// those of an IPv4 address in order, or all of them.
func (r *Registry) ended(a netip.Addr, at time.Time, f func(*Assignment) bool) error {
	return r.view(func(tx *bolt.Tx) error {
		prefix, from := []byte(nil), []byte(nil)
		if a.Is4() {
			prefix = a.AsSlice()
			from = append(slices.Clone(prefix), number(uint64(at.UnixNano()+1))...)
		}
		c := tx.Bucket(bucketHistory).Cursor()
		for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			o, _, err := decode(v)
			if err != nil {
				return fmt.Errorf("history %x: %w", k, err)
			}
			if (a.Is4() || o.Until.After(at)) && !f(o) {
				return nil
			}
		}
		return nil
	})
}

// latest are the last of those that ended by a time and are wanted, the latest first.
func (r *Registry) latest(a netip.Addr, at time.Time, wanted func(*Assignment) bool, most int) (last []*Assignment, err error) {
	err = r.view(func(tx *bolt.Tx) error {
		history, order := tx.Bucket(bucketHistory), tx.Bucket(bucketOrder).Cursor()
		for n, key := order.Last(); n != nil && len(last) < most; n, key = order.Prev() {
			if a.Is4() && !bytes.HasPrefix(key, a.AsSlice()) {
				continue
			}
			o, _, err := decode(history.Get(key))
			if err != nil {
				return fmt.Errorf("history %x: %w", key, err)
			}
			if (at.IsZero() || !o.Until.After(at)) && wanted(o) {
				last = append(last, o)
			}
		}
		return nil
	})
	return last, err
}

// Assigned reports whether a mapping is that of an assignment.
func (r *Registry) Assigned(m mapping.Mapping) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.state.byIPv6(m.IPv6.Addr())
	if h == nil {
		return false
	}
	a := h.assignment()
	return m.IPv6.IsSingleIP() && a.Address == m.IPv4.Addr() && a.Ports.Equal(m.Ports)
}
