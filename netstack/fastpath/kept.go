//go:build linux

package fastpath

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Programs are pinned with their maps. A daemon of the same build takes them as they are:
// it need not have the kernel verify them again, which is most of what a start takes, and
// what waits for the daemon waits for that.

// buildName is a map, pinned last, that says of which build the programs are.
const buildName = "build"

type build [sha256.Size]byte

// build is of all that makes the programs what they are, but for their maps.
func (f *FastPath) build() build {
	h := sha256.New()
	h.Write(_ProgramBytes)
	if f.XDP != nil {
		h.Write(_XdpBytes)
	}
	sample := uint32(0)
	if f.itemising != nil {
		sample = f.itemising.sample
	}
	h.Write(binary.BigEndian.AppendUint32(nil, sample))
	h.Write([]byte(f.device))
	return build(h.Sum(nil))
}

// programs are what is pinned besides the maps that a successor of another build takes.
func (f *FastPath) programs() map[string]**ebpf.Program {
	return map[string]**ebpf.Program{
		"program_uplink": &f.Uplink, "program_workload": &f.Workload, "program_sent4": &f.Sent4, "program_given4": &f.Given4,
	}
}

// Reused says that the programs are an earlier daemon's: they are pinned already.
func (f *FastPath) Reused() bool { return f.reused }

// reuse takes the pinned programs, if they are of this build. maps are those that Adopt
// has found, to which the policer's come.
func (f *FastPath) reuse(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, dir string) (err error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, buildName), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer m.Close()
	var have build
	if err := m.Lookup(uint32(0), &have); err != nil {
		return err
	}
	if have != f.build() {
		return errors.New("the programs are of another build")
	}
	defer func() {
		if err != nil {
			f.closePrograms()
			_ = f.XDP.close()
		}
	}()
	for name := range f.Policer() {
		if maps[name], err = ebpf.LoadPinnedMap(filepath.Join(dir, name), nil); err != nil {
			delete(maps, name)
			return err
		}
	}
	for name, p := range f.programs() {
		if *p, err = ebpf.LoadPinnedProgram(filepath.Join(dir, name), nil); err != nil {
			*p = nil
			return err
		}
	}
	if f.XDP != nil {
		if err := f.XDP.reuse(dir); err != nil {
			return err
		}
	}
	if err := spec.LoadAndAssign(&f.maps, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return err
	}
	if err := f.forgive(); err != nil {
		return errors.Join(err, f.maps.Close())
	}
	f.reused = true
	return nil
}

func (f *FastPath) closePrograms() {
	for _, p := range f.programs() {
		if *p != nil {
			(*p).Close()
			*p = nil
		}
	}
}

// forgive empties the policer's maps: nobody gives way when a daemon starts.
func (f *FastPath) forgive() error {
	if err := f.maps.Capping.Put(uint32(0), make([]byte, f.maps.Capping.ValueSize())); err != nil {
		return fmt.Errorf("policer of the fast path: %w", err)
	}
	for _, m := range []*ebpf.Map{f.maps.Senders, f.maps.Receivers} {
		key := make([]byte, m.KeySize())
		for m.NextKey(nil, key) == nil {
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("policer of the fast path: %w", err)
			}
		}
	}
	return nil
}

// PinPrograms puts the programs, and the maps that only they have, beside the maps in
// dir, in the stead of an earlier daemon's.
func (f *FastPath) PinPrograms(dir string) error {
	if err := unpin(dir, keptNames()); err != nil {
		return err
	}
	for name, m := range f.Policer() {
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for name, p := range f.programs() {
		if err := (*p).Pin(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if f.XDP != nil {
		if err := f.XDP.pin(dir); err != nil {
			return err
		}
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: buildName, Type: ebpf.Array, KeySize: 4, ValueSize: sha256.Size, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("map %s: %w", buildName, err)
	}
	defer m.Close()
	if err := m.Put(uint32(0), f.build()); err != nil {
		return fmt.Errorf("map %s: %w", buildName, err)
	}
	return m.Pin(filepath.Join(dir, buildName))
}

// keptNames are what PinPrograms makes, that which says so first.
func keptNames() []string {
	names := append([]string{buildName}, xdpPins...)
	for name := range (&FastPath{}).programs() {
		names = append(names, name)
	}
	for name := range (&FastPath{}).Policer() {
		names = append(names, name)
	}
	return names
}

func unpin(dir string, names []string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin the fast path: %w", err)
		}
	}
	return nil
}
