package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease/prefixes"
)

// held are rules by their blocks, with their digest.
type held struct {
	prefixes.Tree[api.Rule]
	sum api.RuleSum
}

func heldOf(rules []api.Rule) (h held) {
	by := prefixes.NewEdit()
	for _, r := range rules {
		h.put(r, by)
	}
	return h
}

// put has a rule in the place of its block's before.
func (h *held) put(r api.Rule, by prefixes.Edit) {
	if before := h.Get(r.IPv4); before.Lease > 0 {
		h.sum.Remove(before)
	}
	h.sum.Add(r)
	h.Put(r.IPv4, r, by)
}

func (h *held) drop(p netip.Prefix, by prefixes.Edit) {
	h.sum.Remove(h.Get(p))
	h.Drop(p, by)
}

// course is how the view stands to the rules that natlessd goes by, kept as either changes: what
// set finds by a look at everything.
type course struct {
	ipv4    []netip.Prefix            // in what blocks must lie
	there   prefixes.Tree[offer]      // the blocks that this relay serves, but for those that are reserved
	news    map[netip.Prefix]struct{} // of which the rules may be others
	missing map[netip.Prefix]struct{} // of which the rules are kept, though nobody has seen them end
	waits   uint64                    // the last revision that somebody waits for
	by      prefixes.Edit
}

// chart finds the course; without one all is told by sets.
func (a *RelayAgent) chart() bool {
	switch {
	case a.is.Digest == "" || a.is.Digest != a.rules.sum.String() || a.is.State == api.RelayUnconfirmed || a.is.Epoch == 0 || a.is.Epoch > a.epoch:
		a.course = nil
	case a.course != nil && slices.Equal(a.course.ipv4, a.is.IPv4):
	default:
		a.course = &course{ipv4: a.is.IPv4, news: map[netip.Prefix]struct{}{}, missing: map[netip.Prefix]struct{}{}, by: prefixes.NewEdit()}
		for _, o := range a.view {
			if !a.course.has(o) {
				a.course = nil
				return false
			}
		}
		for r := range a.rules.All() {
			a.course.news[r.IPv4] = struct{}{}
		}
	}
	return a.course != nil
}

// sees notes that a block of the view has become another. It cannot where two have the same
// addresses.
func (a *RelayAgent) sees(before offer, had bool, now offer, has bool) bool {
	c := a.course
	if had && c.there.Get(before.rule.IPv4).name == before.name {
		c.there.Drop(before.rule.IPv4, c.by)
		a.doubt(before.rule.IPv4)
	}
	if !has {
		return true
	}
	if !c.has(now) {
		return false
	}
	if _, serves := c.news[now.rule.IPv4]; serves {
		a.doubt(now.rule.IPv4)
	}
	return true
}

// has notes a block of the view. It cannot where another has the same addresses.
func (c *course) has(o offer) bool {
	if o.state == Reserved {
		return true
	}
	if o.state != Lent {
		c.waits = max(c.waits, o.at)
	}
	if !inside(c.ipv4, o.rule.IPv4) {
		return true
	}
	if c.there.Get(o.rule.IPv4).name != "" {
		return false
	}
	c.there.Put(o.rule.IPv4, o, c.by)
	c.news[o.rule.IPv4] = struct{}{}
	return true
}

// doubt notes that the rules of some addresses may be others.
func (a *RelayAgent) doubt(p netip.Prefix) {
	a.course.news[p] = struct{}{}
	for r := range a.rules.Near(p) {
		a.course.news[r.IPv4] = struct{}{}
	}
}

// delta is what natlessd is to be told, as set is; lacks is how many rules are kept that are
// missing, and news says that natlessd does not go by the view yet.
func (a *RelayAgent) delta() (d api.RuleDelta, lacks int, news bool) {
	sum := a.rules.sum
	for p := range a.course.news {
		have, want := a.rules.Get(p), a.wants(p)
		if want == nil {
			want = &api.Rule{}
		}
		if have.Lease == want.Lease {
			delete(a.course.news, p)
			continue
		}
		if have.Lease > 0 {
			sum.Remove(have)
		}
		if want.Lease > 0 {
			sum.Add(*want)
			d.Rules = append(d.Rules, *want)
		} else {
			d.Gone = append(d.Gone, api.Loan{IPv4: p, Lease: have.Lease})
		}
	}
	d.Base, d.Digest, d.Epoch = a.rules.sum.String(), sum.String(), a.epoch
	return d, len(a.course.missing), len(d.Rules)+len(d.Gone) > 0 || a.course.waits > a.is.Epoch
}

// wants is the rule of a block that natlessd is to go by; nil: none. That of one that is only
// missing is kept.
func (a *RelayAgent) wants(p netip.Prefix) *api.Rule {
	c := a.course
	delete(c.missing, p)
	o := c.there.Get(p)
	if o.name != "" {
		if !o.leads() || a.leaves(o.rule) {
			return nil
		}
		return &o.rule
	}
	have := a.rules.Get(p)
	if have.Lease == 0 || !inside(c.ipv4, p) {
		return nil
	}
	for range c.there.Near(p) { // somebody else has some of it by now
		return nil
	}
	c.missing[p] = struct{}{}
	return &have
}

// leads reports whether a block has a rule.
func (o offer) leads() bool { return o.state != Ended && o.rule.IPv6.IsValid() }

// pushDelta is push by what is another; done is false where the whole set is to be told.
func (a *RelayAgent) pushDelta(ctx context.Context, st *RelayStatus, confirm bool) (done bool, err error) {
	if !a.chart() {
		return false, nil
	}
	d, lacks, news := a.delta()
	if lacks > 0 {
		if a.word(lacks) {
			return false, nil
		}
		a.refuse(st, lacks, fmt.Sprintf("%d of %d blocks are gone, and were not seen to end", lacks, a.rules.Len()))
	}
	a.left = a.barredNow()
	if !news && !confirm {
		return true, nil
	}
	if !news {
		d.Epoch = a.is.Epoch // the same rules hold: nothing is written
	}
	is, err := a.Natlessd.PatchRules(ctx, d)
	var problem *api.Problem
	switch {
	case err == nil:
		a.changed(d, is)
		return true, nil
	case !errors.As(err, &problem) || problem.Code == api.CodeUnavailable || problem.Code == api.CodeStarting:
		return false, fmt.Errorf("natlessd: %w", err)
	}
	a.Log.Debug("the whole set is told", "error", err)
	a.course, st.Refused, st.Error = nil, nil, ""
	return false, nil
}

// barredNow is how many blocks are left out since natlessd does not take their rules.
func (a *RelayAgent) barredNow() (n int) {
	for _, some := range []map[netip.Prefix]uint64{a.barred, a.unfit} {
		for p, lease := range some {
			if o := a.course.there.Get(p); o.name != "" && o.leads() && o.rule.Lease == lease {
				n++
			}
		}
	}
	return n
}

// changed notes what natlessd goes by now.
func (a *RelayAgent) changed(d api.RuleDelta, is api.Relay) {
	by := prefixes.NewEdit()
	for _, l := range d.Gone {
		a.rules.drop(l.IPv4, by)
	}
	for _, r := range d.Rules {
		a.rules.put(r, by)
		if barred, is := a.barred[r.IPv4]; is && r.Lease > barred {
			delete(a.barred, r.IPv4)
		}
	}
	clear(a.course.news)
	a.goes(is)
}
