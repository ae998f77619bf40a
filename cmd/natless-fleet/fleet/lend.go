package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
)

// lend reserves blocks for hosts that want more than they have, one after the other, so
// that what is scarce goes round.
func (p *pass) lend(ctx context.Context) error {
	p.wanting = map[string]int{}
	var all *claims
	for i := range p.pools {
		pool := &p.pools[i]
		wants := p.wants(pool)
		if len(wants) == 0 {
			continue
		}
		if all == nil {
			all = p.claims()
		}
		source := newSource(pool, all)
		for len(wants) > 0 {
			var still []want
			for _, w := range wants {
				block, ok := source.next()
				if !ok {
					p.wanting[pool.Name]++
					continue
				}
				if err := p.reserve(ctx, pool, w.host, block); err != nil {
					return err
				}
				all.add(block.String())
				if w.blocks--; w.blocks > 0 {
					still = append(still, w)
				}
			}
			wants = still
		}
	}
	return nil
}

type want struct {
	host   *Host
	blocks int
}

// wants are the hosts that want blocks of a pool, and how many more than they were lent
// already.
func (p *pass) wants(pool *Pool) (all []want) {
	for i := range p.view.hosts {
		h := &p.view.hosts[i]
		if n := p.lacks(pool, h); n > 0 {
			all = append(all, want{h, n})
		}
	}
	return all
}

// No address has room for more workloads than it has ports, and no host wants more than all
// addresses have: what one says beyond that is not counted with.
const (
	mostPerAddress = 1 << 16
	mostWanted     = mostPerAddress << 32
)

// mostAtOnce is how many blocks a host is reserved in one pass.
const mostAtOnce = 64

func (p *pass) lacks(pool *Pool, h *Host) int {
	if h.Spec.Drain || h.Spec.Fenced || h.Deleting || pool.Deleting || p.wrong[h.Name] != "" {
		return 0
	}
	wanted, perAddress := 0, 0
	for _, hp := range h.Status.Pools {
		if hp.Pool == pool.Name {
			wanted, perAddress = hp.Wanted, hp.PerAddress
		}
	}
	if wanted <= 0 || perAddress <= 0 {
		return 0
	}
	wanted, perAddress = min(wanted, mostWanted), min(perAddress, mostPerAddress)
	capacity := perAddress << (32 - pool.Spec.BlockLength)
	n, has := (wanted+capacity-1)/capacity, p.adopted[h.Name+"/"+pool.Name]
	for _, b := range p.ofHost[h.Name] {
		if b.Spec.Pool != pool.Name {
			continue
		}
		has++
		if held := h.Status.holds(b.Spec.IPv4); held == nil || held.Lease < b.Spec.Lease {
			n-- // it is on its way
		}
	}
	if most := pool.Spec.MaxBlocksPerHost; most > 0 {
		n = min(n, most-has)
	}
	return min(n, mostAtOnce)
}

func (p *pass) reserve(ctx context.Context, pool *Pool, h *Host, block netip.Prefix) error {
	b := Block{Name: NameOf(block.String()), Spec: BlockSpec{Pool: pool.Name, IPv4: block.String(), Host: h.Name, Lease: p.nextLease(), State: Reserved},
		Finalizers: []string{Finalizer}}
	b.Spec.IPv6 = p.ipv6(h.Name, block)
	_, err := Create(ctx, p.Store, Blocks, b)
	if err == nil {
		p.note(ctx, Hosts, h.Name, false, "BlockLent", "block %s of pool %s (lease %d)", b.Spec.IPv4, pool.Name, b.Spec.Lease)
		p.Log.Info("a block is lent", "block", b.Spec.IPv4, "pool", pool.Name, "host", h.Name, "lease", b.Spec.Lease)
	}
	return p.done(err)
}

// source gives what is free of a pool, in the order of its prefixes.
type source struct {
	prefixes []netip.Prefix
	bits     int
	at       netip.Addr // the next to look at; the zero Addr: the first of the first prefix
	taken    *claims
}

func newSource(pool *Pool, taken *claims) *source {
	prefixes, _ := pool.Spec.prefixes()
	return &source{prefixes: prefixes, bits: pool.Spec.BlockLength, taken: taken}
}

func (s *source) next() (netip.Prefix, bool) {
	for len(s.prefixes) > 0 {
		first := s.prefixes[0]
		if !s.at.IsValid() {
			s.at = first.Addr()
		}
		for first.Contains(s.at) {
			block := netip.PrefixFrom(s.at, s.bits)
			s.at = after(block)
			last := s.at.Compare(block.Addr()) < 0 // behind 255.255.255.255
			if !s.taken.overlap(block, false) {
				return block, true
			}
			if last {
				break
			}
		}
		s.prefixes, s.at = s.prefixes[1:], netip.Addr{}
	}
	return netip.Prefix{}, false
}

// judge has a pool's status say what is to be made of it.
func (p *pass) judge(ctx context.Context, pool *Pool, st *PoolStatus) {
	if p.Now == nil {
		return
	}
	now, all := p.Now(), pool.Status.Conditions
	switch {
	case st.Reason != "":
		all = with(all, now, Lending, false, "Invalid", st.Reason)
	case pool.Deleting:
		all = with(all, now, Lending, false, "Deleting", "it goes when hosts have nothing of it any more")
	default:
		all = with(all, now, Lending, true, "Valid", "")
	}
	if st.Wanting > 0 {
		all = with(all, now, Satisfied, false, "Exhausted", fmt.Sprintf("hosts that want more than it has: %d", st.Wanting))
	} else {
		all = with(all, now, Satisfied, true, "Enough", "")
	}
	st.Conditions = all
	for _, c := range all {
		if text := c.Reason + ": " + c.Message; c.Status == "True" {
			p.changed("pool "+pool.Name+" "+c.Type, "")
		} else if p.changed("pool "+pool.Name+" "+c.Type, text) {
			p.note(ctx, Pools, pool.Name, true, c.Reason, "%s", c.Message)
		}
	}
}

// report writes into pools what became of them.
func (p *pass) report(ctx context.Context) error {
	for i := range p.pools {
		pool := &p.pools[i]
		st := PoolStatus{Wanting: p.wanting[pool.Name]}
		prefixes, reason := pool.Spec.prefixes()
		st.Reason = reason
		for _, one := range prefixes {
			st.Blocks += 1 << (pool.Spec.BlockLength - one.Bits())
		}
		for _, b := range p.blocks {
			if b.Spec.Pool == pool.Name {
				st.Lent++
			}
		}
		p.judge(ctx, pool, &st)
		if reflect.DeepEqual(st, pool.Status) {
			continue
		}
		next := *pool
		next.Status = st
		if _, err := UpdateStatus(ctx, p.Store, Pools, next); err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}
