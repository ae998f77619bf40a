package registry

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	bolt "go.etcd.io/bbolt"
)

// Get gives what the workload has, or ErrNotFound.
func (r *Registry) Get(k api.Key) (*Assignment, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if a := r.state.assignment(k); a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("workload %s: %w", k, ErrNotFound)
}

// BySerial gives the assignment with a serial while it lasts, or ErrNotFound.
func (r *Registry) BySerial(serial uint64) (*Assignment, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if h := r.state.bySerial(serial); h != nil {
		return h.assignment(), nil
	}
	return nil, fmt.Errorf("assignment %d: %w", serial, ErrNotFound)
}

// All gives every assignment, in no order; see Each.
func (r *Registry) All() []*Assignment {
	all := make([]*Assignment, 0, r.Len())
	for _, h := range r.present() {
		all = append(all, h.assignment())
	}
	return all
}

// Each yields every assignment, in no order. One that comes or goes while they are
// listed may be there or not. It is for looking at, and is gone with the next: who keeps
// one takes its Clone.
func (r *Registry) Each() iter.Seq[*Assignment] { return look(r.present()) }

// present is all that is held. What comes or goes meanwhile may be there or not: a
// change waits for one piece of the index, and not until a million are copied.
func (r *Registry) present() []*held {
	all := make([]*held, 0, r.Len()+r.Len()/64)
	for i := range 1 << pieceBits {
		r.mu.RLock()
		if order := r.state.order; order != nil && i == 0 {
			r.mu.RUnlock()
			return order
		}
		all = r.state.assignments.pieces[i].list(all)
		r.mu.RUnlock()
	}
	return all
}

// List gives up to limit assignments that match, sorted by key, from behind
// the key after. next is the after of the page behind, empty at the end.
func (r *Registry) List(f api.Filter, after string, limit int) (page []*Assignment, next string, err error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	err = r.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketAssignments).Cursor()
		begin, prefix := append([]byte(after), 0), []byte(f.Start)
		if f.Container != "" {
			prefix = []byte(f.Container + "/")
		}
		if bytes.Compare(begin, prefix) < 0 {
			begin = prefix
		}
		for k, _ := c.Seek(begin); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			container, iface, _ := bytes.Cut(k, []byte("/"))
			a := r.state.assignment(api.Key{ContainerID: string(container), Interface: string(iface)})
			if a == nil || !matches(a, f) {
				continue
			}
			if len(page) == limit {
				next = page[limit-1].Key.String()
				return nil
			}
			page = append(page, a)
		}
		return nil
	})
	return page, next, err
}

func matches(a *Assignment, f api.Filter) bool {
	return like(f.Name, a.Request.Name) && like(f.Network, a.Request.Network) && (f.Pool == "" || f.Pool == a.Pool) &&
		(!f.Address.IsValid() || f.Address == a.Address || slices.Contains(a.Request.IPv6, f.Address)) &&
		(!f.Within.IsValid() || f.Within.Contains(a.Address) || slices.ContainsFunc(a.Request.IPv6, f.Within.Contains))
}

// Mappings yields the mappings of all assignments, in no order, as Each does.
func (r *Registry) Mappings() iter.Seq[mapping.Mapping] {
	return func(yield func(mapping.Mapping) bool) {
		for a := range r.Each() {
			if !yield(a.Mapping()) {
				return
			}
		}
	}
}

// Whois says who had the address and port at a time; the zero time is now.
// ErrNotFound when nobody had, or the history does not reach back as far, and
// *AmbiguousError when the clock was set back and more than one had.
func (r *Registry) Whois(a netip.AddrPort, at time.Time) (*Assignment, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var found []*Assignment
	if addr := r.state.addresses[a.Addr()]; addr != nil {
		for o := range look(addr.owners) {
			// A beginning that is yet to come is that of a clock that was set back.
			if o.has(a.Port()) && (at.IsZero() || !at.Before(o.Since) || !at.Before(r.now())) {
				found = append(found, o.Clone())
			}
		}
	}
	if !at.IsZero() && a.Addr().Is4() {
		err := r.view(func(tx *bolt.Tx) error {
			past, err := whoHad(tx, a, at)
			found = append(found, past...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%s: %w", a, ErrNotFound)
	case 1:
		return found[0], nil
	}
	return nil, &AmbiguousError{a, found}
}

// whoHad looks through the assignments of the address that ended after at.
func whoHad(tx *bolt.Tx, a netip.AddrPort, at time.Time) (found []*Assignment, err error) {
	ip := a.Addr().As4()
	from := binary.BigEndian.AppendUint64(ip[:], uint64(at.UnixNano()+1))
	c := tx.Bucket(bucketHistory).Cursor()
	for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, ip[:]); k, v = c.Next() {
		ended, _, err := decode(v)
		if err != nil {
			return nil, fmt.Errorf("history %x: %w", k, err)
		}
		if !at.Before(ended.Since) && ended.has(a.Port()) {
			found = append(found, ended)
		}
	}
	return found, nil
}

// Reconcile frees what belongs to workloads whose network namespace is gone,
// and gives what it freed. Assignments are listed first and namespaces after,
// so that one that was made meanwhile is never taken for a stale one. list
// answers with a test whether the namespace of a path exists. Assignments
// without a namespace stay.
func (r *Registry) Reconcile(ctx context.Context,
	list func(context.Context) (exists func(path string) bool, err error)) ([]*Assignment, error) {
	all := r.Each()
	exists, err := list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var stale []*Assignment
	var ops []*op
	for a := range all {
		if a.Request.Netns != "" && !exists(a.Request.Netns) {
			stale = append(stale, a.Clone())
			ops = append(ops, free(a.Key, a.held))
		}
	}
	if ops == nil {
		return nil, nil
	}
	r.do(ctx, ops...) // each op has its error
	var freed []*Assignment
	for i, o := range ops {
		switch {
		case o.done && o.err == nil:
			freed = append(freed, stale[i])
		case !errors.Is(o.err, ErrNotFound): // not found: gone or put again meanwhile
			err = o.err
		}
	}
	return freed, errors.Join(err, ctx.Err())
}

// Owners gives the assignments of an address, in no order.
func (r *Registry) Owners(a netip.Addr) []*Assignment {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if addr := r.state.addresses[a]; addr != nil {
		var all []*Assignment
		for _, h := range addr.owners {
			all = append(all, h.assignment())
		}
		return all
	}
	return nil
}

// like says whether a text is as a pattern says, in which * is any text and ? any
// character; an empty pattern takes all.
func like(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == s
	}
	p, t := []rune(pattern), []rune(s)
	star, mark, i := -1, 0, 0
	for j := 0; j < len(t); {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i, j = i+1, j+1
		case star >= 0: // the last * takes one more
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(string(p[i:]), "*") == ""
}
