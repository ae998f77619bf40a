//go:build linux

package engine

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

var errNo = errors.New("no")

// kernel stands for all that the engine programs. It notes what is in force, and
// refuses what it is told to.
type kernel struct {
	t          *testing.T
	callLock   sync.Mutex // a plan is made while workloads come and go
	calls      []string
	refuse     func(call string) bool // nil: nothing
	translator *translator.Translator

	policed    map[string]bool
	guardTable *mapping.Table
	kernel     map[string]bool // what the fast path translates
	config     translator.Config
	routes     route.Desired
	during     map[string]func() // done while a call is under way
	assigned   []netip.Addr
	looks      int
	accounts   *accounting.Accounting
	owners     map[netip.Prefix]Owner
	ownersLock sync.Mutex
	slots      map[uint32]uint64 // what was counted
	refused    bool              // something was
	prepared   int               // for ways back, while workloads came and went
}

func (k *kernel) call(name string) error {
	k.callLock.Lock()
	k.calls = append(k.calls, name)
	f := k.during[name]
	delete(k.during, name)
	k.callLock.Unlock()
	if f != nil {
		f()
	}
	k.callLock.Lock()
	defer k.callLock.Unlock()
	if k.refuse != nil && k.refuse(name) {
		k.refused = true
		return errNo
	}
	return nil
}

func texts(table *mapping.Table) map[string]bool {
	all := map[string]bool{}
	for m := range table.All() {
		all[m.String()] = true
	}
	return all
}

type fakeTranslator struct{ *kernel }

func (f fakeTranslator) Table() *mapping.Table     { return f.translator.Table() }
func (f fakeTranslator) Config() translator.Config { return f.translator.Config() }

func (f fakeTranslator) Reload(c translator.Config, table *mapping.Table) error {
	if err := f.call("reload"); err != nil {
		return err
	}
	for text := range texts(table) {
		if !f.policed[text] && !f.refused {
			f.t.Errorf("%s is translated and not policed", text)
		}
	}
	return f.translator.Reload(c, table)
}

func (f fakeTranslator) Edit(edit func(*mapping.Table) (*mapping.Table, error)) error {
	if err := f.call("edit"); err != nil {
		return err
	}
	return f.translator.Edit(edit)
}

type fakeGuard struct{ *kernel }

func (f fakeGuard) Put(table *mapping.Table, come ...guard.Workload) error {
	f.guardTable = table
	for _, w := range come {
		f.policed[w.Mapping.String()] = true // some of it, also when it fails
	}
	return f.call("guard put")
}

func (f fakeGuard) Delete(table *mapping.Table, gone ...guard.Workload) {
	f.guardTable = table
	for _, w := range gone {
		delete(f.policed, w.Mapping.String())
	}
}

func (f fakeGuard) Plan(planned *mapping.Table) (func(*mapping.Table, ...guard.Workload) error, error) {
	if err := f.call("guard plan"); err != nil {
		return nil, err
	}
	return func(final *mapping.Table, since ...guard.Workload) error {
		if err := f.call("guard commit"); err != nil {
			return err
		}
		f.guardTable, f.policed = final, texts(planned)
		for _, w := range since {
			f.policed[w.Mapping.String()] = true
		}
		return nil
	}, nil
}

type fakeFastPath struct{ *kernel }

func (f fakeFastPath) Edit(table *mapping.Table, gone, come []attach.Workload) error {
	for _, w := range gone {
		delete(f.kernel.kernel, w.Mapping.String())
	}
	for _, w := range come {
		f.kernel.kernel[w.Mapping.String()] = true
		if host := f.translator.Config().Host4; w.IPv4.Addr() == host && f.config.Host4 != host {
			f.t.Errorf("%v is at the host's address, of which the fast path knows nothing", w.Mapping)
		}
	}
	return f.call("fast path edit")
}

func (f fakeFastPath) Configure(c translator.Config) error {
	f.config = c
	return f.call("configure")
}

func (f fakeFastPath) Replace(table *mapping.Table, c translator.Config) error {
	f.config, f.kernel.kernel = translator.Config{}, map[string]bool{} // it lies about nothing when it fails
	if err := f.call("replace"); err != nil {
		return err
	}
	f.config, f.kernel.kernel = c, texts(table)
	return nil
}

// fakePlan is what the fast path is to translate.
type fakePlan struct {
	fakeFastPath
	all    map[string]bool
	config translator.Config
}

func (f fakeFastPath) Plan(table *mapping.Table, c translator.Config) FastPathPlan {
	p := &fakePlan{f, texts(table), c}
	_ = f.call("fast path plan") // while workloads come and go
	return p
}

func (p *fakePlan) Edit(table *mapping.Table, gone, come []attach.Workload) {
	for _, w := range gone {
		if !p.all[w.Mapping.String()] {
			p.t.Errorf("%v goes from a plan that does not have it", w.Mapping)
		}
		delete(p.all, w.Mapping.String())
	}
	for _, w := range come {
		p.all[w.Mapping.String()] = true
	}
}

func (p *fakePlan) Err() error { return p.call("fast path planned") }
func (p *fakePlan) Drop()      {}

func (p *fakePlan) Commit(table *mapping.Table) error {
	p.kernel.config, p.kernel.kernel = translator.Config{}, map[string]bool{} // it lies about nothing when it fails
	if err := p.call("replace"); err != nil {
		return err
	}
	if !maps.Equal(p.all, texts(table)) {
		p.t.Errorf("the fast path gets %v for a table of %v", p.all, texts(table))
	}
	p.kernel.config, p.kernel.kernel = p.config, p.all
	return nil
}

type fakeRoutes struct{ *kernel }

func (f fakeRoutes) Set(d route.Desired) error {
	if err := f.call("routes"); err != nil {
		return err // the manager has gone back
	}
	f.routes = d
	return nil
}
func (f fakeRoutes) Look()                 { f.looks++ }
func (f fakeRoutes) Assigned(a netip.Addr) { f.assigned = append(f.assigned, a) }

// same says what is not of one mind, and not what is wanted.
func (k *kernel) same(e *Engine, want map[string]bool, state *State) error {
	var errs []error
	differ := func(what string, got any, want any) {
		if !reflect.DeepEqual(got, want) {
			errs = append(errs, fmt.Errorf("%s: %v, want %v", what, got, want))
		}
	}
	sorted := func(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
	differ("translator", sorted(texts(k.translator.Table())), sorted(want))
	differ("guard's table", sorted(texts(k.guardTable)), sorted(want))
	differ("fast path", sorted(k.kernel), sorted(want))
	for text := range want {
		if !k.policed[text] {
			errs = append(errs, fmt.Errorf("%s is not policed", text))
		}
	}
	differ("configuration", k.translator.Config().MTU4, state.Translator.MTU4)
	differ("configuration of the fast path", k.config, k.translator.Config())
	differ("prefix", k.translator.Table().Prefix(), state.Explicit.Prefix())
	differ("routes", k.routes, state.Routes)
	differ("explicit mappings", sorted(texts(e.State().Explicit)), sorted(texts(state.Explicit)))
	return errors.Join(errs...)
}

func newFake(t *testing.T, state *State) (*kernel, *Engine) {
	t.Helper()
	tr, err := translator.New(state.Translator, state.Explicit)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, translator: tr, policed: texts(state.Explicit), guardTable: state.Explicit, kernel: texts(state.Explicit),
		config: tr.Config(), routes: state.Routes, during: map[string]func(){}, owners: map[netip.Prefix]Owner{}, slots: map[uint32]uint64{}}
	owners := func() iter.Seq2[netip.Prefix, Owner] {
		k.ownersLock.Lock()
		defer k.ownersLock.Unlock()
		return maps.All(maps.Clone(k.owners))
	}
	k.accounts = accounting.New(1000, func(func(accounting.Place) bool) {}, func(slot uint32) accounting.Usage {
		k.ownersLock.Lock()
		defer k.ownersLock.Unlock()
		return accounting.Usage{Violations: k.slots[slot]}
	})
	return k, New(Parts{Translator: fakeTranslator{k}, Guard: fakeGuard{k}, FastPath: fakeFastPath{k}, Routes: fakeRoutes{k},
		Accounts: k.accounts, Owners: owners}, state)
}

// explicit is mapping n of the configuration.
func explicit(n int) mapping.Mapping {
	return mapping.Mapping{IPv6: netip.MustParsePrefix(fmt.Sprintf("2001:db8:e:%x::/64", n)),
		IPv4: netip.MustParsePrefix(fmt.Sprintf("198.51.%d.0/28", n))}
}

func stateOf(t *testing.T, prefix string, mtu int, all ...mapping.Mapping) *State {
	t.Helper()
	table, err := mapping.New(netip.MustParsePrefix(prefix), all)
	if err != nil {
		t.Fatal(err)
	}
	return &State{Explicit: table, Routes: route.Desired{MTU: mtu, Prefix: table.Prefix()},
		Translator: translator.Config{IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1"), MTU4: mtu}}
}

var serials atomic.Uint64

// owns notes whose a workload's mapping is, as the registry does before it tells.
func (k *kernel) owns(c Change) {
	k.ownersLock.Lock()
	defer k.ownersLock.Unlock()
	if c.Old != nil {
		delete(k.owners, c.Old.IPv6)
	}
	if c.New != nil {
		k.owners[c.New.IPv6] = c.New.Owner
	}
}

// send counts n for whoever has an address now.
func (k *kernel) send(w *Workload, n uint64) {
	k.ownersLock.Lock()
	defer k.ownersLock.Unlock()
	if entry := k.translator.Table().Get(w.IPv6); entry != nil {
		k.slots[entry.Slot()] += n
	}
}

// workload is number n, on address a, with its run of ports.
func workload(n, a int) *Workload {
	ip := netip.MustParseAddr(fmt.Sprintf("2001:db8:f::%x", n+1))
	first := uint16(1024 * (n%60 + 1))
	return &Workload{Owner: Owner{Serial: serials.Add(1)}, Addrs: []netip.Addr{ip}, Mapping: mapping.Mapping{IPv6: netip.PrefixFrom(ip, 128),
		IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(a)}), 32), Ports: ports.Of(ports.Range{First: first, Last: first + 1023})}}
}
