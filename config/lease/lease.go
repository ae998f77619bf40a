// Package lease has the rules by which a host holds blocks of IPv4 addresses that a
// fleet lends it, and a relay the rules that lead to hosts: what it may take, what it must
// keep, and what it never takes again.
// natlessd goes by them, and so does the simulation of a whole fleet: no file, no
// clock, no socket and no goroutine may enter here.
package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/natless/natless/config/api"
)

// Most is how many blocks a host may have: each is looked at beside each.
const Most = 4096

// State is what a host knows of its blocks. It outlives everything but the host's disk,
// and nobody changes one.
type State struct {
	// Boot is which boot of the host the blocks were confirmed in.
	Boot     string              `json:"boot,omitempty"`
	Epoch    uint64              `json:"epoch"`
	Blocks   []api.Block         `json:"blocks"`
	Returned []api.ReturnedBlock `json:"returned,omitempty"`
}

// Confirmed says that somebody has said, since the host was booted, that it has the
// blocks. A host that was dead, and was taken for dead, may have lost them meanwhile.
func (s State) Confirmed(boot string) bool { return s.Boot == boot }

// Equal reports whether two states are the same.
func (s State) Equal(o State) bool {
	return s.Boot == o.Boot && s.Epoch == o.Epoch && slices.Equal(s.Blocks, o.Blocks) && slices.Equal(s.Returned, o.Returned)
}

// Usable are the prefixes of which a pool may give something away.
func (s State) Usable(boot, pool string) (usable []netip.Prefix) {
	if !s.Confirmed(boot) {
		return nil
	}
	for _, b := range s.Blocks {
		if b.Pool == pool && !b.Draining {
			usable = append(usable, b.IPv4)
		}
	}
	return usable
}

// Use is what is in use of a block.
type Use struct {
	Workloads int
	Cooling   int
	Names     []string // of some of the workloads
}

// Asked is what a change is judged by, besides the state.
type Asked struct {
	Boot string
	// Check says why a block cannot be one of a pool on this host, with the field that
	// is wrong (ipv4, pool); nil: any can.
	Check func(api.Block) (field string, err error)
	Use   func(netip.Prefix) Use
}

// Apply is the state after a set was told, and the blocks that go with it. An error is
// an *api.Problem.
func (s State) Apply(set api.BlockSet, by Asked) (next State, gone []api.Block, err error) {
	if set.Epoch < s.Epoch && !set.Rewind {
		return s, nil, problem(api.CodeStale, "epoch", "%d is older than %d, which this host goes by", set.Epoch, s.Epoch)
	}
	if err := s.check(set, by); err != nil {
		return s, nil, err
	}
	gone, sudden := s.missing(set)
	for _, b := range gone {
		if slices.Contains(set.Revoked, b.IPv4) {
			continue
		}
		if u := by.Use(b.IPv4); u.Workloads > 0 || u.Cooling > 0 {
			return s, nil, problem(api.CodeInUse, "blocks", "%s of pool %s is missing, and %s: drain it first (draining), or revoke it",
				b.IPv4, b.Pool, u)
		}
	}
	if most := max(1, len(s.Blocks)/4); sudden > most && !set.Shrink {
		return s, nil, problem(api.CodeShrinks, "blocks", "%d of %d blocks are missing at once, and no more than %d are believed to be "+
			"without a word of an operator: nothing was changed", sudden, len(s.Blocks), most)
	}
	next = State{Boot: by.Boot, Epoch: set.Epoch, Blocks: slices.Clone(set.Blocks), Returned: s.ended(gone)}
	slices.SortFunc(next.Blocks, func(a, b api.Block) int { return a.IPv4.Compare(b.IPv4) })
	return next, gone, nil
}

func (u Use) String() string {
	var is []string
	if u.Workloads > 0 {
		text := fmt.Sprintf("%d workloads have something of it", u.Workloads)
		if len(u.Names) > 0 {
			text += " (" + strings.Join(u.Names, ", ")
			if len(u.Names) < u.Workloads {
				text += ", …"
			}
			text += ")"
		}
		is = append(is, text)
	}
	if u.Cooling > 0 {
		is = append(is, fmt.Sprintf("%d sets that were given back cool down", u.Cooling))
	}
	return strings.Join(is, ", and ")
}

// check says what is wrong with a set by itself, and by what this host has and had.
func (s State) check(set api.BlockSet, by Asked) error {
	if n := len(set.Blocks) + len(set.Revoked); n > Most {
		return problem(api.CodeInvalid, "blocks", "%d blocks are more than %d, which a host may have: lend it larger ones", n, Most)
	}
	if err := checkNamed("revoked", set.Revoked); err != nil {
		return err
	}
	for i, b := range set.Blocks {
		at := func(field string) string { return fmt.Sprintf("blocks[%d].%s", i, field) }
		if !b.IPv4.IsValid() || !b.IPv4.Addr().Is4() || b.IPv4 != b.IPv4.Masked() {
			return problem(api.CodeInvalid, at("ipv4"), "%s is no IPv4 prefix without bits beyond its length", b.IPv4)
		}
		if b.Lease == 0 {
			return problem(api.CodeInvalid, at("lease"), "is missing, or 0")
		}
		for _, o := range set.Blocks[:i] {
			if o.IPv4.Overlaps(b.IPv4) {
				return problem(api.CodeInvalid, at("ipv4"), "%s overlaps %s, which is in the set too", b.IPv4, o.IPv4)
			}
		}
		if slices.ContainsFunc(set.Revoked, b.IPv4.Overlaps) {
			return problem(api.CodeInvalid, at("ipv4"), "%s is among those that are revoked", b.IPv4)
		}
		if err := s.fits(b, at); err != nil {
			return err
		}
		if by.Check != nil {
			if field, err := by.Check(b); err != nil {
				return problem(api.CodeInvalid, at(field), "%v", err)
			}
		}
	}
	return nil
}

// fits says whether a block can be had by what this host has and had of its addresses.
func (s State) fits(b api.Block, at func(string) string) error {
	for _, r := range s.Returned {
		if r.IPv4.Overlaps(b.IPv4) && b.Lease <= r.Lease {
			return problem(api.CodeStale, at("lease"), "this host has ended lease %d of %s: lease %d of %s is not taken again", r.Lease, r.IPv4,
				b.Lease, b.IPv4)
		}
	}
	for _, h := range s.Blocks {
		switch {
		case h.IPv4 != b.IPv4:
		case b.Lease < h.Lease:
			return problem(api.CodeStale, at("lease"), "%d of %s is older than %d, which this host has", b.Lease, b.IPv4, h.Lease)
		case h.Pool != b.Pool:
			return problem(api.CodeInvalid, at("pool"), "%s is lent for pool %s: it must be given back before it is another's", b.IPv4, h.Pool)
		}
	}
	return nil
}

// missing are the blocks that a set lacks, and how many of them nobody has said before
// are to go.
func (s State) missing(set api.BlockSet) (gone []api.Block, sudden int) {
	there := make(map[netip.Prefix]bool, len(set.Blocks))
	for _, b := range set.Blocks {
		there[b.IPv4] = true
	}
	for _, b := range s.Blocks {
		if there[b.IPv4] {
			continue
		}
		gone = append(gone, b)
		if !b.Draining && !slices.Contains(set.Revoked, b.IPv4) {
			sudden++
		}
	}
	return gone, sudden
}

// ended are the loans that have ended when these have, too: of each block the last.
func (s State) ended(gone []api.Block) (all []api.ReturnedBlock) {
	last := map[netip.Prefix]uint64{}
	for _, r := range s.Returned {
		last[r.IPv4] = r.Lease
	}
	for _, b := range gone {
		last[b.IPv4] = max(last[b.IPv4], b.Lease)
	}
	for p, n := range last {
		all = append(all, api.ReturnedBlock{IPv4: p, Lease: n})
	}
	slices.SortFunc(all, func(a, b api.ReturnedBlock) int { return a.IPv4.Compare(b.IPv4) })
	return all
}

// Wanted is for how many workloads a pool wants room besides, so that there is room for
// some before somebody asks.
func Wanted(p api.BlockPool) int {
	if p.Headroom >= p.Low {
		return 0
	}
	return p.Low - p.Headroom
}

func problem(code api.Code, field, format string, args ...any) error {
	return &api.Problem{Code: code, Field: field, Detail: fmt.Sprintf(format, args...)}
}
