package route

import (
	"context"
	"errors"
	"maps"
	"net/netip"
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
	link   *announcer
	moved  chan netip.Addr
	taken  chan Taken
	told   Taken // last in taken
	look   chan struct{}

	mu      sync.Mutex
	desired Desired
	mute    error           // why nothing can be announced
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
		link: newAnnouncer(nil, c.Log), config: c, ready: make(chan struct{}), stopped: make(chan struct{}),
		moved: make(chan netip.Addr, 1), taken: make(chan Taken, 1),
		look:    make(chan struct{}, 1),
		desired: Desired{MTU: 1500},
	}, nil
}

// Ready is closed when all is as desired for the first time; the device must
// be there for that.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// UplinkMoved gives the uplink's IPv4 address whenever it is another than that
// of the host pool; a Set with the new one follows it.
func (m *Manager) UplinkMoved() <-chan netip.Addr { return m.moved }

// Taken gives the addresses that others hold on the host's links, at first and
// whenever they change.
func (m *Manager) Taken() <-chan Taken { return m.taken }

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

// Look has the manager look soon whether all is as it should be: a port that the
// host uses, as InUse was told, has been assigned all the same.
func (m *Manager) Look() {
	select {
	case m.look <- struct{}{}:
	default:
	}
}

// Run makes the kernel as desired and keeps it so until ctx is done; then it
// removes all it made, unless it is to leave it. It must stay on one thread when that thread is in a
// network namespace of its own. It ends early with an error that no waiting
// can cure (*SysctlError, *MissingFeatureError, a route that somebody else
// has).
func (m *Manager) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	watcher, err := watch(notify, func() { m.link.again.Store(true); notify() })
	if err != nil {
		return err
	}
	defer watcher.close()
	defer m.announce()()
	kernel, err := openKernel(m.config.Device, m.config.SysctlDir)
	if err != nil {
		return err
	}
	defer kernel.close()
	watcher.hops.Store(kernel.hops)
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
	r.anew = func() { kernel.hops.stale.Store(true) }
	r.announced = m.link.follow
	err = m.serve(ctx, r, changed)
	if m.config.Leave {
		return err
	}
	return errors.Join(err, r.cleanUp())
}

// serve reconciles whenever there is a reason, until ctx is done.
func (m *Manager) serve(ctx context.Context, r *reconciler, changed <-chan struct{}) error {
	next, poll := newAlarm(0), newAlarm(proxyPeriod)
	defer next.timer.Stop()
	defer poll.timer.Stop()
	pause := retryFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			next.within(settle)
			continue
		case <-poll.timer.C:
			poll.ring()
			if len(r.proxies) > 0 && r.proxiesGone() {
				next.within(0)
			}
		case <-m.look:
			next.within(0)
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
		m.tellUplink(r)
		m.tellTaken(r)
		switch {
		case r.again:
			next.within(settle)
		case !r.inUse.Ports.IsZero():
			next.within(inUsePeriod)
		}
		if len(r.proxies) > 0 { // else nothing wakes an idle host
			poll.within(proxyPeriod)
		}
	}
}

// incurable reports whether no waiting helps.
func incurable(err error) bool {
	return errors.As(err, new(*SysctlError)) || errors.As(err, new(*MissingFeatureError)) || errors.Is(err, errTaken)
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

// tellUplink leaves the uplink's address in UplinkMoved when it is not the one
// that is shared.
func (m *Manager) tellUplink(r *reconciler) {
	h := r.desired.HostPool
	if !h.Addr.IsValid() || !r.uplink.IsValid() || r.uplink == h.Addr || h.Stays && r.owned {
		return
	}
	select { // only the latest counts
	case <-m.moved:
	default:
	}
	m.moved <- r.uplink
}

// tellTaken leaves what others hold in Taken when that has changed.
func (m *Manager) tellTaken(r *reconciler) {
	if r.taken == nil || m.told != nil && maps.Equal(m.told, r.taken) {
		return
	}
	m.told = r.taken
	select { // only the latest counts
	case <-m.taken:
	default:
	}
	m.taken <- r.taken
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
	kernel, err := openKernel(c.Device, c.SysctlDir)
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

// announce starts what tells the uplink's link of our addresses, and gives how to
// end it. Without the right to do so the manager does all else.
func (m *Manager) announce() (end func()) {
	socket, err := openLinkSocket()
	m.mu.Lock()
	m.mute = err
	m.mu.Unlock()
	if err != nil {
		m.config.Log.Warn("neighbours will not be told when an address becomes ours: they may send to the host that had it before, "+
			"until they ask again",
			"error", err, "remedy", "CAP_NET_RAW at the start")
		m.link.send = func(uplinkLink, netip.Addr) error { return err }
	} else {
		m.link.send = socket.announce
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.link.run(ctx) })
	return func() {
		cancel()
		running.Wait()
		if err == nil {
			socket.close()
		}
	}
}

// Assigned tells that an IPv4 address has an owner, and had none before: hosts on
// the uplink's link hear that it is here.
func (m *Manager) Assigned(a netip.Addr) { m.link.assigned(a) }

// Announcements is how many were made; err says why none can be.
func (m *Manager) Announcements() (sent uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.link.sent.Load(), m.mute
}
