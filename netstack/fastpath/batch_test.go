//go:build linux

package fastpath

import (
	"reflect"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/netns"
)

// TestNeighbours: the counters of a mapping, read at once, are those read one by one, at
// either end of the map and between, whatever the number of CPUs.
func TestNeighbours(t *testing.T) {
	netns.Require(t, netns.Root)
	t.Parallel()
	for _, cpus := range []int{1, 2, 3, 64, 128} {
		const slots = 5
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: sizeTraffic, MaxEntries: uint32(slots * cpus)})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for i := range uint32(slots * cpus) {
			var n programTraffic
			n.Sent.Packets, n.Sent.Bytes, n.Received.Packets, n.Received.Bytes = uint64(i), uint64(i)<<40, 3*uint64(i), 1
			if err := m.Update(i, n, ebpf.UpdateAny); err != nil {
				t.Fatal(err)
			}
		}
		in := inner{counters: m, perMapping: cpus, slots: slots}
		for slot := range uint32(slots) {
			var want, batched, got Traffic
			for i := range uint32(cpus) {
				var n programTraffic
				if err := m.Lookup(slot*uint32(cpus)+i, &n); err != nil {
					t.Fatal(err)
				}
				want.add(n)
			}
			if err := neighbours(m, slot*uint32(cpus), cpus, &batched); err != nil || batched != want {
				t.Errorf("%d CPUs, slot %d: %+v, %v, want %+v", cpus, slot, batched, err, want)
			}
			if err := in.count(slot, &got); err != nil || got != want {
				t.Errorf("%d CPUs, slot %d: counted %+v, %v, want %+v", cpus, slot, got, err, want)
			}
		}
		var beyond Traffic
		if err := neighbours(m, slots*uint32(cpus)-1, 2, &beyond); err == nil {
			t.Errorf("%d CPUs: what is beyond the map is %+v", cpus, beyond)
		}
	}
}

// TestEachCPU: what all CPUs have counted, read at once, is what is read row by row.
func TestEachCPU(t *testing.T) {
	netns.Require(t, netns.Root)
	t.Parallel()
	const rows = 37
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 16, MaxEntries: rows})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	cpus := ebpf.MustPossibleCPU()
	want := map[uint32][]programCount{}
	for row := range uint32(rows) {
		for cpu := range cpus {
			want[row] = append(want[row], programCount{Packets: uint64(row)<<32 + uint64(cpu), Bytes: uint64(row * 3)})
		}
		if err := m.Update(row, want[row], ebpf.UpdateAny); err != nil {
			t.Fatal(err)
		}
	}
	got := map[uint32][]programCount{}
	note := func(row uint32, perCPU []programCount) { got[row] = slices.Clone(perCPU) }
	if !eachCPUAtOnce(m, rows, note) {
		t.Log("this kernel has no batches of such maps")
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("at once: %v, want %v", got, want)
	}
	clear(got)
	if err := eachCPU(m, rows, note); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if eachCPUAtOnce(m, rows+1, note) { // such as in the maps of an older version
		t.Error("more rows than there are were read")
	}
}

// BenchmarkCount is what the counters of a mapping take on hosts of many CPUs.
func BenchmarkCount(b *testing.B) {
	netns.Require(b, netns.Root)
	const cpus = 64
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: sizeTraffic, MaxEntries: 100 * cpus})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	b.Run("at once", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var t Traffic
			if err := neighbours(m, 7*cpus, cpus, &t); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one by one", func(b *testing.B) {
		for b.Loop() {
			for i := range uint32(cpus) {
				var n programTraffic
				if err := m.Lookup(7*cpus+i, &n); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
