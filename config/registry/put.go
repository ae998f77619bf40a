package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/special"
)

// Bounds of a request.
const (
	maxIPv6  = 8
	maxExtra = 64
	maxName  = 512
	maxPath  = 4095 // PATH_MAX without its zero

	maxLabels    = 64
	maxLabelText = 317 // of a key: a prefix of 253, a slash and 63, as Kubernetes has it
)

// Put gives the workload what it asks for, or what it has already. When it
// returns, the assignment is on disk and the sink has it. Errors: *FieldError,
// *ExhaustedError, *ConflictError, those of the sink and of the disk; then
// nothing has changed.
func (r *Registry) Put(ctx context.Context, k api.Key, q api.Request) (*Assignment, error) {
	if err := checkKey(k); err != nil {
		return nil, err
	}
	q, err := normal(q)
	if err != nil {
		return nil, err
	}
	var given *Assignment
	o := new(op)
	o.apply = func(t *txn) (err error) {
		given, o.change, err = t.put(k, q)
		return err
	}
	if err := r.do(ctx, o); err != nil {
		return nil, err
	}
	return given, nil
}

// Delete gives back what the workload has. Its set cools down. ErrNotFound
// when it has nothing.
func (r *Registry) Delete(ctx context.Context, k api.Key) error {
	return r.do(ctx, free(k, nil))
}

// free gives back what the workload has, if it still is what it was seen to
// have.
func free(k api.Key, seen *held) *op {
	o := new(op)
	o.apply = func(t *txn) error {
		a := t.state.assignment(k)
		if a == nil || seen != nil && seen != a.held {
			return fmt.Errorf("workload %s: %w", k, ErrNotFound)
		}
		o.change.Old = a
		return t.end(a, true)
	}
	return o
}

var (
	containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
	// hostInterface is what the kernel takes for a device (dev_valid_name).
	hostInterface = regexp.MustCompile(`^[^/:%\s\x00-\x20]{1,15}$`)
	iface         = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)
)

func checkKey(k api.Key) error {
	if !containerID.MatchString(k.ContainerID) {
		return field("container_id", "must be 1 to 128 letters, digits and _.-, a letter or digit first")
	}
	if !iface.MatchString(k.Interface) {
		return field("interface", "must be 1 to 15 letters, digits and _.-")
	}
	return nil
}

// normal checks what can be checked of a request without its pool, and sorts it, so
// that equal requests compare as equal.
func normal(q api.Request) (api.Request, error) {
	switch {
	case len(q.IPv6) == 0:
		return q, field("ipv6", "is missing: the workload needs an IPv6 address")
	case len(q.IPv6) > maxIPv6:
		return q, field("ipv6", "has %d addresses, the limit is %d", len(q.IPv6), maxIPv6)
	case !text(q.Name, maxName):
		return q, field("name", "must be at most %d bytes of printable text", maxName)
	case !text(q.Network, maxName):
		return q, field("network", "must be at most %d bytes of printable text", maxName)
	case !text(q.Netns, maxPath) || q.Netns != "" && q.Netns[0] != '/':
		return q, field("netns", "must be an absolute path")
	case q.HostInterface != "" && !hostInterface.MatchString(q.HostInterface):
		return q, field("host_interface", "must be the name of an interface, 1 to 15 bytes")
	case q.Ports < 0 || q.Ports > maxPorts:
		return q, field("ports", "%d is not between 0 and %d", q.Ports, maxPorts)
	case q.Address.IsValid() && !q.Address.Is4():
		return q, field("address", "%s is no IPv4 address", q.Address)
	case !slices.Contains([]string{"", api.IPv4Inside, api.IPv4Prefix, api.IPv4ByPool}, q.Inside):
		return q, field("inside", "%q is none of inside, prefix, pool", q.Inside)
	case len(q.ExtraPorts) > maxExtra:
		return q, field("extra_ports", "has %d ports, the limit is %d", len(q.ExtraPorts), maxExtra)
	case len(q.Labels) > maxLabels:
		return q, field("labels", "are %d, the limit is %d", len(q.Labels), maxLabels)
	}
	for k, v := range q.Labels {
		if k == "" || !text(k, maxLabelText) || !text(v, maxLabelText) {
			return q, field("labels", "%.40q must be a key and a value of at most %d bytes of printable text", k, maxLabelText)
		}
	}
	if q.Labels = maps.Clone(q.Labels); len(q.Labels) == 0 {
		q.Labels = nil
	}
	for i, a := range q.IPv6 {
		if !a.Is6() || a.Zone() != "" || special.Never(a) {
			return q, field(fmt.Sprintf("ipv6[%d]", i), "%s is no IPv6 unicast address that can be routed", a)
		}
		if slices.Contains(q.IPv6[:i], a) {
			return q, field(fmt.Sprintf("ipv6[%d]", i), "%s is there twice", a)
		}
	}
	extra := slices.Sorted(slices.Values(q.ExtraPorts))
	if len(extra) != len(slices.Compact(slices.Clone(extra))) || len(extra) > 0 && extra[0] == 0 {
		return q, field("extra_ports", "must be different ports from 1 to 65535")
	}
	q.IPv6, q.ExtraPorts = slices.Clone(q.IPv6), extra
	return q, nil
}

func text(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}

// put decides, and changes state and disk.
func (t *txn) put(k api.Key, q api.Request) (*Assignment, Change, error) {
	var none Change
	if err := t.ipv6Free(k, q.IPv6); err != nil {
		return nil, none, err
	}
	old := t.state.assignment(k)
	fresh := &Assignment{Key: k, Request: q, Since: t.now}
	if old != nil {
		fresh.Succeeds = old.Serial
	}
	if err := t.give(fresh, old); err != nil {
		return nil, none, err
	}
	if err := t.placeInside(fresh, old); err != nil {
		return nil, none, err
	}
	keep := old != nil && old.Address == fresh.Address && old.Ports.Equal(fresh.Ports)
	if keep && slices.Equal(old.Request.IPv6, q.IPv6) && (old.inside != 0) == (fresh.inside != 0) {
		return t.rename(old, fresh)
	}
	change := Change{Old: old, New: fresh}
	if err := t.check(change); err != nil {
		return nil, none, err
	}
	if c := t.state.lastCooled[k]; c != nil && c.Address == fresh.Address && c.Ports.Equal(fresh.Ports) {
		if err := t.warm(c); err != nil {
			return nil, none, err
		}
	}
	if old != nil {
		if err := t.end(old, !keep); err != nil {
			return nil, none, err
		}
	}
	return fresh, change, t.begin(fresh)
}

// give decides on address and ports. What the workload has stays when it asks
// for the same as before: the pools may have changed since, the workload shall
// not notice.
func (t *txn) give(fresh, old *Assignment) error {
	if old != nil && sameWish(old.Request, fresh.Request) {
		fresh.Pool, fresh.Address, fresh.Ports, fresh.size = old.Pool, old.Address, old.Ports, old.size
		return nil
	}
	err := t.choose(fresh, old)
	if full := (*ExhaustedError)(nil); errors.As(err, &full) {
		if freed, broken := t.warmUp(math.MaxInt); broken != nil {
			return broken
		} else if freed > 0 {
			return t.choose(fresh, old)
		}
	}
	return err
}

// placeInside decides whether the workload has its IPv4 inside. Who leaves it to the
// pool keeps what it has: the pool may have changed since.
func (t *txn) placeInside(fresh, old *Assignment) error {
	q := &fresh.Request
	inside := q.Inside == api.IPv4Inside
	if q.Inside == api.IPv4ByPool {
		if p := t.state.pool(fresh.Pool); p != nil {
			inside = p.Inside
		}
		if old != nil && old.Request.Inside != api.IPv4Inside { // of the others the disk does not say what they asked for
			inside = old.inside != 0
		}
	}
	switch {
	case !inside:
		return nil
	case q.HostInterface == "":
		return &InsideError{"it needs the host's end of the workload's link, and who attached the workload named none (host_interface): " +
			"a veth pair, by plugins such as ptp and bridge"}
	}
	fresh.inside = uint32(mapping.Addr4From(fresh.Address))
	return nil
}

// rename is a put that changes nothing but words, or nothing at all.
func (t *txn) rename(old, fresh *Assignment) (*Assignment, Change, error) {
	q := fresh.Request
	o := old.Request
	if o.Name == q.Name && o.Network == q.Network && o.Netns == q.Netns && o.HostInterface == q.HostInterface && sameWish(o, q) &&
		maps.Equal(o.Labels, q.Labels) && old.inside == fresh.inside && (fresh.inside == 0 || o.Inside == q.Inside) { // of the others the disk does not say it
		return old, Change{}, nil
	}
	t.dirty = true
	fresh.Since, fresh.Serial, fresh.Succeeds = old.Since, old.Serial, old.Succeeds
	if err := putAssignment(t.tx, fresh); err != nil {
		return nil, Change{}, storeError{err}
	}
	addr := t.state.remove(old)
	addr.give(old.Ports)
	if err := t.state.add(fresh); err != nil {
		return nil, Change{}, storeError{err}
	}
	return fresh, Change{}, nil
}

// sameWish says whether two requests ask for the same ports.
func sameWish(a, b api.Request) bool {
	return a.Pool == b.Pool && a.Ports == b.Ports && a.Address == b.Address && slices.Equal(a.ExtraPorts, b.ExtraPorts)
}

func (t *txn) ipv6Free(k api.Key, ips []netip.Addr) error {
	for i, ip := range ips {
		h := t.state.byIPv6(ip)
		if h == nil {
			continue
		}
		if o := h.assignment(); o.Key != k {
			return &ConflictError{Field: fmt.Sprintf("ipv6[%d]", i), What: ip.String(), Owner: o.Key, Name: o.Request.Name}
		}
	}
	return nil
}

// begin numbers an assignment, and notes it in memory and on disk.
func (t *txn) begin(a *Assignment) (err error) {
	t.dirty = true
	if a.Serial, err = nextSerial(t.tx); err != nil {
		return storeError{err}
	}
	if err := t.state.add(a); err != nil {
		return storeError{err} // cannot be; if it is, nothing may be written
	}
	if err := putAssignment(t.tx, a); err != nil {
		return storeError{err}
	}
	return nil
}

// end moves an assignment into the history. Its set cools down, or is free at
// once.
func (t *txn) end(a *Assignment, cool bool) error {
	t.dirty = true
	ended := *a
	ended.Until, ended.held = later(t.now, a.Since), nil
	err := erase(t.tx, bucketAssignments, []byte(a.Key.String()))
	if err == nil {
		_, err = putHistory(t.tx, &ended, t.history)
	}
	if err != nil {
		return storeError{err}
	}
	addr := t.state.remove(a)
	if d := t.state.cooldown(a.Pool); cool && d > 0 {
		c := &cooled{Assignment: &ended, until: t.now.Add(d)}
		if err := putCooling(t.tx, c); err != nil {
			return storeError{err}
		}
		t.state.noteCooling(addr, c)
		return nil
	}
	addr.give(a.Ports)
	return nil
}

// later is now, unless the clock was set back behind since: nothing ends before
// it began.
func later(now, since time.Time) time.Time {
	if now.Before(since) {
		return since
	}
	return now
}

// cooldown of a pool; one that is gone from the config has the default's.
func (s *state) cooldown(name string) time.Duration {
	if p := s.pool(name); p != nil {
		return p.Cooldown
	}
	return time.Minute
}

// warm ends the cooling of a set.
func (t *txn) warm(c *cooled) error {
	t.dirty = true
	if err := erase(t.tx, bucketCooling, number(c.id)); err != nil {
		return storeError{err}
	}
	t.state.warm(c)
	return nil
}

// warmUp frees sets that cooled down long enough, up to limit of them, and says
// how many.
func (t *txn) warmUp(limit int) (n int, err error) {
	for n < limit && t.state.cooledDown(t.now) {
		if err := t.warm(t.state.cooling[0]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// cooledDown says whether a set can be freed.
func (s *state) cooledDown(now time.Time) bool {
	return len(s.cooling) > 0 && !s.cooling[0].until.After(now)
}

func (s *state) pool(name string) *pool { return named(s.pools, name) }

// poolFor is the pool that a request means.
func (s *state) poolFor(q api.Request) (*pool, error) {
	switch {
	case len(s.pools) == 0:
		return nil, field("pool", "none is configured: add one under pools: in the config")
	case q.Pool != "":
		p := s.pool(q.Pool)
		if p == nil {
			return nil, field("pool", "there is no pool %q: there are %s", q.Pool, s.poolNames())
		}
		if q.Address.IsValid() && !p.Contains(q.Address) {
			return nil, field("address", "%s is not in pool %q (%s)", q.Address, p.Name, p.where())
		}
		return p, nil
	case q.Address.IsValid():
		for _, p := range s.pools {
			if p.Contains(q.Address) {
				return p, nil
			}
		}
		return nil, field("address", "%s is in no pool", q.Address)
	}
	if p := s.pool("default"); p != nil {
		return p, nil
	}
	return s.pools[0], nil
}

// wish says what a request means in its pool.
func (p *pool) wish(q api.Request) (size int, err error) {
	if p.Whole {
		return maxPorts, nil
	}
	size = p.PortsPerWorkload
	if q.Ports > 0 {
		size = powerOfTwo(q.Ports)
	}
	if size > p.longest {
		return 0, field("ports", "%d are more than pool %q has in a row on any address, which is %d", q.Ports, p.Name, p.longest)
	}
	for _, port := range q.ExtraPorts {
		if p.never.Contains(port) {
			return 0, field("extra_ports", "%d is not among the ports that pool %q may give away", port, p.Name)
		}
	}
	return size, nil
}
