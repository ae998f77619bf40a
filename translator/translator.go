// Package translator turns IPv6 packets into IPv4 packets and back, stateless
// (RFC 7915, 6052, 7757, 7599, 4884, 6791). Bytes in, bytes out: no I/O, no
// clock of its own, no goroutine and no allocation may enter here.
//
// Rules are judged in this order, and the first that refuses a packet is its
// reason: form of the IP headers, a source of ours, the translator's own address,
// form of the upper layer, addresses, hop limit, source routes, protocol, ports, size.
package translator

import (
	crand "crypto/rand"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/natless/natless/translator/mapping"
)

// Translator is the configuration and the table that any number of workers
// read. It is safe for concurrent use.
type Translator struct {
	snapshot atomic.Pointer[snapshot]
	mu       sync.Mutex // orders those who replace the snapshot

	workers         atomic.Uint32 // that were made
	identifications atomic.Uint32 // of IPv4 packets: handed to workers in blocks
	errors          errorBudgets
	tracker         tracker

	former map[mapping.Tag]mapping.Addr6 // see Formerly
}

// Formerly says which workloads had these tags with the process before, by their IPv6
// addresses: packets that have waited meanwhile still bear them. It belongs before the
// first packet.
func (t *Translator) Formerly(tags map[mapping.Tag]mapping.Addr6) { t.former = tags }

// tagged is the entry that a tag of this process names, or named with the one before.
func (t *Translator) tagged(table *mapping.Table, of mapping.Tag) *mapping.Entry {
	if e := table.Tagged(of); e != nil {
		return e
	}
	a, ok := t.former[of]
	if !ok {
		return nil
	}
	if e := table.Lookup6(a); e != nil && e.Mapping().IPv6.IsSingleIP() {
		return e
	}
	return nil // it has gone
}

// New makes a translator.
func New(c Config, table *mapping.Table) (*Translator, error) {
	s, err := newSnapshot(c, table)
	if err != nil {
		return nil, err
	}
	if err := s.newFabric(nil); err != nil {
		return nil, err
	}
	s.violations, s.denials = violations(nil).grown(table.Slots()), violations(nil).grown(table.Slots())
	t := &Translator{}
	crand.Read(t.errors.key[:])
	t.snapshot.Store(s)
	return t, nil
}

// Reload swaps configuration and table in at once. On an error nothing changes.
func (t *Translator) Reload(c Config, table *mapping.Table) error {
	s, err := newSnapshot(c, table)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.snapshot.Load()
	if err := s.newFabric(old); err != nil {
		return err
	}
	s.violations, s.denials = old.violations.grown(table.Slots()), old.denials.grown(table.Slots())
	t.snapshot.Store(s)
	return nil
}

// Edit replaces the table by what edit makes of it. Edits and reloads are
// ordered among themselves. On an error nothing changes.
func (t *Translator) Edit(edit func(*mapping.Table) (*mapping.Table, error)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.snapshot.Load()
	table, err := edit(old.table)
	if err != nil {
		return err
	}
	if table == nil {
		return errNoTable
	}
	if prefix := table.Prefix(); prefix != old.table.Prefix() {
		if err := old.config.checkRules(prefix); err != nil {
			return err
		}
	}
	s := old.with(table)
	s.violations, s.denials = old.violations.grown(table.Slots()), old.denials.grown(table.Slots())
	t.snapshot.Store(s)
	return nil
}

// Table is the current table.
func (t *Translator) Table() *mapping.Table { return t.snapshot.Load().table }

// Config is the current configuration, its defaults filled in.
func (t *Translator) Config() Config { return t.snapshot.Load().config }

// Embeddable says whether the IPv4 address a may stand in the prefix: not if it
// is never translated, nor if it is not global and the prefix is the well-known
// one (RFC 6052 3.1).
func (t *Translator) Embeddable(a netip.Addr) bool {
	s, v4 := t.snapshot.Load(), mapping.Addr4From(a)
	return s.prefix && !never4(v4) && !(s.global && nonGlobal(v4))
}

// NewWorker makes what one loop needs to translate. A worker belongs to one
// goroutine at a time.
func (t *Translator) NewWorker() *Worker { return &Worker{t: t, loop: t.workers.Add(1)} }

// NewTrial makes a worker whose packets nobody has sent: they cost no budget,
// are refused for none, and are held against nobody.
func (t *Translator) NewTrial() *Worker { return &Worker{t: t, trial: true} }
