package lease

import "github.com/natless/natless/config/api"

// Exchange is which rules go with a change, and which come.
type Exchange struct{ Gone, Come []api.Rule }

// Change is the state after a delta was told, and what is another in it: what Apply of the whole set
// comes to, in a time that does not grow with the set. An error is an *api.Problem, and then
// nothing has changed.
func (r Relay) Change(d api.RuleDelta, by RelayAsked) (next Relay, x Exchange, err error) {
	next = Relay{r.Boot, d.Epoch, r.entries()}
	switch {
	case d.Epoch < r.Epoch:
		return r, x, older(d.Epoch, r.Epoch)
	case !r.Confirmed(by.Boot):
		return r, x, problem(api.CodeStale, "base", "nobody has told this relay a whole set since it was booted")
	case d.Digest == r.Digest() && (d.Base != d.Digest || len(d.Rules)+len(d.Gone) == 0): // as after an answer that was lost
		return next, x, nil
	case d.Base != r.Digest():
		return r, x, problem(api.CodeStale, "base", "it is a change of the rules %s, and this relay goes by %s: tell the whole set", d.Base, r.Digest())
	}
	for i, one := range d.Rules {
		if err := checkRule(i, one, by); err != nil {
			return r, x, err
		}
	}
	b := r.entries().changed()
	if x, err = b.exchange(d); err != nil {
		return r, Exchange{}, err
	}
	for i, one := range d.Rules {
		have, held := r.entries().of(one.IPv4, one.Ports)
		if err := fits(i, one, have, held); err != nil {
			return r, Exchange{}, err
		}
	}
	if err := b.anew(d.Rules); err != nil {
		return r, Exchange{}, err
	}
	if b.count > MostRules {
		return r, Exchange{}, tooMany(b.count)
	}
	if is := b.sum.String(); is != d.Digest {
		return r, Exchange{}, problem(api.CodeStale, "digest", "it comes to the rules %s, and %s are meant: tell the whole set", is, d.Digest)
	}
	b.by = 0
	next.book = b
	return next, x, nil
}

// exchange takes away what goes and what others take the place of, then adds what comes.
func (b *book) exchange(d api.RuleDelta) (x Exchange, err error) {
	for i, l := range d.Gone {
		if !names4(l.IPv4) {
			return x, problem(api.CodeInvalid, at("gone", i, "ipv4"), "%s is no IPv4 prefix", l.IPv4)
		}
		have, held := b.of(l.IPv4, l.Ports)
		if !held || have.Lease != l.Lease {
			return x, problem(api.CodeInvalid, at("gone", i, "lease"), "there is no rule of lease %d of %s", l.Lease, l.IPv4)
		}
		x.Gone = append(x.Gone, have)
		b.take(have)
	}
	replaced := make([]api.Rule, 0, len(d.Rules))
	for _, one := range d.Rules {
		if have, held := b.of(one.IPv4, one.Ports); held {
			replaced = append(replaced, have)
			b.take(have)
		}
	}
	for _, one := range d.Rules {
		if o, yes := b.overlaps(one); yes {
			return x, overlap(one, o)
		}
		if o, yes := b.leadsTo(one.IPv6); yes {
			return x, problem(api.CodeInvalid, "rules", "%s and %s both lead to %s", o, one.IPv4, one.IPv6)
		}
		b.put(one)
	}
	x.Gone, x.Come = append(x.Gone, replaced...), d.Rules
	for _, one := range x.Gone {
		if have, held := b.of(one.IPv4, one.Ports); !held || have.Lease != one.Lease {
			b.end(Ended{IPv4: one.IPv4, Ports: one.Ports, Lease: one.Lease})
		}
	}
	return x, nil
}
