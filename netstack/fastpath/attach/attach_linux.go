// Package attach keeps the programs of package fastpath where packets come in: it
// finds the interfaces, attaches and pins, adopts what an earlier daemon left, and
// removes all of it. It tells the maps at which interface each workload is. What
// the programs do and what lies in the maps may not enter here.
package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/fastpath/survey"
	"github.com/natless/natless/netstack/internal/pace"
	"github.com/natless/natless/netstack/internal/routes"
)

// pollEvery is how often what nothing tells of is looked at: programs, and rules of
// the older iptables.
const pollEvery = 10 * time.Second

// Config is what stays the same while a manager runs.
type Config struct {
	Device   string   // the translator's device; the pins are called by it
	Uplinks  []string // where IPv4 comes from; none: where the default routes lead, or at an edge those to relays
	Fabric   []string // where workloads' IPv6 comes in by any, if the routes to them lead there; at an edge uplinks, too
	XDP      []string // where packets are translated in front of traffic control
	Required bool     // what does not work ends Run, if it does not from the start
	Keep     bool     // leave all in force when Run ends
	Inside   string   // the TAP of workloads with IPv4 inside; "": there is none
	Steer    bool     // nothing is translated, and all IPv4 of such workloads goes by the daemon
	Root     string   // of the BPF file system; default /sys/fs/bpf
	// After is closed when the kernel forwards: before, it cannot tell where
	// packets go, and nothing is attached. nil: it does.
	After <-chan struct{}
	// Itemise is with room for how many flows the programs itemise what they
	// translate; 0: they do not.
	Itemise int
	Sample  int // of so many packets they itemise one; 0 is 1
	Log     *slog.Logger

	clsact bool // even where there is TCX, for tests
}

func (c Config) withDefaults() Config {
	if c.Root == "" {
		c.Root = defaultRoot
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Manager is a task, and what the daemon tells of its tables. Run must stay on
// one thread when that thread is in a network namespace of its own; New belongs
// on the same. All else may be called from any goroutine.
type Manager struct {
	config Config
	ready  chan struct{}
	kick   chan struct{}

	store  *store
	path   *fastpath.FastPath
	hook   hook
	kernel *kernel
	closer *closer // where there is a TAP

	looking   sync.Mutex      // held by who surveys the host or writes tables, which takes long where there is much; it comes before mu
	surveying *netlink.Handle // of who holds looking, as what follows
	listing   *mdl.Conn
	routes    *routes.List
	parts     fastpath.Parts // as the last look found them
	many      bool           // routes: see alone
	away      *away
	survey    *survey.Survey
	covered   covered
	took      time.Duration // to look at the host
	managed   []neighbour   // because of us
	room      []int32       // for where all workloads are: a million of them are looked at again and again

	concern  atomic.Pointer[concern] // nil: all routes concern who looks
	told     atomic.Uint64           // how often the kernel told of a change
	looked   uint64                  // of which the last look knows; it is serve's
	steering atomic.Bool             // all IPv4 inside goes by the daemon

	names sync.RWMutex // guards what follows
	hints hints

	counting sync.Mutex        // guards what follows, and that the maps can be read: no workload waits for who counts
	base     fastpath.Counters // what an earlier daemon's packets came to
	seen     fastpath.Counters // as last read

	mu       sync.Mutex // guards what follows; held for no longer than a change of few interfaces takes
	handle   *netlink.Handle
	passed   survey.Passed // what packets would bypass
	unasked  []string      // interfaces where the kernel cannot be asked
	host     *host
	fresh    bool // the maps are not pinned yet
	verified bool // the programs are not, which the kernel had to verify
	adopted  bool // the maps are an earlier daemon's
	routed   bool // the host's routes to the device are there
	forwards bool // the device does, or is not there
	tables
	since    since
	attached map[place]bool
	errs     map[place]string // why a program is not where it should be
	uplinks  []int
	ces      []int             // where packets of CEs come in, besides those of workloads
	fronts   map[string]string // why XDP is not at an interface that is named for it
	able     map[int]ability
	said     string
}

// New makes a manager and loads the programs, or takes over what an earlier
// daemon left. Nothing is attached before Run.
func New(c Config) (*Manager, error) {
	c = c.withDefaults()
	if err := probe(); err != nil {
		return nil, err
	}
	m := &Manager{config: c, ready: make(chan struct{}), kick: make(chan struct{}, 1),
		attached: map[place]bool{}, errs: map[place]string{}, hints: hints{}}
	m.steering.Store(c.Steer)
	if err := m.open(); err != nil {
		m.release()
		return nil, err
	}
	return m, nil
}

func (m *Manager) open() (err error) {
	if m.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if m.surveying, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if m.routes, err = routes.NewList(); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if m.listing, err = mdl.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if m.store, err = openStore(m.config.Root, m.config.Device); err != nil {
		return err
	}
	for _, dir := range m.store.collect() {
		m.config.Log.Info("removed the fast path of a network namespace that is gone", "pins", dir)
	}
	if err := m.load(); err != nil {
		return err
	}
	if m.base, err = m.path.Counters(); err != nil {
		return err
	}
	m.seen = m.base
	v, err := m.look(inForce{})
	if err != nil {
		return err
	}
	m.host, m.forwards, m.uplinks = v.host, v.forwards, v.uplinks
	m.kernel = newKernel(m.surveying, m.config.Device)
	m.kernel.remember(m.path.Uplink, uplink)
	m.kernel.remember(m.path.Workload, workload)
	m.kernel.remember(m.path.Sent4, sent4)
	m.kernel.remember(m.path.Given4, given4)
	if x := m.path.XDP; x != nil && x.Err == nil {
		m.kernel.remember(x.Program, xdp)
	}
	if err := errors.Join(m.kernel.hold(), m.kernel.holdInFront()); err != nil {
		return err
	}
	if m.config.Inside != "" {
		if m.closer, err = newCloser(m.handle, m.store); err != nil {
			return err
		}
	}
	if m.survey, err = survey.New(m.surveying); err != nil {
		return err
	}
	var other hook
	m.hook, other = newTCX(m.store, m.kernel), &clsact{m.store, m.handle, m.kernel}
	if m.config.clsact || !haveTCX(m.path.Uplink) {
		m.hook, other = other, m.hook
	}
	if _, err = removeAll(other); err != nil {
		return err
	}
	m.hook = hooks{m.hook, newFront(m.store, m.kernel)}
	return nil
}

// load adopts the maps that are pinned, if they are of this version. Those of
// another stay in use until the new programs have taken their place.
func (m *Manager) load() (err error) {
	var options []fastpath.Option
	if m.config.Itemise > 0 {
		options = append(options, fastpath.Itemising(m.config.Itemise, m.config.Sample))
	}
	if len(m.config.XDP) > 0 {
		options = append(options, fastpath.InFront())
	}
	m.path, err = fastpath.Adopt(m.store.dir, m.config.Device, options...)
	if err == nil {
		m.adopted, m.verified, m.ways.Alone = true, !m.path.Reused(), m.path.WasAlone()
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		m.config.Log.Warn("the fast path that is there is replaced", "why", err)
	}
	m.fresh = true
	m.path, err = fastpath.Load(m.config.Device, options...)
	return err
}

// release lets go of what the process holds; what is pinned stays.
func (m *Manager) release() {
	if m.hook != nil {
		m.hook.close()
	}
	if m.kernel != nil {
		m.kernel.close()
	}
	if m.closer != nil {
		m.closer.program.Close()
	}
	if m.survey != nil {
		m.survey.Close()
	}
	if m.path != nil {
		m.counting.Lock()
		m.path.Close()
		m.counting.Unlock()
	}
	if m.store != nil {
		m.store.close()
	}
	if m.routes != nil {
		m.routes.Close()
	}
	if m.listing != nil {
		m.listing.Close()
	}
	for _, h := range []*netlink.Handle{m.handle, m.surveying} {
		if h != nil {
			h.Close()
		}
	}
}

// Ready is closed when the programs are where they should be for the first time.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// changed asks Run to look at the host.
func (m *Manager) changed() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Run keeps the programs attached until ctx is done; then it removes them, or
// leaves them in force if the configuration says so.
func (m *Manager) Run(ctx context.Context) (err error) {
	w, err := watch(m.concerns, func() { m.doubt(); m.changed() })
	if err != nil {
		return err
	}
	defer w.Close()
	if m.config.After != nil {
		select {
		case <-ctx.Done():
		case <-m.config.After:
		}
	}
	m.mu.Lock()
	m.routed = true
	m.mu.Unlock()
	err = m.serve(ctx)
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.release()
	if m.config.Keep && err == nil {
		m.config.Log.Info("the kernel goes on translating", "pins", m.store.dir)
		return nil
	}
	return errors.Join(err, m.remove())
}

func (m *Manager) serve(ctx context.Context) error {
	pace := pace.New()
	defer pace.Stop()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	var neighbours <-chan time.Time
	if len(m.config.XDP) > 0 {
		t := time.NewTicker(neighboursEvery)
		defer t.Stop()
		neighbours = t.C
	}
	for first := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-m.kick:
			pace.Changed()
			continue
		case <-neighbours:
			m.keepNeighbours()
			continue
		case <-poll.C:
			if !m.passedBy() && !m.parted() {
				m.reassure()
				continue
			}
		case <-pace.Due():
		}
		told := m.told.Load()
		err := m.reconcile()
		m.assure(told, err)
		if err == nil {
			m.concernedWith()
		}
		pace.Looked(m.took, err)
		if err != nil && first && m.config.Required {
			return fmt.Errorf("fast_path: required: %w", err)
		}
		if first {
			m.reopen()
			close(m.ready)
			first = false
		}
	}
}
