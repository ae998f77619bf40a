//go:build linux

package fastpath

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// TestSwitch replaces tables while packets go through: each packet is translated
// by the one or by the other, never by something of both, and none is passed on.
func TestSwitch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := loaded(t)
	one := func(v6, v4 string) mapping.Mapping {
		return mapping.Mapping{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4)}
	}
	choices := []Tables{
		tables(t, "2001:db8:64::/96", one("2001:db8:6::2/128", "198.51.100.2/32")),
		tables(t, "2001:db8:100::/40", one("2001:db8:7::2/128", "198.51.100.2/32"), one("2001:db8:9::/64", "203.0.113.0/24")),
	}
	in := reference.Packet{Bytes: udp4(20)}
	var wants [][]byte
	for _, c := range choices {
		tr, err := translator.New(c.Config, c.Table)
		if err != nil {
			t.Fatal(err)
		}
		p := &translator.Packet{Buf: make([]byte, 400), Start: translator.Headroom}
		p.End = p.Start + copy(p.Buf[p.Start:], in.Bytes)
		if v := tr.NewWorker().Translate(p); v != translator.Forward6 {
			t.Fatal(v)
		}
		wants = append(wants, bytes.Clone(p.Bytes()))
	}
	if err := f.Replace(choices[1]); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan [3]int)
	go func() {
		var seen [3]int
		run := newRunner(f.Uplink.FD(), r.up, r.upMAC)
		r.Do(func() {
			for !stop.Load() {
				action, frame, err := run.run(in, 0)
				switch {
				case err != nil:
					t.Error(err)
					stop.Store(true)
				case action == actNext:
					seen[2]++
				case bytes.Equal(frame[sizeEthernet:], wants[0]):
					seen[0]++
				case bytes.Equal(frame[sizeEthernet:], wants[1]):
					seen[1]++
				default:
					t.Errorf("by neither table: %x", frame)
					stop.Store(true)
				}
			}
		})
		done <- seen
	}()
	for i := range 40 {
		if err := f.Replace(choices[i%2]); err != nil {
			t.Error(err)
			break
		}
	}
	stop.Store(true)
	seen := <-done
	t.Logf("by the first tables %d, by the second %d, passed on %d", seen[0], seen[1], seen[2])
	if seen[0] == 0 || seen[1] == 0 || seen[2] > 0 {
		t.Error("packets did not see both tables, or neither")
	}
}

// traffic sends n packets of the first world's workload each way.
func traffic(t *testing.T, r *rig, f *FastPath, n int) {
	t.Helper()
	r.Do(func() {
		up, work := newRunner(f.Uplink.FD(), r.up, r.upMAC), newRunner(f.Workload.FD(), r.work, r.workMAC)
		for range n {
			for run, p := range map[*runner][]byte{up: udp4(20), work: udp6(20)} {
				if a, _, err := run.run(reference.Packet{Bytes: p}, 0); err != nil || a != actRedirect {
					t.Errorf("action %d, %v", int32(a), err)
				}
			}
		}
	})
}

// TestTraffic counts by slot, whoever has it, and no slot's count ever falls:
// through replacements, edits, adoption, and where the tables are given up.
func TestTraffic(t *testing.T) {
	r := newRig(t)
	f := loaded(t)
	p := newPair(t, r, prefixed()[0], f)
	prefix := netip.MustParsePrefix("2001:db8:6::2/128")
	traffic(t, r, f, 10)
	check := func(f *FastPath, slot uint32, want uint64) {
		t.Helper()
		got, err := f.Traffic(slot)
		if w := (Traffic{Count{want, want * 68}, Count{want, want * 48}}); err != nil || got != w {
			t.Errorf("counted %+v, want %+v (%v)", got, w, err)
		}
	}
	first := p.table.Get(prefix).Slot()
	check(f, first, 10)
	moved := p.fast.tables
	var others []mapping.Mapping
	for i := range 5 {
		others = append(others, mapping.Mapping{IPv6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 128),
			IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{9, 9, 9, byte(i)}), 32)})
	}
	table, err := mapping.New(p.world.Prefix, append(others, p.world.Mappings...))
	if err != nil {
		t.Fatal(err)
	}
	next := *moved
	next.Table = table
	for range 2 {
		if err := f.Replace(next); err != nil {
			t.Fatal(err)
		}
		check(f, first, 10)
	}
	slot := table.Get(prefix).Slot()
	if slot == first {
		t.Fatal("the mapping has the same slot: this proves nothing")
	}
	check(f, slot, 0)
	traffic(t, r, f, 5)
	check(f, slot, 5)
	check(f, first, 10)

	dir := bpffs(t)
	if err := f.Pin(dir); err != nil {
		t.Fatal(err)
	}
	heir, err := Adopt(dir, "natless0")
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	traffic(t, r, heir, 1) // by the tables that are there
	if err := heir.Replace(next); err != nil {
		t.Fatal(err)
	}
	check(heir, slot, 6) // of what was carried in memory, an heir knows nothing
	c, err := heir.Counters()
	if err != nil || c.Uplink[Translated] != (Count{16, 16 * 48}) || c.Workload[Translated] != (Count{16, 16 * 68}) {
		t.Errorf("counters %+v, %v", c, err)
	}

	m := table.Get(prefix).Mapping()
	edit := table.Edit()
	if err := errors.Join(edit.Remove(m), edit.Insert(m)); err != nil {
		t.Fatal(err)
	}
	again := edit.Table()
	if err := heir.Edit(again, []mapping.Mapping{m}, []mapping.Mapping{m}); err != nil {
		t.Fatal(err)
	}
	check(heir, slot, 6)
	if err := heir.SetInterface(m, 0); err != nil {
		t.Fatal(err)
	}
	r.Do(func() {
		run := newRunner(heir.Workload.FD(), r.work, r.workMAC)
		if a, _, err := run.run(reference.Packet{Bytes: udp6(20)}, 0); err != nil || a != actNext {
			t.Errorf("a workload without an interface: action %d, %v", int32(a), err)
		}
	})
	if err := heir.disable(); err != nil {
		t.Fatal(err)
	}
	check(heir, slot, 6)
	if err := heir.Replace(next); err != nil {
		t.Fatal(err)
	}
	check(heir, slot, 6)
}

// bpffs is an empty folder in a BPF file system of the test's own.
func bpffs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/sys/fs/bpf", "natless-test-")
	if err != nil {
		t.Fatalf("no BPF file system: %v: mount -t bpf bpf /sys/fs/bpf", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestPins adopts nothing where nothing is, refuses another layout, and leaves
// nothing behind.
func TestPins(t *testing.T) {
	netns.Require(t, netns.Root)
	dir := bpffs(t)
	if _, err := Adopt(dir, "natless0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("adopt nothing: %v", err)
	}
	f := loaded(t)
	if err := f.Pin(dir); err != nil {
		t.Fatal(err)
	}
	layout, err := ebpf.LoadPinnedMap(filepath.Join(dir, layoutName), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Close()
	if err := layout.Put(uint32(0), uint32(Layout+1)); err != nil {
		t.Fatal(err)
	}
	other := (*LayoutError)(nil)
	if _, err := Adopt(dir, "natless0"); !errors.As(err, &other) || other.Have != Layout+1 {
		t.Errorf("adopt another layout: %v", err)
	}
	if err := Unpin(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := Unpin(dir); err != nil {
		t.Errorf("unpin nothing: %v", err)
	}
}
