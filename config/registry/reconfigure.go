package registry

import (
	"context"
	"fmt"
	"iter"
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
// are free there. swap gets the mappings of all assignments as they will be
// and puts them into effect together with the rest of a new config; no change
// reaches the sink meanwhile. When swap fails nothing has changed.
//
// Where pools change, the state is built anew from memory, and shares the
// assignments with the old one: reading a million from disk would take seconds.
func (r *Registry) Reconfigure(pools []Pool, history int, swap func(iter.Seq[mapping.Mapping]) error) error {
	made, err := newPools(pools)
	if err != nil {
		return err
	}
	r.commits.leader.Lock()
	defer r.commits.leader.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reconfigure(made, history, swap, func(*bolt.Tx) (state, error) {
		if samePools(made, r.state.pools) {
			return r.state, nil
		}
		return r.state.rebuilt(made)
	})
}

// reconfigure begins with the state that from gives.
func (r *Registry) reconfigure(pools []*pool, history int, swap func(iter.Seq[mapping.Mapping]) error, from func(*bolt.Tx) (state, error)) error {
	var fresh state
	history = max(history, 0)
	err := r.db.Update(func(tx *bolt.Tx) (err error) {
		pruned, err := pruneHistory(tx, history)
		if err != nil {
			return err
		}
		if fresh, err = from(tx); err != nil {
			return err
		}
		moved, err := moveUplink(tx, &fresh, history, r.now())
		if err == nil && moved {
			fresh, err = loadState(tx, pools)
		}
		if err != nil {
			return err
		}
		if err := swap(fresh.mappings()); err != nil {
			return err
		}
		if !pruned && !moved {
			return errClean
		}
		return nil
	})
	if err != nil && err != errClean {
		return fmt.Errorf("registry %s: %w", r.db.Path(), err)
	}
	r.state, r.history = fresh, history
	r.state.bar(r.barred)
	return nil
}

// moveUplink ends, in the transaction, the assignments that an uplink pool has
// on an address it has no more, and begins the same on the new one.
func moveUplink(tx *bolt.Tx, s *state, history int, now time.Time) (moved bool, err error) {
	for _, a := range s.assignments {
		p := s.pool(a.Pool)
		if p == nil || !p.Uplink || p.IPv4.Contains(a.Address) {
			continue
		}
		moved = true
		ended, begun := *a, *a
		ended.Until, begun.Since, begun.Address = now, now, p.IPv4.Addr()
		if err := putHistory(tx, &ended, history); err != nil {
			return moved, err
		}
		if err := putAssignment(tx, &begun); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

func samePools(a, b []*pool) bool {
	return slices.EqualFunc(a, b, func(a, b *pool) bool { return reflect.DeepEqual(a.Pool, b.Pool) })
}

// rebuilt is s with other pools.
func (s *state) rebuilt(pools []*pool) (state, error) {
	n := newState(pools)
	n.assignments = make(map[api.Key]*Assignment, len(s.assignments))
	n.ipv6 = make(map[netip.Addr]*Assignment, len(s.ipv6))
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
