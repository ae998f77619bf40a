package fleet

import (
	"context"
	"slices"
	"time"
)

// What was deleted waits for what hangs on it: a block for its host and the relays, a host
// and a pool for their blocks, a relay for an operator's word that it is off.

func has(finalizers []string) bool { return slices.Contains(finalizers, Finalizer) }

func without(finalizers []string) []string {
	return slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool { return f == Finalizer })
}

// leave puts an object that is nobody's yet under the finalizer, or lets go one that was
// deleted and on which nothing hangs.
func leave[S, T any](ctx context.Context, p *pass, k Kind, o *Of[S, T], hangs bool) error {
	if o.Unread {
		return nil
	}
	next := *o
	switch mine := has(o.Finalizers); {
	case o.Deleting && mine && !hangs:
		next.Finalizers = without(o.Finalizers)
	case !o.Deleting && !mine:
		next.Finalizers = append(slices.Clone(o.Finalizers), Finalizer)
	default:
		return nil
	}
	next, err := Update(ctx, p.Store, k, next)
	if err == nil {
		*o = next
	}
	return p.done(err)
}

// leaves does so for all but blocks, which remove lets go.
func (p *pass) leaves(ctx context.Context) error {
	lent := map[string]bool{}
	for _, b := range p.blocks {
		lent[b.Spec.Pool] = true
	}
	for i := range p.pools {
		if err := leave(ctx, p, Pools, &p.pools[i], lent[p.pools[i].Name]); err != nil {
			return err
		}
	}
	for i := range p.view.hosts {
		h := &p.view.hosts[i]
		holds := len(h.Status.Held) > 0 || h.Broken != ""
		if err := leave(ctx, p, Hosts, h, len(p.ofHost[h.Name]) > 0 || holds && !h.Spec.Fenced); err != nil {
			return err
		}
	}
	for i := range p.relays {
		if err := leave(ctx, p, Relays, &p.relays[i], !p.relays[i].Spec.Fenced); err != nil {
			return err
		}
	}
	return nil
}

// remove has a block go.
func (p *pass) remove(ctx context.Context, b *Block) error {
	if has(b.Finalizers) {
		next := *b
		next.Finalizers = without(b.Finalizers)
		next, err := Update(ctx, p.Store, Blocks, next)
		if err != nil {
			return p.done(err)
		}
		if *b = next; b.Deleting {
			return p.done(nil)
		}
	}
	return p.done(Delete(ctx, p.Store, Blocks, *b))
}

// waitsLong is for how long a block waits before its status says for whom.
const waitsLong = 5 * time.Second

// saysWait writes into a block for whom it waits, when it does so for long, and that it does no more.
func (p *pass) saysWait(ctx context.Context, b *Block, names []string) error {
	if p.Now == nil {
		return nil
	}
	now, before := p.Now(), condition(b.Status.Conditions, Acknowledged)
	since, known := p.since[b.Name]
	if len(names) == 0 {
		delete(p.since, b.Name)
		if before == nil || before.Status == "True" {
			return nil
		}
		return p.writeStatus(ctx, b, with(b.Status.Conditions, now, Acknowledged, true, "Acknowledged", ""))
	}
	if !known || now.Before(since) {
		if p.since == nil {
			p.Controller.since = map[string]time.Time{}
		}
		p.since[b.Name] = now
		return nil
	}
	if now.Sub(since) < waitsLong {
		return nil
	}
	message := "of " + join(names)
	if before != nil && before.Status == "False" && before.Message == message {
		return nil
	}
	p.note(ctx, Blocks, b.Name, true, "Waiting", "%s, and waits for the acknowledgement %s", b.Spec.State, message)
	return p.writeStatus(ctx, b, with(b.Status.Conditions, now, Acknowledged, false, "Waiting", message))
}

// join names no more than a message has room for.
func join(names []string) (text string) {
	for i, name := range names {
		if i > 0 {
			text += ", "
		}
		if i == 10 {
			return text + "and others"
		}
		text += name
	}
	return text
}

func (p *pass) writeStatus(ctx context.Context, b *Block, conditions []Condition) error {
	next := *b
	next.Status.Conditions = conditions
	next, err := UpdateStatus(ctx, p.Store, Blocks, next)
	if err == nil {
		*b = next
	}
	return p.done(err)
}
