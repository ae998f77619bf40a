package fleet

import (
	"context"
	"fmt"
	"time"
)

// Note is something that has happened to an object, for people.
type Note struct {
	Kind    Kind      `json:"kind"`
	Name    string    `json:"name"`
	Warning bool      `json:"warning,omitempty"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
}

// Recorder keeps notes for an hour or so. A store may be one.
type Recorder interface {
	Record(ctx context.Context, n Note) error
	Notes(ctx context.Context) ([]Note, error)
}

// A controller writes no more than so many notes at once, and one each so long: they are for
// people, who have the log for all of them.
const (
	mostNotes = 50
	noteEach  = 200 * time.Millisecond
)

// note tells people what has happened, if the store keeps notes.
func (c *Controller) note(ctx context.Context, k Kind, name string, warning bool, reason, format string, args ...any) {
	r, keeps := c.Store.(Recorder)
	if !keeps || c.Now == nil {
		return
	}
	now := c.Now()
	if c.notesAt.IsZero() || now.Before(c.notesAt) {
		c.notes, c.notesAt = mostNotes, now
	}
	if more := int(now.Sub(c.notesAt) / noteEach); more > 0 {
		c.notes, c.notesAt = min(mostNotes, c.notes+more), c.notesAt.Add(time.Duration(more)*noteEach)
	}
	if c.notes <= 0 {
		return
	}
	c.notes--
	if err := r.Record(ctx, Note{k, name, warning, reason, fmt.Sprintf(format, args...), now}); err != nil {
		c.Log.Warn("what has happened is not noted for people", "kind", k, "name", name, "reason", reason, "error", err)
	}
}

// changed reports whether a text about an object is another than before, to this controller.
func (c *Controller) changed(about, text string) bool {
	if c.said == nil {
		c.said = map[string]string{}
	}
	before := c.said[about]
	if text == "" {
		delete(c.said, about)
	} else {
		c.said[about] = text
	}
	return before != text
}

// notice notes what is to be seen of hosts and relays, once each.
func (p *pass) notice(ctx context.Context) error {
	if p.Now == nil {
		return nil
	}
	for _, h := range p.view.hosts {
		if why := p.wrong[h.Name]; p.changed("fabric of "+h.Name, why) && why != "" {
			p.Log.Warn("a host is lent nothing", "host", h.Name, "because", why)
			p.note(ctx, Hosts, h.Name, true, "NothingLent", "%s", why)
		}
		if e := h.Status.Error; p.changed("error of "+h.Name, e) && e != "" {
			reason := NotHeld
			if c := condition(h.Status.Conditions, Ready); c != nil && c.Reason == OtherFabric {
				reason = OtherFabric
			}
			p.note(ctx, Hosts, h.Name, true, reason, "%s", e)
		}
	}
	for _, r := range p.relays {
		why := r.Status.Error
		if why == "" && !r.Spec.Fenced && r.Status.Renewed != "" && p.silent(r.Name) {
			why = fmt.Sprintf("it has said nothing for %v: new blocks do not wait for it, those that end do", p.Patience)
		}
		if p.changed("relay "+r.Name, why) && why != "" {
			p.note(ctx, Relays, r.Name, true, "NotFollowing", "%s", why)
		}
	}
	return nil
}
