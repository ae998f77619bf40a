package fleet

import (
	"bytes"
	"slices"
	"sync"
	"time"
)

// silence is since when a relay's object is as it is, by this controller's clock.
type silence struct {
	version string
	since   time.Time
}

// listen notes which relays have said something since the last pass.
func (c *Controller) listen(relays []Relay) {
	if c.Now == nil {
		return
	}
	now, heard := c.Now(), make(map[string]silence, len(relays))
	for _, r := range relays {
		s, known := c.heard[r.Name]
		if !known || s.version != r.Version || now.Before(s.since) {
			s = silence{r.Version, now}
		}
		heard[r.Name] = s
	}
	c.heard = heard
}

// silent reports whether a relay has said nothing for so long that others are preferred:
// its natlessd says that its view is stale, and drains.
func (c *Controller) silent(name string) bool {
	return c.Now != nil && c.Patience > 0 && c.Now().Sub(c.heard[name].since) > c.Patience
}

// waits are the relays that have not said yet that they go by a block as it is now. Those
// that an operator has said are off are not waited for, nor those whose agent never ran. For a block that nobody has used yet
// neither are those that are silent, unless they keep what they were not let forget: they
// have no rule for it, and lose what others carry.
// At its end there is no such exception: what a relay may still go by is nobody else's.
func (p *pass) waits(b *Block) (names []string) {
	names = Unacknowledged(*b, p.relays)
	if b.Spec.State != Offered {
		return names
	}
	return slices.DeleteFunc(names, func(name string) bool {
		keeps := slices.ContainsFunc(p.relays, func(r Relay) bool { return r.Name == name && r.Status.Refused != nil })
		return p.silent(name) && !keeps
	})
}

// Unacknowledged are the relays that have not said that they go by a block as it is now, but
// for those that an operator has said are off.
func Unacknowledged(b Block, relays []Relay) (names []string) {
	at := revisionOf(b.Version)
	for _, r := range relays {
		if !r.Spec.Fenced && (r.Status.Renewed != "" || r.Broken != "") && (at == 0 || r.Status.Epoch < at) {
			names = append(names, r.Name)
		}
	}
	return names
}

// wakes tells which changes are worth a pass: that a relay lives is not.
func wakes() func(Event) bool {
	var mu sync.Mutex
	known := map[string]Object{}
	return func(e Event) bool {
		if e.Object.Kind != Relays || e.Gone {
			return true
		}
		is, err := parse[RelaySpec, RelayStatus](e.Object)
		mu.Lock()
		defer mu.Unlock()
		before, seen := known[is.Name]
		known[is.Name] = e.Object
		was, err2 := parse[RelaySpec, RelayStatus](before)
		return !seen || err != nil || err2 != nil || was.Status.Epoch != is.Status.Epoch || !bytes.Equal(before.Spec, e.Object.Spec)
	}
}
