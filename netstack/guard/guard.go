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
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator/mapping"
)

const (
	// settle is how long a change is waited with, so that a burst of them is one
	// look at the host.
	settle = 20 * time.Millisecond
	// share bounds what looking at the host may take of the time: a fifth.
	share = 4
	// retryFirst and retryMost bound the pause after an error.
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// Config is what stays the same while a manager runs.
type Config struct {
	Device string // the translator's device
	Uplink string // where IPv4 comes from, besides where default routes lead; optional
	Leave  bool   // Run leaves all it made to its successor, or to Cleanup
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

	mu     sync.Mutex // guards what follows
	handle *netlink.Handle
	kernel *kernel
	table  *mapping.Table
	named  map[netip.Addr]Workload // those that are told where they are, by their mapping's address
	host   *host
	want   *desired
	audit  bool // somebody took something away: look at what is there
	audits int  // how often it looked for that reason
	said   string
}

// New makes a manager for a table of mappings; it changes nothing before Run or
// Edit.
func New(c Config, table *mapping.Table, named []Workload) (*Manager, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	m := &Manager{config: c, ready: make(chan struct{}), kick: make(chan struct{}, 1), table: table,
		named: map[netip.Addr]Workload{}, audit: true, want: newDesired()}
	for _, w := range named {
		m.name(w)
	}
	var err error
	if m.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	if m.kernel, err = openKernel(c.Device); err != nil {
		m.handle.Close()
		return nil, err
	}
	return m, nil
}

func (m *Manager) name(w Workload) {
	if w.Interface != "" {
		m.named[w.IPv6.Addr()] = w
	}
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
		m.mu.Lock()
		m.audit = true
		m.mu.Unlock()
		m.changed()
	})
	if err != nil {
		return err
	}
	defer w.Close()
	err = m.serve(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.config.Leave {
		err = errors.Join(err, m.kernel.remove())
	}
	m.kernel.close()
	m.handle.Close()
	m.kernel = nil
	return err
}

func (m *Manager) serve(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := retryFirst
	var earliest time.Time
	for first := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-m.kick:
			timer.Reset(max(settle, time.Until(earliest)))
			continue
		case <-timer.C:
		}
		began := time.Now()
		err := m.reconcile()
		earliest = time.Now().Add(share * time.Since(began))
		if err != nil {
			if e := (*MissingFeatureError)(nil); first && errors.As(err, &e) {
				return err
			}
			m.config.Log.Warn("workloads are not policed as they should be", "error", err, "retry", pause)
			timer.Reset(pause)
			pause = min(2*pause, retryMost)
			continue
		}
		pause = retryFirst
		if first {
			close(m.ready)
			first = false
		}
	}
}

// reconcile looks at the host and puts in force what that asks for.
func (m *Manager) reconcile() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all()
}

// all is reconcile for who holds mu.
func (m *Manager) all() error {
	if m.kernel == nil {
		return nil // it has ended
	}
	h, err := survey(m.handle)
	if err != nil {
		return err
	}
	m.host, m.want = h, h.wanted(m.config, m.table, m.named)
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

// Replace polices the workloads of another table, before their packets are
// translated by it. Where that cannot be, those of the table before stay policed.
func (m *Manager) Replace(table *mapping.Table) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.table
	m.table = table
	err := m.all()
	if err != nil {
		m.table = before
		m.changed()
	}
	return err
}

// Put polices a workload that comes, before its packets are translated: table is
// the one with it.
func (m *Manager) Put(table *mapping.Table, w Workload) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table = table
	delete(m.named, w.IPv6.Addr())
	m.name(w)
	m.changed()
	if m.host == nil || m.kernel == nil {
		return m.all() // not begun, or ended
	}
	if err := m.host.refresh(m.handle, w.Interface); err != nil {
		return err
	}
	m.host.place(m.config, w, m.want)
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

// Delete forgets one that has gone: table is the one without it.
func (m *Manager) Delete(table *mapping.Table, w Workload) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table = table
	delete(m.named, w.IPv6.Addr())
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
