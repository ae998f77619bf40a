//go:build linux

// Package fastpath is the kernel's fast path: the eBPF programs, in bpf/, that
// translate plain packets where they come in, and the maps that tell them how.
// It turns a mapping.Table and a translator.Config into what lies in the maps,
// and edits that. Nothing of where programs are attached may enter here, and no
// rule of translation: what the programs do is what package translator does,
// byte for byte, or nothing.
package fastpath

//go:generate go tool -modfile=../../tests/tools/go.mod bpf2go -cc clang-14 -strip llvm-strip-14 -cflags "-mcpu=v3 -Wall -Wextra -Werror" -target bpfel,bpfeb -type key6 -type bin6 -type bin4 -type bin_port -type bins -type entry6 -type key4 -type entry4 -type entry_inside -type line -type key_port -type traffic -type flow_key -type flow_sum -type reason program bpf/program.c
//go:generate go tool -modfile=../../tests/tools/go.mod bpf2go -cc clang-14 -strip llvm-strip-14 -cflags "-mcpu=v3 -Wall -Wextra -Werror" -target bpfel,bpfeb -type link -type xdp_reason xdp bpf/xdp.c

import (
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
)

// Layout is the version of what lies in the maps: pinned maps of another one
// must be replaced, not adopted.
const Layout = 13

// FastPath is the four programs and their maps, and perhaps the one for XDP. Until Replace has filled the
// maps, the programs pass everything on. It is safe for concurrent use.
type FastPath struct {
	// Uplink is for ingress of the interfaces where IPv4 packets for
	// workloads come in, Workload for ingress of workloads' interfaces on
	// the host's side. Ethernet only.
	Uplink, Workload *ebpf.Program
	// Sent4 is for ingress of the interface of a workload that has its IPv4 inside,
	// its own and no bridge, and Given4 for that of the TAP.
	Sent4, Given4 *ebpf.Program
	// XDP is what stands in front of traffic control; nil: nothing does.
	XDP *XDP

	maps         programMaps
	device       string
	reused       bool // the programs are an earlier daemon's
	fibFlags     uint32
	counterBytes int
	crowded      bool // tables have few homes

	mu            sync.Mutex
	generation           // what the programs see; its tables are nil before the first Replace
	divertedUntil uint64 // as in a programConfig
	assuring      assuring

	beside sync.Mutex  // comes after mu; guards what follows, and who changes which generation is in use
	placed *Plan       // whose maps stand where the next generation's are to be; nil: none's
	left   []*ebpf.Map // where a generation before has maps still, which no program sees

	reading   reading
	ruled     ruled
	itemising *itemising // nil: flows are not itemised
}

// LayoutError says that what is pinned is of another version.
type LayoutError struct {
	Dir  string
	Have uint32
}

func (e *LayoutError) Error() string {
	return fmt.Sprintf("fast path pinned in %s: layout %d, this is layout %d: replace it", e.Dir, e.Have, Layout)
}

// programName is what a program for a translator's device is called: what an
// earlier run left is known by it. The kernel has 15 bytes for a name, and one
// that fills them may be taken for the beginning of a longer one.
func programName(role, device string) string {
	h := fnv.New32a()
	h.Write([]byte(device))
	return fmt.Sprintf("%s_%05x", role, h.Sum32()&0xfffff)
}

// IsProgram says that a program of that name is ours, of that device. Those of
// the first versions were called by their roles alone.
func IsProgram(name, role, device string) bool {
	return name == programName(role, device) || name == role
}

// HasMaps says that a program has the maps that ours have, as far as it can be
// told: there is nothing else that a name stands for. A program of IPv4 inside need
// not have those of the tables that only translation looks into.
func HasMaps(info *ebpf.ProgramInfo) bool {
	ids, ok := info.MapIDs()
	if !ok {
		return false
	}
	missing := map[string]bool{programMapActive: true, programMapBy4: true, programMapBy6: true, programMapConfigs: true,
		programMapNear: true}
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		if i, err := m.Info(); err == nil {
			delete(missing, i.Name)
			if i.Name == programMapInside {
				delete(missing, programMapBy4)
				delete(missing, programMapBy6)
				delete(missing, programMapNear)
			}
		}
		m.Close()
	}
	return len(missing) == 0
}

// Load makes the maps and loads the programs, for a translator's device.
func Load(device string, options ...Option) (*FastPath, error) {
	spec, err := loadProgram()
	if err != nil {
		return nil, fmt.Errorf("read the fast path: %w", err)
	}
	return load(spec, nil, device, options...)
}

// Adopt takes over the maps pinned in dir and loads the programs of this build
// on top of them, or takes them over, too, where they are of this build; whatever runs
// the pinned ones goes on meanwhile. Without any
// pins, the error is an fs.ErrNotExist; with those of another layout, a *LayoutError.
func Adopt(dir, device string, options ...Option) (*FastPath, error) {
	have, err := pinnedLayout(dir)
	if err != nil {
		return nil, err
	}
	if have != Layout {
		return nil, &LayoutError{dir, have}
	}
	maps := map[string]*ebpf.Map{}
	defer func() {
		for _, m := range maps {
			m.Close()
		}
	}()
	for name := range (&programMaps{}).byName() {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if err != nil {
			return nil, fmt.Errorf("adopt map %s: %w", name, err)
		}
		maps[name] = m
	}
	spec, err := loadProgram()
	if err != nil {
		return nil, fmt.Errorf("read the fast path: %w", err)
	}
	f, err := adopt(spec, maps, dir, device, options...)
	if err != nil {
		return nil, err
	}
	if err := f.inheritFlows(dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// adopt reuses the pinned programs, or loads others on top of the pinned maps.
func adopt(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, dir, device string, options ...Option) (*FastPath, error) {
	f := newFastPath(device, options)
	if err := f.reuse(spec, maps, dir); err == nil {
		return f.begun(spec)
	}
	for name := range f.Policer() { // load makes its own
		if m := maps[name]; m != nil {
			m.Close()
			delete(maps, name)
		}
	}
	return load(spec, maps, device, options...)
}

func newFastPath(device string, options []Option) *FastPath {
	f := &FastPath{device: device, counterBytes: maxCounterBytes}
	for _, o := range options {
		o(f)
	}
	return f
}

func load(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, device string, options ...Option) (*FastPath, error) {
	f := newFastPath(device, options)
	if f.itemising != nil {
		if err := spec.Variables[programVarItemising].Set(f.itemising.sample); err != nil {
			return nil, fmt.Errorf("read the fast path: %w", err)
		}
	}
	for role, p := range spec.Programs {
		p.Name = programName(role, device)
	}
	var objects programObjects
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, fmt.Errorf("load the fast path: %w", err)
	}
	f.Uplink, f.Workload, f.Sent4, f.Given4, f.maps = objects.Uplink, objects.Workload, objects.Sent4, objects.Given4, objects.programMaps
	if f.XDP != nil {
		f.XDP.load(f)
	}
	return f.begun(spec)
}

// begun is the last step of making one.
func (f *FastPath) begun(spec *ebpf.CollectionSpec) (*FastPath, error) {
	if f.itemising != nil {
		if err := f.itemising.begin(spec, f.maps.Flows); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	// Before Linux 6.3 the kernel looks the neighbour up twice.
	if v, err := features.LinuxVersionCode(); err == nil && v >= 6<<16|3<<8 {
		f.fibFlags = fibSkipNeighbour
	}
	return f, nil
}

// Close lets go of programs and maps; what is attached or pinned stays.
func (f *FastPath) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.assuring.close()
	f.reading.end()
	f.inner.close()
	f.itemising.close(f.maps.Flows)
	return errors.Join(f.XDP.close(), f.Uplink.Close(), f.Workload.Close(), f.Sent4.Close(), f.Given4.Close(), f.maps.Close())
}

// Pin puts maps and programs into dir, in a BPF file system, and says there which layout
// they have.
func (f *FastPath) Pin(dir string) error {
	layout, err := ebpf.NewMap(&ebpf.MapSpec{Name: layoutName, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("map %s: %w", layoutName, err)
	}
	defer layout.Close()
	if err := layout.Put(uint32(0), uint32(Layout)); err != nil {
		return fmt.Errorf("map %s: %w", layoutName, err)
	}
	for name, m := range f.maps.byName() {
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if f.itemising != nil {
		if err := f.itemising.pin(dir); err != nil {
			return err
		}
	}
	if err := f.PinPrograms(dir); err != nil {
		return err
	}
	return layout.Pin(filepath.Join(dir, layoutName)) // last: with it, all are there
}

// Unpin removes what Pin left in dir, of whatever layout, and nothing else.
func Unpin(dir string) error {
	names := []string{layoutName} // first: without it, none count
	for name := range (&programMaps{}).byName() {
		names = append(names, name)
	}
	for _, pair := range flowPins {
		names = append(names, pair[:]...)
	}
	return unpin(dir, append(names, keptNames()...))
}

const layoutName = "layout"

func pinnedLayout(dir string) (version uint32, err error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, layoutName), nil)
	if err != nil {
		return 0, fmt.Errorf("fast path pinned in %s: %w", dir, err)
	}
	defer m.Close()
	if err := m.Lookup(uint32(0), &version); err != nil {
		return 0, fmt.Errorf("layout of the fast path pinned in %s: %w", dir, err)
	}
	return version, nil
}

// Policer are the maps of the policer where packets come in, for who has them written. They
// are no predecessor's: nobody gives way when a daemon starts.
func (f *FastPath) Policer() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		programMapSenders: f.maps.Senders, programMapReceivers: f.maps.Receivers, programMapLimits: f.maps.Limits, programMapStates: f.maps.States,
		programMapCapping: f.maps.Capping,
	}
}

func (m *programMaps) byName() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		programMapActive: m.Active, programMapAssurance: m.Assurance, programMapBlocks: m.Blocks, programMapBy4: m.By4, programMapBy6: m.By6,
		programMapConfigs: m.Configs, programMapCounters: m.Counters, programMapDrawn: m.Drawn, programMapFlows: m.Flows, programMapSheets: m.Sheets,
		programMapInside: m.Inside, programMapPolicy: m.Policy,
		programMapNear: m.Near, programMapParts4: m.Parts4, programMapParts6: m.Parts6, programMapPorts: m.Ports, programMapReasons: m.Reasons, programMapRuled: m.Ruled,
	}
}
