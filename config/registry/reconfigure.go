package registry

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/natless/natless/translator/ports"
	bolt "go.etcd.io/bbolt"
)

// Plan is other pools, and another bound of the history, that have been looked at.
// They come into force in two steps, so that who follows can be sure of the first
// and refuse before the second: Move has on disk what is assigned then, and Commit
// has the registry assign by the new pools. Assignments stay as they are, also those
// that no pool would give any more; only those of an uplink pool whose address
// changed move to the new address, if their ports are free there.
//
// Neither waits for anything but the disk, nor has anybody wait for longer than a
// put does.
type Plan struct {
	r       *Registry
	pools   []*pool
	history int
	moved   []moved
}

// moved is an assignment, and the same on another address or under another pool's
// name.
type moved struct {
	old, new *Assignment
	left     *address // where the old one's ports are kept until it is certain
	ended    uint64   // the old one's number in the history; 0: it is not there
}

// Plan looks at pools. One plan is made at a time.
func (r *Registry) Plan(pools []Pool, history int) (*Plan, error) {
	made, err := r.newPools(pools)
	if err != nil {
		return nil, err
	}
	return &Plan{r: r, pools: made, history: max(history, 0)}, nil
}

// Move moves the assignments that must, on disk and in memory, and gives those that
// have another address. The sink is not told of them: they are for who commits the
// plan. On an error nothing has changed.
func (p *Plan) Move() ([]Change, error) {
	r := p.r
	r.commits.leader.Lock()
	defer r.commits.leader.Unlock()
	if err := r.Broken(); err != nil {
		return nil, err
	}
	if samePools(p.pools, r.state.pools) {
		return nil, nil
	}
	var err error
	p.moved, err = r.move(p.pools, p.history)
	var changes []Change
	for _, m := range p.moved {
		if m.old.Address != m.new.Address {
			changes = append(changes, Change{Old: m.old, New: m.new})
		}
	}
	return changes, err
}

// move moves what must, where the pools are to be these.
func (r *Registry) move(pools []*pool, history int) ([]moved, error) {
	r.lock()
	defer r.unlock()
	all := r.state.moves(pools, r.now())
	if all == nil {
		return nil, nil
	}
	var refused error
	err := r.update(func(tx *bolt.Tx) error {
		t := &txn{Registry: r, tx: tx, now: r.now()}
		for i := range all {
			t.leave(&all[i])
		}
		for i := range all {
			if refused = t.arrive(&all[i], history); refused != nil {
				return refused
			}
		}
		at("registry: move")
		return nil
	})
	at("registry: moved")
	if err == nil {
		return all, nil
	}
	if broken := (storeError{}); refused == nil || errors.As(refused, &broken) {
		err = &WriteError{Path: r.path, Err: err}
	}
	if r.broken.Load() == nil {
		return nil, errors.Join(err, r.rebuild())
	}
	for i := range all { // what is assigned goes on as it is
		if err := r.state.comeBack(&all[i]); err != nil {
			return nil, errors.Join(r.Broken(), err)
		}
	}
	return nil, r.Broken()
}

// leave takes an assignment from its address. Nobody gets its ports before it is
// certain that it is not to come back.
func (t *txn) leave(m *moved) {
	m.left = t.state.remove(m.old)
	m.left.cooling += size(m.old.Ports)
}

// arrive notes an assignment where it has moved to. Nobody sends any more to what
// cools down there: that address was the host's, and was not until now.
func (t *txn) arrive(m *moved, history int) (err error) {
	for _, c := range slices.Clone(t.state.cooling) {
		if c.Address == m.new.Address && c.Assignment != m.old && overlap(c.Ports, m.new.Ports) {
			if err := t.warm(c); err != nil {
				return err
			}
		}
	}
	if m.new.Address == m.old.Address {
		m.settle()
	} else {
		ended := *m.old
		ended.Until, ended.held = later(t.now, m.old.Since), nil
		if m.ended, err = putHistory(t.tx, &ended, history); err != nil {
			return storeError{err}
		}
		if m.new.Serial, err = nextSerial(t.tx); err != nil {
			return storeError{err}
		}
		m.new.Succeeds = m.old.Serial
	}
	if err := t.state.add(m.new); err != nil {
		return err
	}
	if err := putAssignment(t.tx, m.new); err != nil {
		return storeError{err}
	}
	return nil
}

// settle gives the ports back that were kept. It may be called again.
func (m *moved) settle() {
	if m.left == nil {
		return
	}
	m.left.cooling -= size(m.old.Ports)
	m.left.give(m.old.Ports)
	m.left = nil
}

// overlap says whether two sets have a port in common; an empty one has all.
func overlap(a, b ports.Set) bool { return a.IsZero() || b.IsZero() || a.Overlaps(b) }

// Back undoes Move, where the plan does not come into force: on disk, too, as if it
// had never been. What has changed since stays.
func (p *Plan) Back() error {
	r := p.r
	r.commits.leader.Lock()
	defer r.commits.leader.Unlock()
	r.lock()
	defer r.unlock()
	back := slices.DeleteFunc(p.moved, func(m moved) bool {
		if r.state.has(m.new) {
			return false
		}
		m.settle() // it has gone, or has something else
		return true
	})
	p.moved = nil
	if len(back) == 0 {
		return nil
	}
	err := r.update(func(tx *bolt.Tx) error {
		t := &txn{Registry: r, tx: tx, now: r.now()}
		for i := range back {
			if err := t.comeBack(&back[i]); err != nil {
				return err
			}
		}
		at("registry: back")
		return nil
	})
	if err != nil && r.broken.Load() == nil {
		err = errors.Join(&WriteError{Path: r.path, Err: err}, r.rebuild())
	}
	return err
}

// comeBack puts an assignment where it was.
func (t *txn) comeBack(m *moved) error {
	if err := t.state.comeBack(m); err != nil {
		return err
	}
	if m.ended > 0 {
		n := number(m.ended)
		if key := t.tx.Bucket(bucketOrder).Get(n); key != nil {
			if err := forget(t.tx, n, slices.Clone(key)); err != nil {
				return err
			}
		}
	}
	return putAssignment(t.tx, m.old)
}

func (s *state) comeBack(m *moved) error {
	if s.has(m.old) {
		return nil // it never left
	}
	if s.has(m.new) {
		s.remove(m.new).give(m.new.Ports)
	}
	m.settle()
	return s.add(m.old)
}

// Outside is what Registry.Outside will be when the plan is in force.
func (p *Plan) Outside() []Share {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	return p.r.state.outside(func(a netip.Addr) *pool { return poolOf(p.pools, a) })
}

// Commit has the registry assign by the plan's pools. It fails for nobody: whatever
// could be in the way was in that of Move.
func (p *Plan) Commit() {
	r := p.r
	r.commits.leader.Lock()
	r.lock()
	for i := range p.moved {
		p.moved[i].settle()
	}
	r.state.adopt(p.pools)
	r.state.bar(r.barred)
	r.history = p.history
	r.unlock()
	r.commits.leader.Unlock()
	r.prune()
	r.Unmap()
}

// adopt puts pools in the place of others. What is known of their addresses moves
// with them: that is as much as there are addresses in pools that are others now.
func (s *state) adopt(pools []*pool) {
	kept := map[*pool]bool{}
	for i, p := range pools {
		if j := slices.IndexFunc(s.pools, func(o *pool) bool { return reflect.DeepEqual(o.Pool, p.Pool) }); j >= 0 {
			pools[i] = s.pools[j]
			kept[s.pools[j]] = true
		}
	}
	for _, p := range s.pools {
		if kept[p] {
			continue
		}
		for _, a := range p.addresses {
			delete(s.addresses, a.addr)
			if a.used() > 0 || len(a.owners) > 0 {
				stray := *a // without its neighbours, which would stay with it
				stray.pool, stray.barred, stray.fit = nil, "", maxPorts
				s.addresses[a.addr] = &stray
			}
		}
	}
	for _, p := range pools {
		if kept[p] {
			continue
		}
		for _, a := range p.addresses {
			if had := s.addresses[a.addr]; had != nil {
				a.taken, a.whole, a.assigned, a.cooling, a.owners = had.taken, had.whole, had.assigned, had.cooling, had.owners
			}
			s.addresses[a.addr] = a
		}
	}
	s.pools, s.strays = pools, new(strays)
}

// pruneAtOnce is how many entries of the history one transaction forgets: a put
// that comes meanwhile waits for no more.
const pruneAtOnce = 256

// prune shortens the history to its bound. On a full disk it only warns: the next
// assignment that ends shortens the history again.
func (r *Registry) prune() {
	for more := true; more; {
		err := r.update(func(tx *bolt.Tx) error {
			n, err := pruneHistory(tx, r.history, pruneAtOnce)
			if more = n == pruneAtOnce; err == nil && n == 0 {
				return errClean
			}
			return err
		})
		if err != nil && err != errClean {
			r.log.Warn("the history stays longer than registry.history for now", "bound", r.history, "error", err)
			return
		}
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

// moves are the assignments that an uplink pool has on an address it has no more,
// where the pools are to be these. Those of an uplink pool that has another name
// now become the new one's: they follow it, now and later.
func (s *state) moves(pools []*pool, now time.Time) (all []moved) {
	if !slices.ContainsFunc(pools, func(p *pool) bool { return p.Uplink }) {
		return nil
	}
	for seen := range look(s.assignments.all()) {
		p := s.uplinkPool(seen, pools)
		if p == nil || p.Name == seen.Pool && p.IPv4.Contains(seen.Address) {
			continue
		}
		a := seen.Clone()
		begun := *a
		begun.Pool, begun.held = p.Name, nil
		if !p.IPv4.Contains(a.Address) {
			begun.Since, begun.Address = now, p.IPv4.Addr()
		}
		all = append(all, moved{old: a, new: &begun})
	}
	return all
}

// uplinkPool is the uplink pool, of these, that an assignment belongs to; nil: to
// none. One whose pool is gone belongs to it by address, or when its pool was the
// uplink's before.
func (s *state) uplinkPool(a *Assignment, pools []*pool) *pool {
	if p := named(pools, a.Pool); p != nil {
		if p.Uplink {
			return p
		}
		return nil
	}
	for _, p := range pools {
		if !p.Uplink {
			continue
		}
		if p.IPv4.Contains(a.Address) || slices.ContainsFunc(s.pools, func(b *pool) bool { return b.Uplink && b.Name == a.Pool }) {
			return p
		}
	}
	return nil
}

func samePools(a, b []*pool) bool {
	return slices.EqualFunc(a, b, func(a, b *pool) bool { return reflect.DeepEqual(a.Pool, b.Pool) })
}

func named(pools []*pool, name string) *pool {
	for _, p := range pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// poolOf is the pool that an address is in, or nil.
func poolOf(pools []*pool, a netip.Addr) *pool {
	for _, p := range pools {
		if p.Contains(a) {
			return p
		}
	}
	return nil
}
