package registry

import (
	"context"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	bolt "go.etcd.io/bbolt"
)

// Reconfigure changes the pools and the bound of the history. Assignments stay
// as they are, also those that no pool would give any more; only those of an
// uplink pool whose address changed move to the new address, if their ports
// are free there. swap gets the mappings of all assignments as they will be, and
// what of them is outside of the pools, and puts them into effect together with
// the rest of a new config; no change reaches the sink meanwhile. When swap fails
// nothing has changed. When the disk fails behind it, back is called, which undoes
// what swap did.
//
// Where pools change, the state is built anew from memory, and shares the
// assignments with the old one: reading a million from disk would take seconds.
func (r *Registry) Reconfigure(pools []Pool, history int,
	swap func(assigned iter.Seq[mapping.Mapping], outside []Share) error, back func(),
) error {
	made, err := r.newPools(pools)
	if err != nil {
		return err
	}
	r.commits.leader.Lock()
	defer r.commits.leader.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reconfigure(made, history, swap, back, func(*bolt.Tx) (state, error) {
		if samePools(made, r.state.pools) {
			return r.state, nil
		}
		return r.state.rebuilt(made)
	})
}

// reconfigure begins with the state that from gives.
func (r *Registry) reconfigure(pools []*pool, history int,
	swap func(assigned iter.Seq[mapping.Mapping], outside []Share) error, back func(), from func(*bolt.Tx) (state, error),
) error {
	var fresh state
	var refused error // by other than the disk
	swapped := false
	history = max(history, 0)
	err := r.update(func(tx *bolt.Tx) (err error) {
		if fresh, refused = from(tx); refused != nil {
			return refused
		}
		moved, err := moveUplink(tx, &fresh, r.state.pools, history, r.now())
		if err == nil && moved {
			fresh, err = r.reload(tx, pools)
		}
		if err != nil {
			return err
		}
		r.coming = fresh.assignments
		defer func() { r.coming = nil }()
		if refused = swap(fresh.mappings(), fresh.outside()); refused != nil {
			return refused
		}
		swapped = true
		if !moved {
			return errClean
		}
		return nil
	})
	switch {
	case err == nil || err == errClean:
		r.state, r.history = fresh, history
		r.state.bar(r.barred)
		r.prune()
		return nil
	case refused != nil:
		return refused
	case r.broken.Load() == nil:
		err = &WriteError{Path: r.path, Err: err}
	}
	if swapped {
		back()
	}
	return err
}

// Coming are the assignments as they will be: for swap, and nobody else.
func (r *Registry) Coming() []*Assignment { return slices.Collect(maps.Values(r.coming)) }

// prune shortens the history to its bound. What cannot be forgotten now, on a
// full disk, is when the next assignment ends: that is nobody's error.
func (r *Registry) prune() {
	err := r.update(func(tx *bolt.Tx) error {
		pruned, err := pruneHistory(tx, r.history)
		if err == nil && !pruned {
			return errClean
		}
		return err
	})
	if err != nil && err != errClean {
		r.log.Warn("the history stays longer than registry.history for now", "bound", r.history, "error", err)
	}
}

// reload reads what is on disk into pools like these, which have been used.
func (r *Registry) reload(tx *bolt.Tx, used []*pool) (state, error) {
	pools := make([]Pool, len(used))
	for i, p := range used {
		pools[i] = p.Pool
	}
	made, err := r.newPools(pools)
	if err != nil {
		return state{}, err
	}
	return loadState(tx, made, r.now())
}

// moveUplink ends, in the transaction, the assignments that an uplink pool has
// on an address it has no more, and begins the same on the new one. Those of an
// uplink pool that has another name now become the new one's: they follow it,
// now and later.
func moveUplink(tx *bolt.Tx, s *state, before []*pool, history int, now time.Time) (moved bool, err error) {
	for _, a := range s.assignments {
		p := s.uplinkPool(a, before)
		if p == nil || p.Name == a.Pool && p.IPv4.Contains(a.Address) {
			continue
		}
		moved = true
		begun := *a
		begun.Pool = p.Name
		if !p.IPv4.Contains(a.Address) {
			ended := *a
			ended.Until, begun.Since, begun.Address = later(now, a.Since), now, p.IPv4.Addr()
			if begun.Serial, err = nextSerial(tx); err != nil {
				return moved, err
			}
			begun.Succeeds = a.Serial
			if err := putHistory(tx, &ended, history); err != nil {
				return moved, err
			}
		}
		if err := putAssignment(tx, &begun); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// uplinkPool is the uplink pool that an assignment belongs to; nil: to none. One
// whose pool is gone belongs to it by address, or when its pool was the uplink's
// before.
func (s *state) uplinkPool(a *Assignment, before []*pool) *pool {
	if p := s.pool(a.Pool); p != nil {
		if p.Uplink {
			return p
		}
		return nil
	}
	for _, p := range s.pools {
		if !p.Uplink {
			continue
		}
		if p.IPv4.Contains(a.Address) || slices.ContainsFunc(before, func(b *pool) bool { return b.Uplink && b.Name == a.Pool }) {
			return p
		}
	}
	return nil
}

func samePools(a, b []*pool) bool {
	return slices.EqualFunc(a, b, func(a, b *pool) bool { return reflect.DeepEqual(a.Pool, b.Pool) })
}

// rebuilt is s with other pools.
func (s *state) rebuilt(pools []*pool) (state, error) {
	n := newState(pools)
	n.assignments = make(map[api.Key]*Assignment, len(s.assignments))
	n.ipv6 = make(map[netip.Addr]*Assignment, len(s.ipv6))
	n.serials = make(map[uint64]*Assignment, len(s.serials))
	for _, a := range s.assignments {
		if err := n.add(a); err != nil {
			return n, err
		}
	}
	for _, c := range s.cooling {
		own := *c // which knows its place in the heap
		if err := n.cool(&own); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s *state) mappings() iter.Seq[mapping.Mapping] {
	return func(yield func(mapping.Mapping) bool) {
		for _, a := range s.assignments {
			if !yield(a.Mapping()) {
				return
			}
		}
	}
}

// SetSink replaces check and sink; for callers that need the registry to make
// what the sink works on. Call it before the first Put.
func (r *Registry) SetSink(check func(Change) error, sink func(context.Context, Change) error) {
	r.check, r.sink = check, sink
}
