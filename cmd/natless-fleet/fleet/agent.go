package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/natless/natless/config/api"
)

// Natlessd is what the agent asks of the daemon of its host. *api.Client is one.
type Natlessd interface {
	Blocks(context.Context) (api.Blocks, error)
	PutBlocks(context.Context, api.BlockSet) (api.Blocks, error)
}

// Agent borrows for one host: it tells natlessd what the host is lent, and the fleet what
// the host holds and wants. What must not be forgotten is in natlessd and in the store; an
// agent may die at any moment, and two may run at once.
//
// It has natlessd give up what it is told to give up, by name, and what is empty and
// spare; never what is only missing.
type Agent struct {
	Name     string
	Machine  string // no other machine has it; "": nobody looks whether two have one name
	Replaces bool   // the machine that had the name is gone for good
	Store    Store
	Natlessd Natlessd
	Idle     time.Duration // how long a block is empty before it is given back
	Now      func() time.Time
	Log      *slog.Logger

	empty map[string]time.Time // since when blocks are empty, as far as this agent knows
}

// Step does what is to be done now. seen is the host as a watch told of it, or nil: then,
// and where it could be too old, the store is asked. It says whether it did something that
// the store was told of, or must be asked about again.
func (a *Agent) Step(ctx context.Context, seen *Host) (again bool, err error) {
	has, err := a.Natlessd.Blocks(ctx)
	if err != nil {
		return false, fmt.Errorf("natlessd: %w", err)
	}
	if seen != nil && tooOld(seen, has) {
		seen = nil
	}
	h, err := a.host(ctx, seen)
	if err != nil {
		return false, err
	}
	if mine, err := a.claim(ctx, h); !mine {
		return err == nil, err
	}
	wrong := ""
	if h.Spec.Epoch >= has.Epoch { // else the controller first learns how far this host is
		has, wrong, err = a.push(ctx, h, has)
		if err != nil {
			return false, err
		}
	} else {
		wrong = fmt.Sprintf("epoch %d of the store is older than %d, which this host goes by: it keeps what it has", h.Spec.Epoch, has.Epoch)
	}
	return a.tell(ctx, h, has, wrong)
}

// tooOld reports whether more hangs on a view than what a watch tells is good for: it is
// old, or it would have the host take or confirm a block. A host that was dead may have
// been fenced since, and what it was lent be somebody else's.
func tooOld(seen *Host, has api.Blocks) bool {
	return seen.Spec.Epoch < has.Epoch || len(takes(seen, has)) > 0 ||
		slices.ContainsFunc(has.Blocks, func(b api.HeldBlock) bool { return b.Unconfirmed })
}

// takes are the blocks that a host is lent, and natlessd does not have yet.
func takes(h *Host, has api.Blocks) (all []api.Block) {
	for _, e := range h.Spec.Blocks {
		p, err := netip.ParsePrefix(e.IPv4)
		held := slices.ContainsFunc(has.Blocks, func(b api.HeldBlock) bool { return b.IPv4.Overlaps(p) })
		if err == nil && e.State == HostLent && !held && ended(has, p) < e.Lease {
			all = append(all, api.Block{IPv4: p, Pool: e.Pool, Lease: e.Lease})
		}
	}
	return all
}

// host is the host's own object, which is made where there is none.
func (a *Agent) host(ctx context.Context, seen *Host) (*Host, error) {
	if seen != nil {
		return seen, nil
	}
	h, err := Get[HostSpec, HostStatus](ctx, a.Store, Hosts, a.Name)
	if errors.Is(err, ErrNotFound) {
		h, err = Create(ctx, a.Store, Hosts, Host{Name: a.Name, Finalizers: []string{Finalizer}})
	}
	return &h, err
}

// claim says whether the name is this machine's. It is written down first: of two that
// begin at once, one finds the other.
func (a *Agent) claim(ctx context.Context, h *Host) (mine bool, err error) {
	switch {
	case a.Machine == "" || h.Status.Machine == a.Machine:
		return true, nil
	case h.Status.Machine != "" && !a.Replaces:
		return false, fmt.Errorf("another machine (%s) is called %s in the fleet: give this one another name, or say that the other is gone for good (--replaces)",
			h.Status.Machine, a.Name)
	}
	next := *h
	next.Status.Machine = a.Machine
	_, err = UpdateStatus(ctx, a.Store, Hosts, next)
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
		err = nil
	}
	return false, err
}

// push has natlessd hold what the host is to hold, as far as that can be now. wrong is why
// it does not hold all of it.
func (a *Agent) push(ctx context.Context, h *Host, has api.Blocks) (now api.Blocks, wrong string, err error) {
	set, wrong, ok := a.set(h, has)
	if !ok {
		return has, wrong, nil
	}
	now, err = a.Natlessd.PutBlocks(ctx, set)
	if errors.Is(err, api.ErrInUse) { // somebody has come meanwhile: what was to go drains
		now, err = a.Natlessd.PutBlocks(ctx, kept(set, has))
	}
	problem := new(api.Problem)
	if errors.As(err, &problem) && problem.Code != api.CodeUnavailable && problem.Code != api.CodeStarting {
		a.Log.Error("natlessd refuses the blocks that this host is lent", "error", err)
		return has, err.Error(), nil
	}
	return now, wrong, err
}

// set is what natlessd is to be told; ok is false where nothing can be said yet.
func (a *Agent) set(h *Host, has api.Blocks) (set api.BlockSet, wrong string, ok bool) {
	set.Epoch = h.Spec.Epoch
	spare := a.spare(h, has)
	for _, b := range has.Blocks {
		e := h.Spec.entry(b.IPv4.String())
		if e == nil || e.Lease < b.Lease {
			if b.Unconfirmed {
				return set, fmt.Sprintf("%s is not confirmed: the fleet does not say that it is this host's", b.IPv4), false
			}
			set.Blocks = append(set.Blocks, b.Block)
			continue
		}
		switch {
		case e.State == HostRevoked:
			set.Revoked = append(set.Revoked, b.IPv4)
			continue
		case (e.State == HostDraining && b.Draining || b.IPv4 == spare) && b.Empty():
			continue // what drains was said to be about to go: natlessd may believe it of many at once
		}
		b.Draining, b.Lease = e.State == HostDraining, e.Lease
		set.Blocks = append(set.Blocks, b.Block)
	}
	set.Blocks = append(set.Blocks, takes(h, has)...)
	return set, "", true
}

// kept is a set with what it lacks, and what was there draining.
func kept(set api.BlockSet, has api.Blocks) api.BlockSet {
	for _, b := range has.Blocks {
		there := func(o api.Block) bool { return o.IPv4 == b.IPv4 }
		if !slices.ContainsFunc(set.Blocks, there) && !slices.Contains(set.Revoked, b.IPv4) {
			set.Blocks = append(set.Blocks, b.Block)
		}
	}
	return set
}

// ended is the last loan of any of a prefix's addresses that natlessd has ended.
func ended(has api.Blocks, p netip.Prefix) (lease uint64) {
	for _, r := range has.Returned {
		if r.IPv4.Overlaps(p) {
			lease = max(lease, r.Lease)
		}
	}
	return lease
}

// spare is a block that has been empty for a while and whose pool has enough without it;
// the zero Prefix: there is none. One at a time goes.
func (a *Agent) spare(h *Host, has api.Blocks) (spare netip.Prefix) {
	now, empty := a.Now(), map[string]time.Time{}
	for _, b := range has.Blocks {
		e := h.Spec.entry(b.IPv4.String())
		if !b.Empty() || b.Unconfirmed || b.Draining || e == nil || e.State != HostLent {
			continue
		}
		key := fmt.Sprint(b.IPv4, " ", b.Lease)
		since, known := a.empty[key]
		if !known || since.After(now) { // the clock was set back
			since = now
		}
		empty[key] = since
		i := slices.IndexFunc(has.Pools, func(p api.BlockPool) bool { return p.Pool == b.Pool })
		if i < 0 || now.Sub(since) < a.Idle || spare.IsValid() {
			continue
		}
		if p := has.Pools[i]; p.Headroom-p.PerAddress<<(32-b.IPv4.Bits()) >= p.High {
			spare = b.IPv4
		}
	}
	a.empty = empty
	return spare
}

// tell has the fleet know what the host holds and wants, if it does not.
func (a *Agent) tell(ctx context.Context, h *Host, has api.Blocks, wrong string) (again bool, err error) {
	st := a.status(h, has, wrong)
	if sameStatus(st, h.Status) {
		return false, nil
	}
	next := *h
	next.Status = st
	_, err = UpdateStatus(ctx, a.Store, Hosts, next)
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
		return true, nil
	}
	return true, err
}

func (a *Agent) status(h *Host, has api.Blocks, wrong string) HostStatus {
	if wrong == "" {
		wrong = otherFabric(h, has)
	}
	st := HostStatus{Machine: a.Machine, Epoch: has.Epoch, Error: wrong}
	if a.Machine == "" {
		st.Machine = h.Status.Machine
	}
	for _, b := range has.Blocks {
		st.Held = append(st.Held, Held{IPv4: b.IPv4.String(), Pool: b.Pool, Lease: b.Lease, Draining: b.Draining, Used: !b.Empty()})
	}
	slices.SortFunc(st.Held, func(a, b Held) int { return cmp.Compare(a.IPv4, b.IPv4) })
	for _, e := range h.Spec.Blocks {
		p, err := netip.ParsePrefix(e.IPv4)
		if err != nil || st.holds(e.IPv4) != nil {
			continue
		}
		// What natlessd does not hold and is not to take is as good as returned: it goes by
		// this epoch, so no older view can bring it.
		if ended(has, p) >= e.Lease || e.State != HostLent && has.Epoch >= h.Spec.Epoch {
			st.Returned = append(st.Returned, Returned{IPv4: e.IPv4, Lease: max(e.Lease, ended(has, p))})
		}
	}
	for _, p := range has.Pools {
		st.Pools = append(st.Pools, HostPool{Pool: p.Pool, PerAddress: p.PerAddress, Wanted: coarse(p.Wanted), Headroom: p.Headroom})
	}
	st.Conditions = a.conditions(h, st, otherFabric(h, has))
	return st
}

// conditions are the host's; other is how its edge and the fleet differ.
func (a *Agent) conditions(h *Host, st HostStatus, other string) []Condition {
	now, all := a.Now(), h.Status.Conditions
	switch st.Error {
	case "":
		all = with(all, now, Ready, true, "Holds", "")
	case other:
		all = with(all, now, Ready, false, OtherFabric, st.Error)
	default:
		all = with(all, now, Ready, false, NotHeld, st.Error)
	}
	switch leaving := h.Spec.Drain || h.Deleting || h.Spec.Fenced; {
	case leaving && len(st.Held) == 0:
		return with(all, now, Drained, true, "NothingHeld", "")
	case leaving:
		return with(all, now, Drained, false, "WorkloadsLeft", "blocks go back as workloads go")
	}
	return with(all, now, Drained, false, "Borrows", "")
}

// coarse is a number no lower that does not change with each container.
func coarse(n int) int {
	if n <= 1 {
		return n
	}
	return 1 << bits.Len(uint(n-1))
}

// sameStatus reports whether there is nothing new to tell. For how many there is room
// alone is not: that changes with each container.
func sameStatus(a, b HostStatus) bool {
	if len(a.Pools) != len(b.Pools) {
		return false
	}
	a.Pools, b.Pools = slices.Clone(a.Pools), slices.Clone(b.Pools)
	for i := range a.Pools {
		a.Pools[i].Headroom, b.Pools[i].Headroom = 0, 0
	}
	return reflect.DeepEqual(a, b)
}
