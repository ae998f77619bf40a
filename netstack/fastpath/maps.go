//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// inner is one generation of tables.
type inner struct {
	by6                            *bins[programKey6, programEntry6]
	by4                            *bins[programKey4, programEntry4]
	ports                          *bins[programKeyPort, programEntry4]
	inside, near, counters, policy *ebpf.Map
	perMapping                     int // counters of each mapping
	slots                          int // that there are counters for
}

func (n *inner) close() {
	n.by6.close()
	n.by4.close()
	n.ports.close()
	for _, m := range []*ebpf.Map{n.inside, n.near, n.counters, n.policy} {
		if m != nil {
			m.Close()
		}
	}
	*n = inner{}
}

// maxCounterBytes is what counters may take when each CPU has its own.
const maxCounterBytes = 256 << 20

// headroom is how many entries a table of n is made for.
func headroom(n int) uint32 { return uint32(n + n/4 + 1024) }

// Replace puts new tables in the place of the old ones, at once: no packet sees
// a mix. It takes about as long as it takes to write all mappings. On an error
// the old ones stay, but on an *UnsupportedError everything is passed on.
func (f *FastPath) Replace(t Tables) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.replace(t)
}

func (f *FastPath) replace(t Tables) error {
	p := f.plan(t)
	if err := f.adopt(p); err != nil {
		return err
	}
	f.settle()
	return nil
}

// encode is what the maps are to hold, or why they cannot.
func (f *FastPath) encode(t *Tables) (*contents, *state, error) {
	if err := supported(t); err != nil {
		return nil, nil, err
	}
	c, s := encode(t)
	_, err := s.config(t, f.fibFlags, 1)
	return c, s, err
}

// disable has everything passed on.
func (f *FastPath) disable() error {
	var current uint32
	if err := f.maps.Active.Lookup(uint32(0), &current); err != nil {
		return fmt.Errorf("which tables are in use: %w", err)
	}
	before, unread := f.visible()
	if unread != nil {
		before = inner{}
	}
	f.beside.Lock()
	defer f.beside.Unlock()
	f.placed, f.left = nil, nil
	if err := f.switchTo(1-current, programConfig{}); err != nil {
		before.close()
		return err
	}
	f.tables = nil
	f.settle()
	f.reading.turn(&inner{}, &before)
	f.inner.close()
	return f.forget(current)
}

// commit makes next what the programs see.
func (f *FastPath) commit(next *inner, c programConfig) error {
	f.beside.Lock()
	defer f.beside.Unlock()
	return f.commitBeside(next, c)
}

// commitBeside is commit; the caller holds beside.
func (f *FastPath) commitBeside(next *inner, c programConfig) error {
	current, err := f.place(next)
	if err != nil {
		return err
	}
	if err := f.switchTo(1-current, c); err != nil {
		return err
	}
	if err := f.await(1-current, next); err != nil {
		return err
	}
	return f.forget(current)
}

// await returns when no program runs any more that began before, and may not have
// looked its tables up yet. For that the kernel waits when a map of maps is changed,
// though by what it has (maybe_wait_bpf_programs in kernel/bpf/syscall.c, Linux 4.20).
func (f *FastPath) await(generation uint32, current *inner) error {
	if err := f.maps.By6.Put(generation, current.by6.Map); err != nil {
		return fmt.Errorf("wait for who uses the old tables: %w", err)
	}
	return nil
}

// place puts maps beside those in use, where no program looks before they are
// switched to, and says which generation is in use. For each the kernel waits until
// no program runs that has begun before.
func (f *FastPath) place(next *inner) (current uint32, err error) {
	f.placed, f.left = nil, nil
	if err := f.maps.Active.Lookup(uint32(0), &current); err != nil {
		return 0, fmt.Errorf("which tables are in use: %w", err)
	}
	for _, o := range []struct{ outer, inner *ebpf.Map }{
		{f.maps.By6, next.by6.Map}, {f.maps.By4, next.by4.Map}, {f.maps.Ports, next.ports.Map},
		{f.maps.Inside, next.inside}, {f.maps.Near, next.near}, {f.maps.Counters, next.counters},
		{f.maps.Policy, next.policy},
	} {
		if err := o.outer.Put(1-current, o.inner); err != nil {
			return 0, fmt.Errorf("put new tables beside those in use: %w", err)
		}
	}
	return current, nil
}

// switchTo has the programs use a generation, with this configuration.
func (f *FastPath) switchTo(generation uint32, c programConfig) error {
	c.Generation = generation
	c.DivertedUntil = f.divertedUntil
	if err := f.maps.Configs.Put(generation, &c); err != nil {
		return fmt.Errorf("configure the fast path: %w", err)
	}
	if err := f.maps.Active.Put(uint32(0), generation); err != nil {
		return fmt.Errorf("switch the fast path to new tables: %w", err)
	}
	return nil
}

// forget takes the tables of a generation away that no program sees any more, or
// that makes who sees them pass on. When the first is taken, the kernel waits for programs
// that have begun: they look the others up again in the middle of a packet.
func (f *FastPath) forget(generation uint32) error {
	for _, outer := range f.outers() {
		if err := outer.Delete(generation); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take old tables away: %w", err)
		}
	}
	return nil
}

func (f *FastPath) outers() []*ebpf.Map {
	return []*ebpf.Map{f.maps.Near, f.maps.By6, f.maps.By4, f.maps.Ports, f.maps.Inside, f.maps.Counters, f.maps.Policy}
}

// load writes c into maps of their own. Within the limit, in bytes, each CPU has
// counters of its own.
func (c *contents) load(s *state, slots, limit int, policies *policy.Table, crowded bool) (n inner, err error) {
	n.slots, n.perMapping = slots+slots/4+1024, 1
	if cpus, err := ebpf.PossibleCPU(); err == nil && cpus*n.slots*sizeTraffic <= limit {
		n.perMapping = cpus
	}
	spec, err := loadProgram()
	if err != nil {
		return n, err
	}
	table := func(name string, entries uint32) (m *ebpf.Map) {
		if err != nil {
			return nil
		}
		template := spec.Maps[name].InnerMap.Copy()
		template.Name, template.MaxEntries = name, entries
		if m, err = ebpf.NewMap(template); err != nil {
			err = fmt.Errorf("table %s with room for %d: %w", name, entries, err)
		}
		return m
	}
	n.inside = table(programMapInside, headroom(len(c.keysInside)))
	n.near = table(programMapNear, nearWords)
	n.counters = table(programMapCounters, uint32(n.slots*n.perMapping))
	n.policy = table(programMapPolicy, max(1, policies.Offsets().Words/uint32(lineWords)))
	if err != nil {
		return n, err
	}
	words := make([]uint32, nearWords)
	for i := range words {
		words[i] = uint32(i)
	}
	var six errgroup.Group // beside the others, on another processor
	six.Go(func() (err error) {
		n.by6, err = newBins(spec.Maps[programMapBy6].InnerMap, c.keys6, c.entries6, crowded)
		return err
	})
	n.by4, err = newBins(spec.Maps[programMapBy4].InnerMap, c.keys4, c.entries4, crowded)
	if err == nil {
		n.ports, err = newBins(spec.Maps[programMapPorts].InnerMap, c.keysPort, c.ownerPort, crowded)
	}
	err = errors.Join(err, fill(n.inside, c.keysInside, c.inside), fill(n.near, words, s.near[:]), fillPolicy(n.policy, policies))
	return n, errors.Join(six.Wait(), err)
}

// lineWords are the words of a line of the policies' table.
const lineWords = len(programLine{}.Word)

// newPolicy makes a map of policies by itself.
func newPolicy(policies *policy.Table) (*ebpf.Map, error) {
	spec, err := loadProgram()
	if err != nil {
		return nil, err
	}
	template := spec.Maps[programMapPolicy].InnerMap.Copy()
	template.Name, template.MaxEntries = programMapPolicy, max(1, policies.Offsets().Words/uint32(lineWords))
	m, err := ebpf.NewMap(template)
	if err != nil {
		return nil, fmt.Errorf("table of policies: %w", err)
	}
	if err := fillPolicy(m, policies); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func fillPolicy(m *ebpf.Map, policies *policy.Table) error {
	words := policies.Words()
	keys, lines := make([]uint32, len(words)/lineWords), make([]programLine, len(words)/lineWords)
	for i := range lines {
		keys[i] = uint32(i)
		copy(lines[i].Word[:], words[i*lineWords:])
	}
	return fill(m, keys, lines)
}

// fill writes many entries with few system calls.
func fill[K, V any](m *ebpf.Map, keys []K, values []V) error {
	const batch = 16384
	for at := 0; at < len(keys); at += batch {
		end := min(at+batch, len(keys))
		if _, err := m.BatchUpdate(keys[at:end], values[at:end], nil); err != nil {
			return fmt.Errorf("fill table of the fast path: %w", err)
		}
	}
	return nil
}

// Edit brings the tables to what table holds, which is what they hold now
// without the mappings removed, with those added. Its cost does not grow with
// the table, but when it no longer fits, all is written anew.
func (f *FastPath) Edit(table *mapping.Table, removed, added []mapping.Mapping) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables == nil {
		return errors.New("edit the fast path: it has no tables: replace them first")
	}
	t := *f.tables
	t.Table = table
	before6, before4, beforeIn := inUse(f.lengths6[:]), inUse(f.lengths4[:]), f.overlaps()
	if err := f.edit(&t, removed, added); err != nil {
		return f.replace(t)
	}
	f.tables = &t
	if slices.Equal(before6, inUse(f.lengths6[:])) && slices.Equal(before4, inUse(f.lengths4[:])) && beforeIn == f.overlaps() {
		return nil
	}
	config, err := f.config(&t, f.fibFlags, f.inner.perMapping)
	if err != nil {
		return f.replace(t) // which says so, and has all passed on
	}
	return f.commit(&f.inner, config)
}

// overlaps says which prefixes some mapping overlaps.
func (s *state) overlaps() [2]bool { return [2]bool{s.inPrefix > 0, s.inFabric > 0} }

// reconfigure has the programs use the tables that are there by t's configuration
// and host.
func (f *FastPath) reconfigure(t *Tables) error {
	config, err := f.config(t, f.fibFlags, f.inner.perMapping)
	if err != nil {
		return err
	}
	return f.commit(&f.inner, config)
}

// SetHost says that the host is another now. Nothing else changes.
func (f *FastPath) SetHost(h Host) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables == nil {
		return errors.New("host of the fast path: it has no tables: replace them first")
	}
	t := *f.tables
	t.Host = h
	if err := f.reconfigure(&t); err != nil {
		return err
	}
	f.tables = &t
	return nil
}

// Configure brings the configuration to another, for the same mappings: they are
// not written anew, however many there are.
func (f *FastPath) Configure(c translator.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables == nil {
		return errors.New("configure the fast path: it has no tables: replace them first")
	}
	t := *f.tables
	t.Config = c
	if supported(&t) != nil || f.configure(&t) != nil {
		return f.replace(t)
	}
	f.tables = &t
	f.beginRules(c.Rules)
	return nil
}

// configure switches to t's configuration. Blocks of ours that come are there
// before it, those that go until after it: they only have packets passed on, and those
// of an edge are of no use by themselves.
func (f *FastPath) configure(t *Tables) error {
	if f.tables.Config.Edge.Prefix != t.Config.Edge.Prefix {
		return errors.New("mappings overlap another prefix now")
	}
	before, after := ours4(f.tables.Config), ours4(t.Config)
	lent, lend := blocksOf(f.tables.Config.Edge), blocksOf(t.Config.Edge)
	if err := lend.put(&f.inner, lent); err != nil {
		return err
	}
	near := f.near
	for _, p := range after {
		if !slices.Contains(before, p) {
			f.ours[p.Bits()]++
			f.markNear(p)
			if err := f.inner.by4.Put(ourKey(p), &programEntry4{}); err != nil {
				return err
			}
		}
	}
	if err := f.putNear(&near); err != nil {
		return err
	}
	was := f.inner.policy
	if t.Config.Policy != f.tables.Config.Policy {
		made, err := newPolicy(t.Config.Policy)
		if err != nil {
			return err
		}
		f.inner.policy = made
	}
	gone := slices.DeleteFunc(before, func(p netip.Prefix) bool { return slices.Contains(after, p) })
	for _, p := range gone {
		f.ours[p.Bits()]--
	}
	err := f.reconfigure(t)
	if made := f.inner.policy; made != was && err != nil {
		f.inner.policy = was
		made.Close()
	} else if made != was {
		was.Close()
	}
	for _, p := range gone {
		err = errors.Join(err, f.inner.by4.Delete(ourKey(p)))
	}
	if err != nil {
		return err
	}
	return lent.remove(&f.inner, lend)
}

// WasAlone reports whether the programs that have these maps go on without a device.
func (f *FastPath) WasAlone() bool {
	var current uint32
	var c programConfig
	err := f.maps.Active.Lookup(uint32(0), &current)
	if err == nil {
		err = f.maps.Configs.Lookup(current, &c)
	}
	return err == nil && c.Flags&flagAlone != 0
}

// inUse lists the lengths in use.
func inUse(counts []int) (lengths []int) {
	for length, n := range counts {
		if n > 0 {
			lengths = append(lengths, length)
		}
	}
	return lengths
}

// SetInterface says that a workload sends through another interface; 0 is none
// that is known.
func (f *FastPath) SetInterface(m mapping.Mapping, ifindex int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables == nil {
		return errors.New("interface of a workload: the fast path has no tables: replace them first")
	}
	var e programEntry6
	if err := f.inner.by6.Lookup(key6(m.IPv6), &e); err != nil {
		return fmt.Errorf("interface of %v: %w", m, err)
	}
	e.Ifindex = uint32(ifindex)
	if err := f.inner.by6.Put(key6(m.IPv6), &e); err != nil {
		return fmt.Errorf("interface of %v: %w", m, err)
	}
	return nil
}
