package fleet

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// Controller is the only writer of blocks and of what hosts are told of them. That there
// is one of them spares work and no more: each of its writes is right whenever it comes,
// whatever others have done meanwhile, or fails.
//
//   - A block is Reserved first. It is Lent when a list that was read after it was made has
//     nothing that overlaps: of two that are made at once, at least the later is seen by
//     who would lend it.
//   - A block goes when its host has said that it has ended that very loan, or when an
//     operator has fenced the host, which is written into the host first.
//   - Where there are relays, a block is lent when all that live have said that they lead it
//     there, or to nobody else if it is routed to its host, and goes when all have said that
//     they do not: no time-out, but an operator, says that one is off.
//   - What is missing means nothing. A host that holds what nobody knows of, as after
//     objects were deleted by hand, is lent it again.
type Controller struct {
	Store Store
	Log   *slog.Logger
	// Now tells how long relays are silent; nil: none ever is.
	Now func() time.Time
	// Patience is how long a relay may be silent before new blocks are used without its
	// acknowledgement: longer than it takes until it says that its view is stale.
	Patience time.Duration

	heard   map[string]silence
	since   map[string]time.Time // blocks wait for relays, by their names
	said    map[string]string    // to people
	notes   int                  // that may be written at once
	notesAt time.Time
}

// Pass does what is to be done now, and says whether it wrote anything: then there may
// be more. A write that somebody else was faster with is for the next pass.
func (c *Controller) Pass(ctx context.Context) (wrote bool, err error) {
	v, err := look(ctx, c.Store)
	if err != nil {
		return false, err
	}
	c.listen(v.relays)
	p := &pass{Controller: c, view: v, adopted: map[string]int{}}
	for _, step := range []func(context.Context) error{p.settle, p.free, p.hosts, p.lend, p.leaves, p.report, p.notice} {
		if err := step(ctx); err != nil {
			return p.wrote, err
		}
	}
	return p.wrote, nil
}

// pass is one pass of a controller.
type pass struct {
	*Controller
	*view
	wrote   bool
	adopted map[string]int // blocks in this pass, by host and pool
	wanting map[string]int // hosts that want more than there is, by pool
}

// done takes the result of a write. What somebody else has changed is looked at again.
func (p *pass) done(err error) error {
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrExists) {
		p.wrote = true
		return nil
	}
	if err == nil {
		p.wrote = true
	}
	return err
}

// settle lends what was reserved, or lets it go where somebody else has any of it. What
// relays lead to its host is offered to them first.
func (p *pass) settle(ctx context.Context) error {
	all := new(claims)
	for _, b := range p.blocks {
		all.add(b.Spec.IPv4)
	}
	for i := range p.blocks {
		b := &p.blocks[i]
		h := p.byHost[b.Spec.Host]
		gone := h == nil || h.Spec.Fenced
		var err error
		switch b.Spec.State {
		case Reserved:
			prefix, wrong := netip.ParsePrefix(b.Spec.IPv4)
			if wrong != nil || gone || all.overlap(prefix, true) {
				err = p.remove(ctx, b)
				break
			}
			next := Lent
			if len(p.relays) > 0 {
				next = Offered
			}
			err = p.become(ctx, b, next)
		case Offered:
			if gone {
				err = p.become(ctx, b, Ended)
			} else if names := p.waits(b); len(names) > 0 {
				err = p.saysWait(ctx, b, names)
			} else {
				err = p.become(ctx, b, Lent)
			}
		case Lent:
			err = p.saysWait(ctx, b, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// become writes a block's state.
func (p *pass) become(ctx context.Context, b *Block, state BlockState) error {
	next := *b
	next.Spec.State = state
	next, err := Update(ctx, p.Store, Blocks, next)
	if err == nil {
		*b = next
	}
	return p.done(err)
}

// free removes blocks of loans that have ended, when no relay leads to who had them.
func (p *pass) free(ctx context.Context) error {
	for i := range p.blocks {
		b := &p.blocks[i]
		switch b.Spec.State {
		case Lent:
			if !p.hasEnded(b) {
				continue
			}
			if len(p.relays) > 0 { // else there is nothing to wait for
				if err := p.become(ctx, b, Ended); err != nil {
					return err
				}
				continue
			}
		case Ended:
			if names := p.waits(b); len(names) > 0 {
				if err := p.saysWait(ctx, b, names); err != nil {
					return err
				}
				continue
			}
		default:
			continue
		}
		if err := p.remove(ctx, b); err != nil {
			return err
		}
		p.note(ctx, Hosts, b.Spec.Host, false, "BlockEnded", "block %s of pool %s is its no more (lease %d)", b.Spec.IPv4, b.Spec.Pool, b.Spec.Lease)
		p.Log.Info("a block is free", "block", b.Spec.IPv4, "pool", b.Spec.Pool, "was", b.Spec.Host, "lease", b.Spec.Lease)
	}
	return nil
}

// hasEnded reports whether a loan has ended, by its host's word or an operator's.
func (p *pass) hasEnded(b *Block) bool {
	h := p.byHost[b.Spec.Host]
	if h == nil {
		return false // who deletes a host by hand finds it again when its agent says what it holds
	}
	if h.Spec.Fenced {
		if e := h.Spec.entry(b.Spec.IPv4); e == nil || e.State == HostRevoked {
			return true
		}
	}
	return h.Status.returned(HostBlock{IPv4: b.Spec.IPv4, Lease: b.Spec.Lease})
}

// hosts tells each host what it is lent.
func (p *pass) hosts(ctx context.Context) error {
	for i := range p.view.hosts {
		h := &p.view.hosts[i]
		if h.Unread {
			continue
		}
		next, err := p.tell(ctx, h)
		if err != nil {
			return err
		}
		goes := h.Status.Epoch
		if goes >= plausible {
			goes = 0 // whatever it says: what is told comes behind what was
		}
		if slices.Equal(next, h.Spec.Blocks) && h.Spec.Epoch >= goes {
			continue
		}
		told := *h
		told.Spec.Blocks, told.Spec.Epoch = next, max(h.Spec.Epoch, goes)+1
		told, err = Update(ctx, p.Store, Hosts, told)
		if err := p.done(err); err != nil {
			return err
		}
		if err == nil {
			*h = told
		}
	}
	return nil
}

// tell is what a host is to be told.
func (p *pass) tell(ctx context.Context, h *Host) (next []HostBlock, err error) {
	for _, e := range h.Spec.Blocks {
		if h.Status.returned(e) {
			if b := p.lent[e.IPv4]; b != nil && b.Spec.Host == h.Name && b.Spec.Lease <= e.Lease && b.Spec.State == Lent {
				next = append(next, e) // the block goes first
			}
			continue
		}
		e.State = p.stateOf(h, e)
		next = append(next, e)
	}
	knows := func(prefix string) bool {
		return slices.ContainsFunc(next, func(e HostBlock) bool { return e.IPv4 == prefix }) || h.Spec.entry(prefix) != nil
	}
	for _, b := range p.ofHost[h.Name] {
		if b.Spec.State == Lent && !knows(b.Spec.IPv4) && !h.Spec.Fenced {
			e := HostBlock{IPv4: b.Spec.IPv4, Pool: b.Spec.Pool, Lease: b.Spec.Lease, State: HostLent}
			e.State = p.stateOf(h, e)
			next = append(next, e)
		}
	}
	for _, held := range h.Status.Held {
		if knows(held.IPv4) || h.Status.returned(HostBlock{IPv4: held.IPv4, Lease: held.Lease}) { // who says both has not
			continue
		}
		e, err := p.adopt(ctx, h, held)
		if err != nil {
			return nil, err
		}
		if e != nil {
			next = append(next, *e)
		}
	}
	slices.SortFunc(next, func(a, b HostBlock) int { return cmp.Compare(a.IPv4, b.IPv4) })
	return next, nil
}

// stateOf is what is to become of a block that a host has, or is to have.
func (p *pass) stateOf(h *Host, e HostBlock) HostBlockState {
	switch pool := p.pool(e.Pool); {
	case e.State == HostRevoked, h.Spec.Fenced, slices.Contains(h.Spec.Revoke, e.IPv4):
		return HostRevoked // for ever: others may have it by now
	case h.Spec.Drain, h.Deleting, pool == nil, pool.Deleting, !pool.Spec.has(e.IPv4):
		return HostDraining
	}
	if b := p.lent[e.IPv4]; b != nil && b.Deleting && b.Spec.Host == h.Name {
		return HostDraining
	}
	return HostLent
}

// adopt is what to do about a block that a host holds and nobody speaks of: it goes on
// as it is where nobody else has any of it.
func (p *pass) adopt(ctx context.Context, h *Host, held Held) (*HostBlock, error) {
	e := &HostBlock{IPv4: held.IPv4, Pool: held.Pool, Lease: held.Lease, State: HostRevoked}
	prefix, err := netip.ParsePrefix(held.IPv4)
	if err != nil || !p.credible(held) {
		p.Log.Warn("a host says that it holds a block that it cannot have been lent", "host", h.Name, "block", held.IPv4, "pool", held.Pool)
		return nil, nil
	}
	if h.Spec.Fenced {
		return e, nil
	}
	if b := p.lent[held.IPv4]; b != nil && b.Spec.Host == h.Name && b.Spec.Lease == held.Lease {
		if b.Spec.State == Ended {
			return e, nil
		}
		return nil, nil // reserved for it, or offered: a later pass lends it
	}
	if later, some := p.overlapping(prefix, held.Lease); later {
		return e, nil // somebody has it by a later loan
	} else if some {
		return nil, nil // by an earlier one, as of a backup of the store: who had it then will say that he has not
	}
	if p.full(h, held.Pool) {
		p.Log.Warn("a host says that it holds more blocks than it may have", "host", h.Name, "block", held.IPv4, "pool", held.Pool)
		return nil, nil
	}
	p.Log.Warn("a host holds a block that nobody speaks of: it is lent it again", "host", h.Name, "block", held.IPv4, "lease", held.Lease)
	b := Block{Name: NameOf(held.IPv4), Spec: BlockSpec{Pool: held.Pool, IPv4: held.IPv4, Host: h.Name, Lease: held.Lease, State: Reserved},
		Finalizers: []string{Finalizer}}
	if b.Spec.IPv6 = p.ipv6(h.Name, prefix); b.Spec.IPv6 != "" {
		b.Spec.Rule = p.nextLease() // relays have seen its rule end
	}
	_, err = Create(ctx, p.Store, Blocks, b)
	if err == nil {
		p.adopted[h.Name+"/"+held.Pool]++
	}
	return nil, p.done(err)
}

// overlapping reports whether there are blocks with any of a prefix's addresses, and one by
// a later loan than this.
func (p *pass) overlapping(prefix netip.Prefix, lease uint64) (later, some bool) {
	for _, b := range p.blocks {
		o, err := netip.ParsePrefix(b.Spec.IPv4)
		if err != nil || !o.Overlaps(prefix) {
			continue
		}
		some = true
		later = later || b.Spec.Lease >= lease
	}
	return later, some
}

// full reports whether a host has as many blocks of a pool as it may have.
func (p *pass) full(h *Host, pool string) bool {
	has, most := p.adopted[h.Name+"/"+pool], p.pool(pool).Spec.MaxBlocksPerHost
	for _, b := range p.ofHost[h.Name] {
		if b.Spec.Pool == pool {
			has++
		}
	}
	return most > 0 && has >= most
}
