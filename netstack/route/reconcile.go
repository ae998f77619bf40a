package route

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// reconciler makes the kernel as desired, once each time it is asked. It
// belongs to one goroutine.
type reconciler struct {
	config   Config
	kernel   kernel
	journal  *journal
	desired  Desired
	observed func(*scope) // told what to watch; may be nil
	// anew has the next look read what others leave as it was; may be nil.
	anew func()
	// announced is told what the uplink's link is, and what is answered for there;
	// may be nil.
	announced func(uplinkLink, []proxy)
	warned    string
	proxies   []proxy    // those that must be there
	wishes    []sysctl   // those that were granted
	taken     Taken      // by others, at the last look
	uplink    netip.Addr // what the uplink has
	owned     bool       // the host has the shared address
	inUse     InUse      // what the host uses of the pool
	again     bool       // some of that was assigned meanwhile
	complete  bool       // everything has been as desired at some time
}

// reconcile compares what is there with what should be, and applies the
// difference.
func (r *reconciler) reconcile() error {
	o, err := r.kernel.observe(r.desired)
	if err != nil {
		return err
	}
	r.watchFor(o)
	r.uplink, r.taken, r.owned = o.uplink, o.taken, o.owned
	if o.device == 0 {
		r.config.Log.Debug("waiting for the device", "device", r.config.Device)
		return nil
	}
	if err := r.guard(o); err != nil {
		return err
	}
	sysctls, warnings, err := r.applySysctls(o)
	if err != nil {
		return err
	}
	r.wishes = nil
	if warnings == nil && r.config.ManageSysctls {
		r.wishes = sysctls.wishes
	}
	d := r.desired
	var used InUse
	// No new socket takes a port of the pool by itself: the sysctl saw to it.
	if d.HostPool, used, err = r.leaveOut(o.have); err != nil {
		return err
	}
	// The tables are made of what is left, too.
	r.kernel.prepare(d, o)
	w, more := want(r.config, d, o.facts)
	r.warn(append(warnings, more...))
	wide := widened(o.have, w)
	requeue(o.have, wide)
	for _, c := range slices.Concat(diff(o.have, wide), diff(wide, w)) {
		if err := r.apply(c); err != nil {
			return err
		}
	}
	r.noteInUse(used)
	if err := r.restoreSysctls(sysctls); err != nil {
		return err
	}
	r.proxies = r.proxies[:0]
	for o := range w {
		if p, ok := o.(proxy); ok {
			r.proxies = append(r.proxies, p)
		}
	}
	if r.announced != nil {
		r.announced(o.link, r.proxies)
	}
	r.complete = true
	return nil
}

func (r *reconciler) apply(c change) error {
	r.config.Log.Debug("route change", "change", c.String())
	return r.kernel.apply(c)
}

func (r *reconciler) watchFor(o *observed) {
	if r.observed == nil {
		return
	}
	s := &scope{names: map[string]bool{r.config.Device: true, r.desired.Uplink: true}, indexes: map[int32]bool{},
		uplink: r.desired.Uplink, link: int32(o.link.index), gateways: o.gateways}
	for _, i := range o.ifaces {
		if s.names[i.name] || i.ipv4 {
			s.indexes[int32(i.index)] = true
		}
	}
	r.observed(s)
}

func (r *reconciler) warn(warnings []string) {
	text := strings.Join(warnings, "; ")
	if text != r.warned && text != "" {
		r.config.Log.Warn(text)
	}
	r.warned = text
}

// applySysctls sets what must hold; what no longer must is restored when the
// rest is done. The values from before are on disk before anything is changed.
func (r *reconciler) applySysctls(o *observed) (p *sysctlPlan, warnings []string, err error) {
	if r.kernel.sysctl(forwarding6) == "" {
		return nil, nil, &MissingFeatureError{"IPv6", "2.6", "boot without ipv6.disable=1"}
	}
	r.journal.follow(o.ifaces)
	p = &sysctlPlan{ifaces: o.ifaces, journal: r.journal, read: r.kernel.sysctl}
	p.forwarding(r.config, r.desired)
	p.hostPool(r.config, r.desired, o.facts)
	p.neighbours(r.desired, o.facts)
	differing, wished := p.differing(p.want), p.differing(p.wishes)
	needed := func(err error) *SysctlError {
		e := &SysctlError{Err: err}
		for _, s := range differing {
			// The device is gone when this is read: a new one gets the default.
			if own := "/" + r.config.Device + "/"; strings.Contains(s.key, own) {
				e.Needed = append(e.Needed, sysctl{strings.Replace(s.key, own, "/default/", 1), s.value}.assignment())
			}
			e.Needed = append(e.Needed, s.assignment())
		}
		return e
	}
	if len(differing) > 0 && !r.config.ManageSysctls {
		return nil, nil, needed(nil)
	}
	if !r.config.ManageSysctls {
		return p, ungranted(wished, "manage_sysctls is false"), nil
	}
	for _, s := range slices.Concat(differing, wished) {
		r.journal.note(s.key, r.kernel.sysctl(s.key), s.value)
	}
	if err := r.journal.save(); err != nil {
		return nil, nil, err
	}
	for _, s := range differing {
		err := r.apply(change{object: s})
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return nil, nil, needed(err)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	for i, s := range wished {
		if err := r.apply(change{object: s}); err != nil {
			return p, ungranted(wished[i:], err.Error()), nil
		}
	}
	return p, nil, nil
}

func (r *reconciler) restoreSysctls(p *sysctlPlan) error {
	restore, forget := p.obsolete()
	for _, s := range restore {
		if err := r.apply(change{object: s}); err != nil {
			return err
		}
	}
	r.journal.forget(forget)
	return r.journal.save()
}

// set changes what is desired, or keeps the old and says why.
func (r *reconciler) set(d Desired) error {
	old := r.desired
	r.desired = d
	if r.anew != nil {
		r.anew() // who assigns has just read the gateways, and is to see the same
	}
	err := r.reconcile()
	if err == nil {
		return nil
	}
	r.desired = old
	if back := r.reconcile(); back != nil {
		err = fmt.Errorf("%w; going back: %w", err, back)
	}
	return err
}

// proxiesGone reports whether a proxy neighbour is missing, or would be late.
func (r *reconciler) proxiesGone() bool {
	for _, s := range r.wishes {
		if !sameSysctl(r.kernel.sysctl(s.key), s.value) {
			return true
		}
	}
	have, err := r.kernel.proxies()
	there := make(map[proxy]bool, len(have))
	for _, p := range have {
		there[p] = true
	}
	return err != nil || slices.ContainsFunc(r.proxies, func(p proxy) bool { return !there[p] })
}

// cleanUp removes all that is marked as ours. One failure does not keep the
// rest from going.
func (r *reconciler) cleanUp() error {
	o, err := r.kernel.observe(r.desired)
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	var errs []error
	nothing := state{}
	wantHostPool(nothing, Desired{}, o.facts)
	for _, c := range diff(o.have, nothing) {
		errs = append(errs, r.apply(c))
	}
	r.journal.follow(o.ifaces)
	p := &sysctlPlan{journal: r.journal, read: r.kernel.sysctl}
	errs = append(errs, r.restoreSysctls(p))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
