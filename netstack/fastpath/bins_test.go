//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/netns"
)

// each yields what is in a table.
func (t *bins[K, V]) each(yield func(K, V)) {
	each(t.Map, func(at uint32, w words) {
		if b := t.in(&w); at >= firstBin && b.Live != 0 {
			yield(b.Key, b.Entry)
		}
	})
}

// TestBinLayout: what a bin is in Go and in C.
func TestBinLayout(t *testing.T) {
	var six bin[programKey6, programEntry6]
	var four bin[programKey4, programEntry4]
	var port bin[programKeyPort, programEntry4]
	var c6 programBin6
	var c4 programBin4
	var cPort programBinPort
	for _, d := range [][2]uintptr{
		{unsafe.Sizeof(words{}), unsafe.Sizeof(c6)}, {unsafe.Sizeof(words{}), unsafe.Sizeof(c4)}, {unsafe.Sizeof(words{}), unsafe.Sizeof(cPort)},
		{unsafe.Offsetof(six.Next), unsafe.Offsetof(c6.Next)}, {unsafe.Offsetof(six.Key), unsafe.Offsetof(c6.Key)}, {unsafe.Offsetof(six.Entry), unsafe.Offsetof(c6.Entry)},
		{unsafe.Offsetof(four.Next), unsafe.Offsetof(c4.Next)}, {unsafe.Offsetof(four.Key), unsafe.Offsetof(c4.Key)}, {unsafe.Offsetof(four.Entry), unsafe.Offsetof(c4.Entry)},
		{unsafe.Offsetof(port.Next), unsafe.Offsetof(cPort.Next)}, {unsafe.Offsetof(port.Key), unsafe.Offsetof(cPort.Key)}, {unsafe.Offsetof(port.Entry), unsafe.Offsetof(cPort.Entry)},
	} {
		if d[0] != d[1] {
			t.Errorf("%d here, %d in C", d[0], d[1])
		}
	}
}

// newTestBins makes a table of IPv4 prefixes.
func newTestBins(t *testing.T, entries map[uint32]uint64, crowded bool) *bins[programKey4, programEntry4] {
	t.Helper()
	netns.Require(t, netns.Root)
	spec, err := loadProgram()
	if err != nil {
		t.Fatal(err)
	}
	var keys []programKey4
	var values []programEntry4
	for k, v := range entries {
		keys, values = append(keys, programKey4{Length: 32, V4: k}), append(values, programEntry4{Hi: v, Lo: ^v})
	}
	b, err := newBins(spec.Maps[programMapBy4].InnerMap, keys, values, crowded)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

// TestBins: a table holds what a map holds, after whatever was put and deleted, crowded
// or not, and says so when it cannot.
func TestBins(t *testing.T) {
	for _, crowded := range []bool{false, true} {
		t.Run(fmt.Sprintf("crowded %v", crowded), func(t *testing.T) {
			r, want := rand.New(rand.NewPCG(1, 2)), map[uint32]uint64{}
			for range 40 {
				want[r.Uint32N(100)] = r.Uint64()
			}
			b := newTestBins(t, want, crowded)
			full, chained := 0, 0
			for i := range 6000 {
				k := r.Uint32N(100)
				key, v := programKey4{Length: 32, V4: k}, r.Uint64()
				_, have := want[k]
				if r.IntN(2) == 0 || len(want) > 60 {
					if err := b.Delete(key); have && err != nil || !have && !errors.Is(err, ebpf.ErrKeyNotExist) {
						t.Fatalf("step %d: delete of %d (there: %v): %v", i, k, have, err)
					}
					delete(want, k)
				} else if err := b.Put(key, &programEntry4{Hi: v, Lo: ^v}); errors.Is(err, errNoRoom) {
					full++
				} else if err != nil {
					t.Fatalf("step %d: put of %d: %v", i, k, err)
				} else {
					want[k] = v
				}
				if list, err := b.probes(key); err == nil && len(list) > 2 {
					chained++
				}
				if i%100 == 0 {
					b.same(t, want)
				}
			}
			b.same(t, want)
			if crowded && chained == 0 {
				t.Error("nobody has ever stood elsewhere")
			}
			if full > 60 {
				t.Errorf("no room %d times", full)
			}
		})
	}
}

// same compares a table with what it should hold, by both ways to read it.
func (t *bins[K, V]) same(tt *testing.T, want map[uint32]uint64) {
	tt.Helper()
	b := any(t).(*bins[programKey4, programEntry4])
	n := 0
	b.each(func(k programKey4, v programEntry4) {
		if n++; want[k.V4] != v.Hi || v.Lo != ^v.Hi {
			tt.Fatalf("%d has %x, want %x", k.V4, v.Hi, want[k.V4])
		}
	})
	if n != len(want) {
		tt.Fatalf("%d entries, want %d", n, len(want))
	}
	for k, v := range want {
		var e programEntry4
		if err := b.Lookup(programKey4{Length: 32, V4: k}, &e); err != nil || e.Hi != v {
			tt.Fatalf("%d has %x, want %x: %v", k, e.Hi, v, err)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestBinsLinger: a bin that was left is not written until who came before has gone, and
// what takes another's place is there before that goes.
func TestBinsLinger(t *testing.T) {
	b := newTestBins(t, map[uint32]uint64{7: 1}, false)
	key := programKey4{Length: 32, V4: 7}
	home := b.home(key)
	content := func(at uint32) (w words) {
		if err := b.Map.Lookup(at, &w); err != nil {
			t.Fatal(err)
		}
		return w
	}
	before := content(home)
	e := b.in(&before).Entry
	if e.Sizes = 5; b.Put(key, &e) != nil || content(home) == before || b.in(ptr(content(home))).Live == 0 {
		t.Fatalf("a number alone is not written where it stands: %+v", b.in(ptr(content(home))))
	}
	before = content(home)
	if e.Flags, e.Class = 1, 1; b.Put(key, &e) != nil { // read one after another
		t.Fatal("no room")
	}
	after := content(home)
	if b.in(&after).Live != 0 || b.in(&after).Next == 0 || b.in(&after).Entry != b.in(&before).Entry {
		t.Fatalf("home holds %+v, was %+v", b.in(&after), b.in(&before))
	}
	if err := b.Delete(key); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(key, &programEntry4{Hi: 4}); err != nil {
		t.Fatal(err)
	}
	if list, err := b.probes(key); err != nil || b.find(list, key) != 1 {
		t.Errorf("it stands at %d of %d (%v), want beside its home, which was left a moment ago", b.find(list, key), len(list), err)
	}
	for at := range b.leaving {
		b.leaving[at] = b.leaving[at].Add(-lingers)
	}
	if err := b.Delete(key); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(key, &programEntry4{Hi: 5}); err != nil {
		t.Fatal(err)
	}
	if list, err := b.probes(key); err != nil || b.find(list, key) != 0 {
		t.Errorf("it stands at %d of %d (%v), want at home", b.find(list, key), len(list), err)
	}
	if at := time.Since(b.leaving[home^1]); at > time.Minute {
		t.Errorf("its neighbour was left %v ago", at)
	}
}
