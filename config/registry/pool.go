package registry

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// maxAddresses bounds a pool, since each address costs memory from the start.
const maxAddresses = 1 << 16

// Pool is IPv4 addresses to assign from.
type Pool struct {
	Name string
	IPv4 netip.Prefix
	// Fleet says that the addresses are those of Blocks, and not IPv4. There may be none
	// of them.
	Fleet  bool
	Blocks []netip.Prefix
	// Draining are blocks that the host has as well, of which nothing more is given.
	Draining []netip.Prefix
	// Uplink says that IPv4 is the host's own address. When it changes, the
	// pool's workloads move to the new one with the ports they have.
	Uplink bool
	// Whole says that a workload gets an address with all its ports.
	Whole bool
	// Inside says that a workload that leaves it to the pool has its IPv4 inside.
	Inside bool
	// PortsPerWorkload is for who does not say how many; rounded up to a power
	// of two.
	PortsPerWorkload int
	// Ports is what may be assigned at all, sorted; empty: all. Port 0 never is.
	Ports ports.Set
	// Reserved ports are assigned only one by one, as extra ports.
	Reserved ports.Set
	// Cooldown is how long a set that was given back stays out of use.
	Cooldown time.Duration
}

// Prefixes are all that the pool has.
func (p *Pool) Prefixes() []netip.Prefix {
	if p.Fleet {
		return p.Blocks
	}
	return []netip.Prefix{p.IPv4}
}

// Contains reports whether the pool has an address.
func (p *Pool) Contains(a netip.Addr) bool {
	if !p.Fleet {
		return p.IPv4.Contains(a)
	}
	return slices.ContainsFunc(p.Blocks, func(b netip.Prefix) bool { return b.Contains(a) })
}

// where says which addresses the pool has.
func (p *Pool) where() string {
	if !p.Fleet {
		return p.IPv4.String()
	}
	if len(p.Blocks) == 0 {
		return "the fleet has lent it no block"
	}
	return strings.Trim(fmt.Sprint(p.Blocks), "[]")
}

// overlaps gives a prefix of the one and one of the other that have an address in common.
func (p *Pool) overlaps(o *Pool) (mine, theirs netip.Prefix, some bool) {
	for _, mine := range p.Prefixes() {
		for _, theirs := range o.Prefixes() {
			if mine.Overlaps(theirs) {
				return mine, theirs, true
			}
		}
	}
	return mine, theirs, false
}

// pool is a Pool at work.
type pool struct {
	Pool
	addresses []*address
	never     ports.Bitmap           // outside Ports
	closed    ports.Bitmap           // never, or reserved
	perAddr   int                    // ports of one address that can be assigned
	longest   int                    // run that an empty address has
	shares    int                    // of PortsPerWorkload that an empty address has
	next      int                    // address to start looking from
	least     int                    // no address has fewer ports in use
	inUse     *atomic.Pointer[inUse] // what the host uses of its own address; nil: of none
}

// CheckPools says what is wrong with the pools, as Open and Reconfigure would.
func CheckPools(pools []Pool) error {
	_, err := newPools(pools)
	return err
}

func newPools(pools []Pool) ([]*pool, error) {
	var made []*pool
	for i, p := range pools {
		for _, o := range pools[:i] {
			if o.Name == p.Name {
				return nil, fmt.Errorf("pool %q: there are two of that name", p.Name)
			}
			if mine, theirs, some := p.overlaps(&o); some {
				return nil, fmt.Errorf("pool %q: %s overlaps with %s of pool %q", p.Name, mine, theirs, o.Name)
			}
		}
		one, err := newPool(p)
		if err != nil {
			return nil, fmt.Errorf("pool %q: %w", p.Name, err)
		}
		made = append(made, one)
	}
	return made, nil
}

// newPools makes pools that know what the host uses.
func (r *Registry) newPools(pools []Pool) ([]*pool, error) {
	made, err := newPools(pools)
	for _, p := range made {
		p.inUse = &r.inUse
	}
	return made, err
}

func newPool(c Pool) (*pool, error) {
	p := &pool{Pool: c}
	p.IPv4 = p.IPv4.Masked()
	if err := p.makeAddresses(); err != nil {
		return nil, err
	}
	if c.Whole {
		p.perAddr, p.longest, p.shares = maxPorts, maxPorts, 1
		return p, nil
	}
	if !c.Ports.IsZero() {
		p.never = c.Ports.Complement().Bitmap()
	}
	p.never.Add(ports.Single(0))
	p.closed = p.never
	p.closed.AddSet(c.Reserved)
	p.perAddr = maxPorts - p.closed.Size()
	for n := maxPorts; n > 0 && p.longest == 0; n /= 2 {
		if _, ok := empty.FreeBlock(&p.closed, n); ok {
			p.longest = n
		}
	}
	p.PortsPerWorkload = powerOfTwo(c.PortsPerWorkload)
	if c.PortsPerWorkload < 1 || p.PortsPerWorkload > p.longest {
		return nil, fmt.Errorf("ports_per_workload %d: must be 1 to %d, the longest run of ports on an address that is a power of two "+
			"and aligned to itself", c.PortsPerWorkload, p.longest)
	}
	p.shares = empty.FreeBlocks(&p.closed, p.PortsPerWorkload)
	return p, nil
}

// makeAddresses makes the book-keeping of all its addresses.
func (p *pool) makeAddresses() error {
	n := 0
	for i, prefix := range p.Prefixes() {
		if !prefix.IsValid() || !prefix.Addr().Is4() {
			return fmt.Errorf("%v is no IPv4 prefix", prefix)
		}
		if n += 1 << (32 - prefix.Bits()); n > maxAddresses && p.Fleet {
			return fmt.Errorf("its blocks have more than %d addresses", maxAddresses)
		} else if n > maxAddresses {
			return fmt.Errorf("%s has more than %d addresses: use a longer prefix", prefix, maxAddresses)
		}
		if slices.ContainsFunc(p.Prefixes()[:i], prefix.Overlaps) {
			return fmt.Errorf("%s overlaps another block", prefix)
		}
	}
	p.addresses = make([]*address, 0, n)
	side := make([]address, n) // by side, since find looks at all of them
	for _, prefix := range p.Prefixes() {
		for a := prefix.Masked().Addr(); prefix.Contains(a); a = a.Next() {
			one := &side[len(p.addresses)]
			*one = address{addr: a, pool: p, fit: maxPorts}
			p.addresses = append(p.addresses, one)
		}
	}
	return nil
}

// powerOfTwo is the smallest power of two that is not less than n.
func powerOfTwo(n int) int {
	if n < 2 {
		return n
	}
	return 1 << bits.Len(uint(n-1))
}

// find looks for the emptiest address that has what is wanted. While workloads
// come, the next address as a rule is as empty as any, and that is known without
// a look at the others.
func (p *pool) find(size int, extra []uint16) (best *address, set ports.Set) {
	start, least := p.next, math.MaxInt
	for i := range p.addresses {
		at := start + i
		if at >= len(p.addresses) {
			at -= len(p.addresses)
		}
		a := p.addresses[at]
		if a.barred != "" {
			continue
		}
		least = min(least, a.used())
		if best != nil && a.used() >= best.used() {
			continue
		}
		if s, ok := a.find(p, size, extra); ok {
			best, set, p.next = a, s, at+1
			if a.used() <= p.least {
				return best, set
			}
		}
	}
	p.least = least
	return best, set
}

// PerAddress is for how many workloads that do not say how much an empty address of a
// pool has room.
func (r *Registry) PerAddress(name string) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p := r.state.pool(name); p != nil {
		return p.shares
	}
	return 0
}

// addressesAtOnce is how many addresses are counted while changes wait: it takes a
// microsecond or more to count the ports of one, and a pool may have 16,384.
const addressesAtOnce = 256

// Pools says how full the pools are. Changes are made meanwhile, and may be in what is
// said of one address and not yet in what is said of another.
func (r *Registry) Pools() []api.Pool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	// Sets that cooled down are only freed when somebody wants one.
	free := map[*address]int{}
	for now, i := r.now(), 0; i < len(r.state.cooling); i++ {
		if c := r.state.cooling[i]; !c.until.After(now) {
			free[r.state.addresses[c.Address]] += size(c.Ports)
		}
	}
	all, drained := make([]api.Pool, 0, len(r.state.pools)), r.drained()
	for _, p := range r.state.pools {
		u := p.usage(free, func() { r.mu.RUnlock(); r.mu.RLock() })
		u.Drained = drained[p.Name]
		if since, is := drained[wholeHost]; is && u.Drained.IsZero() {
			u.Drained = since
		}
		all = append(all, u)
	}
	return all
}

// headroom is how many more workloads the address has room for, if each takes
// what one gets that does not say how much. Of what cools down on it, some is
// free by now: that counts by its size, as if it had been given out in one piece.
func (p *pool) headroom(a *address, taken *ports.Bitmap, free int) int {
	switch {
	case a.barred != "":
		return 0
	case a.used() == free && a.inUse() == nil:
		return p.shares
	case p.Whole || a.whole:
		return 0
	}
	n := free / p.PortsPerWorkload
	if p.PortsPerWorkload <= a.fit {
		n += taken.FreeBlocks(&p.closed, p.PortsPerWorkload)
	}
	return n
}

// usage counts; of what cools down on an address, some is free by now. Reserved ports
// that somebody has as extra ports are counted as used, and raise what can be assigned.
// Between two addresses it lets others change something, by breathe.
func (p *pool) usage(free map[*address]int, breathe func()) api.Pool {
	u := api.Pool{
		Name: p.Name, Uplink: p.Uplink, Fleet: p.Fleet, WholeAddress: p.Whole, Inside: p.Inside,
		PortsPerWorkload: p.PortsPerWorkload, CooldownSeconds: p.Cooldown.Seconds(),
		Addresses: make([]api.PoolAddress, len(p.addresses)),
	}
	for i, a := range p.addresses {
		if i%addressesAtOnce == addressesAtOnce-1 {
			breathe()
		}
		free := min(free[a], a.cooling) // somebody may have it by now
		total, taken, host := p.perAddr, a.taken.Bitmap(), 0
		for j, w := range taken {
			total += bits.OnesCount64(w & p.closed[j])
		}
		if a.barred != "" {
			total = a.used() - free // which its owners keep
		}
		if in := a.inUse(); in != nil {
			for j, w := range in {
				host += bits.OnesCount64(w &^ taken[j] &^ p.never[j])
				taken[j] |= w
			}
		}
		u.Addresses[i] = api.PoolAddress{Address: a.addr, Workloads: len(a.owners),
			Ports: total, PortsUsed: a.assigned, PortsCooling: a.cooling - free, PortsOfHost: host, Barred: a.barred}
		u.PortsOfHost += host
		u.Workloads += len(a.owners)
		u.Ports += total
		u.PortsUsed += a.assigned
		u.PortsCooling += a.cooling - free
		u.Headroom += p.headroom(a, &taken, free)
	}
	return u
}

// poolNames lists the pools, for the error about one that does not exist.
func (s *state) poolNames() string {
	names := make([]string, len(s.pools))
	for i, p := range s.pools {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}
