// Package guard polices what workloads send where they are attached: at their
// own interfaces, and at their ports of bridges, which package route, going by
// where packets come in and where routes lead, cannot tell from one another. It
// finds those places, and keeps sets of them and of the workloads' addresses in
// nftables, for rules that never change. How packets reach the translator may
// not enter here, and no packet is read.
package guard

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/pace"
	"github.com/natless/natless/netstack/internal/routes"
	"github.com/natless/natless/translator/mapping"
)

// Config is what stays the same while a manager runs.
type Config struct {
	Device string // the translator's device
	Uplink string // where IPv4 comes from, besides where default routes lead; optional
	// Routed are more interfaces that lead to routers and whoever is behind them: others
	// of IPv4, and those of the fabric.
	Routed []string
	Leave  bool // Run leaves all it made to its successor, or to Cleanup
	Log    *slog.Logger
}

// Workload is a mapping of a workload, with all its IPv6 addresses and the name
// of the host's end of its link; "" where only routes tell.
type Workload struct {
	mapping.Mapping
	Addrs     []netip.Addr
	Interface string
}

// Manager is a task, and what the daemon tells of its workloads. Run must stay on
// one thread when that thread is in a network namespace of its own; New belongs
// on the same. All else may be called from any goroutine.
type Manager struct {
	config Config
	ready  chan struct{}
	kick   chan struct{}

	looking sync.Mutex      // held by who surveys the host, which takes long where there is much; it comes before mu
	survey  *netlink.Handle // of who holds looking, as what follows
	outward outward

	names sync.RWMutex            // guards what follows
	named map[netip.Addr]Workload // those that are told where they are, by their mapping's address

	mu     sync.Mutex // guards what follows; held for no longer than a change of the kernel's sets takes
	handle *netlink.Handle
	kernel *kernel
	table  *mapping.Table
	epoch  int        // of the table: another when Plan's came into force
	since  []Workload // that came since the survey under way began
	host   *host
	want   *desired
	audit  bool // somebody took something away: look at what is there
	audits int  // how often it looked for that reason
	said   string
}

// New makes a manager for a table of mappings; it changes nothing before Run or
// Put. named are those of its workloads that are told where they are.
func New(c Config, table *mapping.Table, named iter.Seq[Workload]) (*Manager, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	m := &Manager{config: c, ready: make(chan struct{}), kick: make(chan struct{}, 1), table: table,
		named: map[netip.Addr]Workload{}, audit: true, want: newDesired()}
	for w := range named {
		m.name(w)
	}
	if err := m.open(); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *Manager) open() (err error) {
	if m.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if m.survey, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if m.outward.list, err = routes.NewList(); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	m.kernel, err = openKernel(m.config.Device)
	return err
}

// close lets go of what open has opened.
func (m *Manager) close() {
	for _, h := range []*netlink.Handle{m.handle, m.survey} {
		if h != nil {
			h.Close()
		}
	}
	if m.outward.list != nil {
		m.outward.list.Close()
	}
	if m.kernel != nil {
		m.kernel.close()
		m.kernel = nil
	}
}

// name notes where a workload says that it is, or that it does not.
func (m *Manager) name(w Workload) {
	m.names.Lock()
	defer m.names.Unlock()
	if w.Interface != "" {
		m.named[w.IPv6.Addr()] = w
	} else {
		delete(m.named, w.IPv6.Addr())
	}
}

func (m *Manager) nameOf(a netip.Addr) (Workload, bool) {
	m.names.RLock()
	defer m.names.RUnlock()
	w, ok := m.named[a]
	return w, ok
}

// Ready is closed when all is policed for the first time.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// changed asks Run to look at the host.
func (m *Manager) changed() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Run keeps everything policed until ctx is done; then it removes what it made,
// unless it is to leave it.
func (m *Manager) Run(ctx context.Context) error {
	w, err := watch(m.kernel.nft.ID(), m.changed, func() {
		m.outward.stale.Store(true)
		m.changed()
	}, func() {
		m.mu.Lock()
		m.audit = true
		m.mu.Unlock()
		m.changed()
	})
	if err != nil {
		return err
	}
	defer w.Close()
	m.outward.stale.Store(true)
	m.outward.watched.Store(true)
	err = m.serve(ctx)
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.config.Leave {
		err = errors.Join(err, m.kernel.remove())
	}
	m.close()
	return err
}

func (m *Manager) serve(ctx context.Context) error {
	pace := pace.New()
	defer pace.Stop()
	for first := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-m.kick:
			pace.Changed()
			continue
		case <-pace.Due():
		}
		began := time.Now()
		err := m.reconcile()
		retry := pace.Looked(time.Since(began), err)
		if err != nil {
			if e := (*MissingFeatureError)(nil); first && errors.As(err, &e) {
				return err
			}
			m.config.Log.Warn("workloads are not policed as they should be", "error", err, "retry", retry)
			continue
		}
		if first {
			close(m.ready)
			first = false
		}
	}
}

// reconcile looks at the host and puts in force what that asks for. Only the last
// of it has anybody wait who comes meanwhile.
func (m *Manager) reconcile() error {
	m.looking.Lock()
	defer m.looking.Unlock()
	for {
		m.mu.Lock()
		table, epoch, ended := m.table, m.epoch, m.kernel == nil
		m.since = nil
		m.mu.Unlock()
		if ended {
			return nil
		}
		h, err := survey(m.survey, &m.outward)
		if err != nil {
			return err
		}
		want := h.wanted(m.config, table, m.nameOf)
		m.mu.Lock()
		if m.epoch == epoch {
			defer m.mu.Unlock()
			return m.adopt(h, want, m.since)
		}
		m.mu.Unlock() // another table came into force: this is of the one before
	}
}

// adopt puts in force what a survey asks for, with those who have come since. The
// caller holds mu.
func (m *Manager) adopt(h *host, want *desired, since []Workload) error {
	if m.kernel == nil {
		return nil // it has ended
	}
	for _, w := range since {
		if err := h.refresh(m.handle, w.Interface); err != nil {
			return err
		}
		h.place(m.config, w, want)
	}
	m.host, m.want, m.since = h, want, nil
	audit := m.audit
	m.audit = false
	if audit {
		m.audits++
	}
	if err := m.kernel.sync(m.want, audit); err != nil {
		m.audit = true
		return err
	}
	m.tell()
	return nil
}

// tell logs what cannot be policed, whenever that is something else.
func (m *Manager) tell() {
	lacking := m.lacking()
	if line := fmt.Sprint(lacking); line != m.said {
		m.said = line
		for _, l := range lacking {
			m.config.Log.Warn("not policed", "what", l)
		}
	}
}

// Plan finds out what another table asks for, and changes nothing. What it gives
// puts that in force, before packets are translated by the table that came of it,
// with those who have come since; where it fails, those of the table before stay
// policed.
func (m *Manager) Plan(table *mapping.Table) (commit func(final *mapping.Table, since ...Workload) error, err error) {
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	ended := m.kernel == nil
	m.mu.Unlock()
	if ended {
		return func(*mapping.Table, ...Workload) error { return nil }, nil
	}
	h, err := survey(m.survey, &m.outward)
	if err != nil {
		return nil, err
	}
	want := h.wanted(m.config, table, m.nameOf)
	return func(final *mapping.Table, since ...Workload) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		before := m.table
		m.table, m.epoch = final, m.epoch+1
		defer m.changed() // the host is another by now
		err := m.adopt(h, want, since)
		if err != nil {
			m.table, m.epoch = before, m.epoch+1
		}
		return err
	}, nil
}

// Put polices workloads that come, before their packets are translated: table is
// the one with them.
func (m *Manager) Put(table *mapping.Table, come ...Workload) error {
	for _, w := range come {
		m.name(w)
	}
	m.mu.Lock()
	m.table = table
	m.since = append(m.since, come...)
	m.changed()
	begun, ended := m.host != nil, m.kernel == nil
	if begun && !ended {
		defer m.mu.Unlock()
		return m.extend(come)
	}
	m.mu.Unlock()
	if ended {
		return nil
	}
	return m.reconcile()
}

// extend polices those who have come in addition; the caller holds mu.
func (m *Manager) extend(come []Workload) error {
	for _, w := range come {
		if err := m.host.refresh(m.handle, w.Interface); err != nil {
			return err
		}
		m.host.place(m.config, w, m.want)
	}
	if err := m.kernel.extend(m.want); err != nil {
		m.audit = true
		return fmt.Errorf("police the workload: %w", err)
	}
	return nil
}

// Lacking says what is not policed, and why.
func (m *Manager) Lacking() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lacking()
}

// Delete forgets those that have gone: table is the one without them.
func (m *Manager) Delete(table *mapping.Table, gone ...Workload) {
	for _, w := range gone {
		m.name(Workload{Mapping: w.Mapping})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table = table
	m.since = slices.DeleteFunc(m.since, func(s Workload) bool {
		return slices.ContainsFunc(gone, func(g Workload) bool { return g.IPv6 == s.IPv6 })
	})
	m.changed()
}

// Cleanup removes what managers left in this network namespace.
func Cleanup() error {
	k, err := openKernel("")
	if err != nil {
		return err
	}
	defer k.close()
	return k.remove()
}
