//go:build linux

package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// held is what the maps hold, in any order.
type held struct {
	by6    map[programKey6]programEntry6
	by4    map[programKey4]programEntry4
	ports  map[programKeyPort]programEntry4
	config programConfig
}

func (f *FastPath) held(t *testing.T) held {
	t.Helper()
	h := held{map[programKey6]programEntry6{}, map[programKey4]programEntry4{}, map[programKeyPort]programEntry4{}, programConfig{}}
	each(f.inner.by6, func(k programKey6, e programEntry6) { h.by6[k] = e })
	each(f.inner.by4, func(k programKey4, e programEntry4) { h.by4[k] = e })
	each(f.inner.ports, func(k programKeyPort, e programEntry4) { h.ports[k] = e })
	var current uint32
	if err := errors.Join(f.maps.Active.Lookup(uint32(0), &current), f.maps.Configs.Lookup(current, &h.config)); err != nil {
		t.Fatal(err)
	}
	return h
}

// wanted is what they are to hold.
func (f *FastPath) wanted(t *testing.T, tables *Tables) held {
	t.Helper()
	h := held{map[programKey6]programEntry6{}, map[programKey4]programEntry4{}, map[programKeyPort]programEntry4{}, programConfig{}}
	c, s := encode(tables)
	for i, k := range c.keys6 {
		h.by6[k] = c.entries6[i]
	}
	for i, k := range c.keys4 {
		h.by4[k] = c.entries4[i]
	}
	for i, k := range c.keysPort {
		h.ports[k] = c.ownerPort[i]
	}
	var err error
	if h.config, err = s.config(tables, f.fibFlags, f.inner.perMapping); err != nil {
		t.Fatal(err)
	}
	for i, word := range s.near {
		var has uint64
		if err := f.inner.near.Lookup(uint32(i), &has); err != nil || has&word != word {
			t.Fatalf("near[%d] is %x, lacks some of %x (%v)", i, has, word, err)
		}
	}
	return h
}

func (h held) same(o held) error {
	for _, d := range []struct {
		name      string
		got, want any
	}{{"config", h.config, o.config}, {"by6", h.by6, o.by6}, {"by4", h.by4, o.by4}, {"ports", h.ports, o.ports}} {
		if got, want := fmt.Sprintf("%v", d.got), fmt.Sprintf("%v", d.want); got != want {
			return fmt.Errorf("%s holds\n%s\nwant\n%s", d.name, got, want)
		}
	}
	return nil
}

// tables is a table for tests, without a workload's interface.
func tables(t testing.TB, prefix string, mappings ...mapping.Mapping) Tables {
	t.Helper()
	table, err := mapping.New(netip.MustParsePrefix(prefix), mappings)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8:ffff::1"), AllowNonGlobal: true}, table)
	if err != nil {
		t.Fatal(err)
	}
	return Tables{Table: table, Config: tr.Config(), Interface: func(m mapping.Mapping) int { return m.IPv6.Bits() }}
}

// randomMapping is one out of few, so that they meet: of all kinds and lengths,
// in the prefix and out of it, sharing addresses and not.
func randomMapping(r *rand.Rand) mapping.Mapping {
	n := byte(r.IntN(24))
	v6 := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(r.IntN(2)), 15: n})
	v4 := netip.AddrFrom4([4]byte{10, 1 + n%3, n, n})
	switch r.IntN(4) {
	case 0:
		m := mapping.Mapping{IPv6: netip.PrefixFrom(v6, 96+r.IntN(4)*8), IPv4: netip.PrefixFrom(v4, 24+r.IntN(3)*4)}
		m.IPv6, m.IPv4 = m.IPv6.Masked(), m.IPv4.Masked()
		return m
	case 1:
		first := uint16(1024 * (1 + r.IntN(40)))
		return mapping.Mapping{IPv6: netip.PrefixFrom(v6, 128), IPv4: netip.PrefixFrom(v4, 32),
			Ports: mapping.PortSet{{First: first, Last: first + uint16(r.IntN(1024))}}}
	case 2:
		first := uint16(2048 * (1 + r.IntN(20)))
		return mapping.Mapping{IPv6: netip.PrefixFrom(v6, 128), IPv4: netip.PrefixFrom(v4, 32),
			Ports: mapping.PortSet{{First: first, Last: first}, {First: first + 7, Last: first + 200}}}
	}
	return mapping.Mapping{IPv6: netip.PrefixFrom(v6, 128), IPv4: netip.PrefixFrom(v4, 32)}
}

// TestEdit makes random edits: the maps hold, after each, what they would hold
// were they written anew.
func TestEdit(t *testing.T) {
	netns.Require(t, netns.Root)
	f := loaded(t)
	if err := f.Edit(nil, nil, nil); err == nil {
		t.Error("tables that are not there can be edited")
	}
	now := tables(t, "2001:db8:1::/96")
	if err := f.Replace(now); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(6, 1))
	var in []mapping.Mapping
	for n := range 300 {
		edit := now.Table.Edit()
		var removed, added []mapping.Mapping
		for range 1 + r.IntN(3) {
			if len(in) > 0 && r.IntN(100) < 40+len(in) {
				i := r.IntN(len(in))
				m := in[i]
				if err := edit.Remove(m); err != nil {
					t.Fatal(err)
				}
				in = append(in[:i], in[i+1:]...)
				removed = append(removed, m)
			}
		}
		for range r.IntN(4) {
			if m := randomMapping(r); edit.Insert(m) == nil {
				in, added = append(in, m), append(added, m)
			}
		}
		now.Table = edit.Table()
		if err := f.Edit(now.Table, removed, added); err != nil {
			t.Fatalf("edit %d: %v", n, err)
		}
		if err := f.held(t).same(f.wanted(t, &now)); err != nil {
			t.Fatalf("edit %d, without %v, with %v: %v", n, removed, added, err)
		}
	}
}

// TestSwitch replaces tables while packets go through: each packet is translated
// by the one or by the other, or passed on, never by something of both.
func TestSwitch(t *testing.T) {
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
	if seen[0] == 0 || seen[1] == 0 {
		t.Error("packets did not see both tables")
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

// TestTraffic counts by mapping, through replacements that give it another slot,
// through adoption, and not for the mapping after it.
func TestTraffic(t *testing.T) {
	r := newRig(t)
	f := loaded(t)
	p := newPair(t, r, prefixed()[0], f)
	prefix := netip.MustParsePrefix("2001:db8:6::2/128")
	traffic(t, r, f, 10)
	check := func(f *FastPath, table *mapping.Table, want uint64) {
		t.Helper()
		got, err := f.Traffic(table.Get(prefix).Slot())
		if w := (Traffic{Count{want, want * 68}, Count{want, want * 48}}); err != nil || got != w {
			t.Errorf("counted %+v, want %+v (%v)", got, w, err)
		}
	}
	check(f, p.table, 10)
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
		check(f, table, 10)
	}
	traffic(t, r, f, 5)
	check(f, table, 15)

	dir := bpffs(t)
	if err := f.Pin(dir); err != nil {
		t.Fatal(err)
	}
	heir, err := Adopt(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	traffic(t, r, heir, 1) // by the tables that are there
	if err := heir.Replace(next); err != nil {
		t.Fatal(err)
	}
	check(heir, table, 6) // of what was carried in memory, an heir knows nothing
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
	check(heir, again, 0)
	if err := heir.SetInterface(m, 0); err != nil {
		t.Fatal(err)
	}
	r.Do(func() {
		run := newRunner(heir.Workload.FD(), r.work, r.workMAC)
		if a, _, err := run.run(reference.Packet{Bytes: udp6(20)}, 0); err != nil || a != actNext {
			t.Errorf("a workload without an interface: action %d, %v", int32(a), err)
		}
	})
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
	if _, err := Adopt(dir); !errors.Is(err, fs.ErrNotExist) {
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
	if _, err := Adopt(dir); !errors.As(err, &other) || other.Have != Layout+1 {
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

// TestUnsupported passes everything on, and says why.
func TestUnsupported(t *testing.T) {
	r := newRig(t)
	f := loaded(t)
	newPair(t, r, prefixed()[0], f)
	traffic(t, r, f, 1)
	good := *f.tables
	bare, err := mapping.New(netip.Prefix{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var many []mapping.Mapping
	for length := 32; length < 32+2*maxLengths; length += 2 {
		p := netip.PrefixFrom(netip.MustParseAddr("2001:db8::"), length)
		many = append(many, mapping.Mapping{IPv6: p, IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{9, 9, 9, byte(length)}), 32)})
	}
	many = append(many, mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8::/127"), IPv4: netip.MustParsePrefix("9.9.9.1/32")})
	for name, change := range map[string]func(*Tables){
		"no prefix":    func(t *Tables) { t.Table = bare },
		"client":       func(t *Tables) { t.Config.Client = true },
		"many lengths": func(n *Tables) { n.Table = tables(t, "64:ff9b::/96", many...).Table },
	} {
		if err := f.Replace(good); err != nil {
			t.Fatal(err)
		}
		traffic(t, r, f, 1)
		bad := good
		change(&bad)
		if err := f.Replace(bad); !errors.As(err, new(*UnsupportedError)) {
			t.Errorf("%s: %v", name, err)
		}
		r.Do(func() {
			run := newRunner(f.Uplink.FD(), r.up, r.upMAC)
			if a, _, err := run.run(reference.Packet{Bytes: udp4(20)}, 0); err != nil || a != actNext {
				t.Errorf("%s: action %d, %v", name, int32(a), err)
			}
		})
	}
}

// TestMillion writes a million mappings, and edits them at no greater cost than
// few.
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a GB and some seconds")
	}
	netns.Require(t, netns.Root)
	f := loaded(t)
	number := func(i uint32) mapping.Mapping {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 20<<24+i)
		b := [16]byte{0x20, 1, 0xd, 0xb8, 0, 7}
		binary.BigEndian.PutUint32(b[12:], i)
		return mapping.Mapping{IPv6: netip.PrefixFrom(netip.AddrFrom16(b), 128), IPv4: netip.PrefixFrom(netip.AddrFrom4(a), 32)}
	}
	for _, n := range []uint32{100, 1_000_000} {
		var list []mapping.Mapping
		for i := range n {
			list = append(list, number(i))
		}
		now := tables(t, "64:ff9b::/96", list...)
		began := time.Now()
		if err := f.Replace(now); err != nil {
			t.Fatal(err)
		}
		replaced := time.Since(began)
		began = time.Now()
		for i := range uint32(200) {
			m := number(2_000_000 + i)
			table, err := now.Table.Insert(m)
			if err != nil {
				t.Fatal(err)
			}
			now.Table = table
			if err := f.Edit(table, nil, []mapping.Mapping{m}); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d mappings: written in %v, one more in %v", n, replaced, time.Since(began)/200)
		if f.tables.Table.Len() != int(n)+200 {
			t.Error("tables lack what was added")
		}
	}
}
