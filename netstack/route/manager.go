package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// settle is how long a change is waited with, so that a burst of
	// notifications is one reconciliation. Well under the second in which
	// things must be back.
	settle = 50 * time.Millisecond
	// proxyPeriod is how often proxy neighbours are looked at, when there are
	// any: nobody is told when one goes.
	proxyPeriod = 700 * time.Millisecond
	// retryFirst and retryMost bound the pause after an error.
	retryFirst = 500 * time.Millisecond
	retryMost  = 30 * time.Second
)

// Manager keeps the kernel as desired. Set and Ready may be called from any
// goroutine.
type Manager struct {
	config Config
	ready  chan struct{}

	mu      sync.Mutex
	desired Desired
	set     chan setRequest // non-nil while Run serves it
	stopped chan struct{}
}

type setRequest struct {
	desired Desired
	result  chan error
}

// New makes a manager; it touches nothing before Run.
func New(c Config) (*Manager, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Manager{
		config: c, ready: make(chan struct{}), stopped: make(chan struct{}),
		desired: Desired{MTU: 1500},
	}, nil
}

// Ready is closed when all is as desired for the first time; the device must
// be there for that.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Set changes what is desired. While Run runs, it returns when the kernel is
// so, or with the reason why it cannot be, and then the old state stays.
// Without a device it returns at once: the state is made when the device comes.
func (m *Manager) Set(d Desired) error {
	d, err := d.validate()
	if err != nil {
		return err
	}
	m.mu.Lock()
	set := m.set
	if set == nil {
		m.desired = d
		m.mu.Unlock()
		return nil
	}
	m.mu.Unlock()
	result := make(chan error, 1)
	select {
	case set <- setRequest{d, result}:
		return <-result
	case <-m.stopped:
		return errors.New("the route manager has ended")
	}
}

// Run makes the kernel as desired and keeps it so until ctx is done; then it
// removes all it made. It must stay on one thread when that thread is in a
// network namespace of its own. It ends early with an error that no waiting
// can cure (*SysctlError, *RangeInUseError, *MissingFeatureError, a route that
// somebody else has).
func (m *Manager) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	watcher, err := watch(notify)
	if err != nil {
		return err
	}
	defer watcher.close()
	kernel, err := openKernel(m.config.Device)
	if err != nil {
		return err
	}
	defer kernel.close()
	journal, err := openJournal(m.config)
	if err != nil {
		return err
	}

	m.mu.Lock()
	m.set = make(chan setRequest)
	r := &reconciler{config: m.config, kernel: kernel, journal: journal, desired: m.desired}
	m.mu.Unlock()
	defer close(m.stopped)
	r.observed = func(s *scope) { watcher.scope.Store(s) }
	err = m.serve(ctx, r, changed)
	return errors.Join(err, r.cleanUp())
}

// serve reconciles whenever there is a reason, until ctx is done.
func (m *Manager) serve(ctx context.Context, r *reconciler, changed <-chan struct{}) error {
	next := newAlarm(0)
	defer next.timer.Stop()
	pause := retryFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			next.within(settle)
			continue
		case req := <-m.set:
			req.result <- r.set(req.desired)
		case <-next.timer.C:
			next.ring()
			err := r.reconcile()
			switch {
			case err == nil:
				pause = retryFirst
			case incurable(err) && !r.complete:
				return err
			default:
				r.config.Log.Warn("routes are not as they should be", "error", err, "retry", pause)
				next.within(pause)
				pause = min(2*pause, retryMost)
			}
		}
		m.markReady(r)
		if r.hasProxies { // else nothing wakes an idle host
			next.within(proxyPeriod)
		}
	}
}

// incurable says whether no waiting helps.
func incurable(err error) bool {
	return errors.As(err, new(*SysctlError)) || errors.As(err, new(*RangeInUseError)) ||
		errors.As(err, new(*MissingFeatureError)) || errors.Is(err, errTaken)
}

// alarm is a timer that can only be set to ring earlier.
type alarm struct {
	timer *time.Timer
	due   time.Time
}

func newAlarm(d time.Duration) *alarm {
	return &alarm{timer: time.NewTimer(d), due: time.Now().Add(d)}
}

func (a *alarm) ring() { a.due = time.Time{} }

func (a *alarm) within(d time.Duration) {
	if due := time.Now().Add(d); a.due.IsZero() || due.Before(a.due) {
		a.due = due
		a.timer.Reset(d)
	}
}

func (m *Manager) markReady(r *reconciler) {
	select {
	case <-m.ready:
	default:
		if r.complete {
			close(m.ready)
		}
	}
}

// Cleanup removes what a manager with this configuration made and did not
// remove because it was killed.
func Cleanup(c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	kernel, err := openKernel(c.Device)
	if err != nil {
		return err
	}
	defer kernel.close()
	journal, err := openJournal(c)
	if err != nil {
		return err
	}
	return (&reconciler{config: c, kernel: kernel, journal: journal}).cleanUp()
}

// reconciler makes the kernel as desired, once each time it is asked. It
// belongs to one goroutine.
type reconciler struct {
	config     Config
	kernel     kernel
	journal    *journal
	desired    Desired
	observed   func(*scope) // told what to watch; may be nil
	warned     string
	hasProxies bool
	complete   bool // everything has been as desired at some time
}

// reconcile compares what is there with what should be, and applies the
// difference.
func (r *reconciler) reconcile() error {
	o, err := r.kernel.observe(r.desired)
	if err != nil {
		return err
	}
	r.watchFor(o)
	if o.device == 0 {
		r.config.Log.Debug("waiting for the device", "device", r.config.Device)
		return nil
	}
	sysctls, err := r.applySysctls(o)
	if err != nil {
		return err
	}
	w, warnings, err := want(r.config, r.desired, o.facts)
	if err != nil {
		return err
	}
	r.warn(warnings)
	if err := r.checkHostPool(o, w); err != nil {
		return err
	}
	for _, c := range diff(o.have, w) {
		if err := r.apply(c); err != nil {
			return err
		}
	}
	if err := r.restoreSysctls(sysctls); err != nil {
		return err
	}
	r.hasProxies = r.desired.Uplink != "" && len(routed4(r.desired)) > 0
	r.complete = true
	return nil
}

// checkHostPool refuses ports that the host uses. New sockets cannot take them
// any more: the sysctl before saw to it. Once all rules are there, nothing on
// the host can have such a connection.
func (r *reconciler) checkHostPool(o *observed, want state) error {
	if !r.desired.HostPool.Addr.IsValid() {
		return nil
	}
	missing := slices.ContainsFunc(sorted(want), func(w object) bool {
		_, isRule := w.(rule)
		return isRule && !o.have[w]
	})
	if !missing {
		return nil
	}
	sockets, err := r.kernel.sockets(r.desired.HostPool)
	if err == nil && len(sockets) > 0 {
		err = &RangeInUseError{r.desired.HostPool, sockets}
	}
	return err
}

func (r *reconciler) apply(c change) error {
	r.config.Log.Debug("route change", "change", c.String())
	return r.kernel.apply(c)
}

func (r *reconciler) watchFor(o *observed) {
	if r.observed == nil {
		return
	}
	s := &scope{names: map[string]bool{r.config.Device: true, r.desired.Uplink: true}, indexes: map[int32]bool{}}
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
func (r *reconciler) applySysctls(o *observed) (*sysctlPlan, error) {
	p := &sysctlPlan{ifaces: o.ifaces, journal: r.journal, read: r.kernel.sysctl}
	p.forwarding(r.config, r.desired)
	p.hostPool(r.config, r.desired, o.facts)
	differing := p.differing()
	if len(differing) > 0 && !r.config.ManageSysctls {
		e := &SysctlError{}
		for _, s := range differing {
			e.Needed = append(e.Needed, s.assignment())
		}
		return nil, e
	}
	for _, s := range differing {
		r.journal.note(s.key, r.kernel.sysctl(s.key), s.value)
	}
	if err := r.journal.save(); err != nil {
		return nil, err
	}
	for _, s := range differing {
		if err := r.apply(change{object: s}); err != nil {
			return nil, err
		}
	}
	return p, nil
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

// cleanUp removes all that is marked as ours. One failure does not keep the
// rest from going.
func (r *reconciler) cleanUp() error {
	o, err := r.kernel.observe(r.desired)
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	var errs []error
	nothing := state{}
	errs = append(errs, wantHostPool(nothing, Desired{}, o.facts))
	for _, c := range diff(o.have, nothing) {
		errs = append(errs, r.apply(c))
	}
	p := &sysctlPlan{journal: r.journal, read: r.kernel.sysctl}
	errs = append(errs, r.restoreSysctls(p))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
