package mapping

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/natless/natless/translator/ports"
)

// world makes mappings and addresses from a few bytes, few enough that they
// often meet: the same prefix, one inside the other, ports of one address.
type world struct {
	data []byte
}

func (w *world) next() int {
	if len(w.data) == 0 {
		return 0
	}
	b := w.data[0]
	w.data = w.data[1:]
	return int(b)
}

var lengths6 = []int{128, 128, 127, 120, 96, 65, 64, 63, 56, 32, 1, 0}
var lengths4 = []int{32, 32, 32, 31, 30, 25, 24, 16, 1, 0}

// prefixes for RFC 6052: none, one without mappings, and some with.
var prefixes = []netip.Prefix{{}, netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2001:db8::/96"), netip.MustParsePrefix("2001:db8:0:1::/64")}

func (w *world) addr6() netip.Addr {
	a := netip.MustParseAddr("2001:db8::").As16()
	b := w.next()
	a[15], a[7], a[8] = byte(b&7), byte(b>>3&3), byte(b>>5)
	return netip.AddrFrom16(a)
}

func (w *world) addr4() netip.Addr {
	b := w.next()
	return netip.AddrFrom4([4]byte{192, 0, byte(b >> 3 & 3), byte(b&7 | b>>5<<5)})
}

func (w *world) mapping() Mapping {
	b := w.next()
	m := Mapping{
		IPv6: netip.PrefixFrom(w.addr6(), lengths6[b&15%len(lengths6)]).Masked(),
		IPv4: netip.PrefixFrom(w.addr4(), lengths4[b>>4%len(lengths4)]).Masked(),
	}
	if b&0x80 != 0 {
		m.IPv4 = netip.PrefixFrom(w.addr4(), 32)
		port := 0
		for range w.next()&3 + 1 {
			b := w.next()
			port += b & 0x3f * 64 // sets touch, overlap, share blocks of 256
			last := min(port+(b>>6*100), 65535)
			m.Ports = m.Ports.Union(ports.Of(ports.Range{First: uint16(port), Last: uint16(last)}))
			port = last + 2
		}
	}
	if m.IPv6.Bits() == 128 && m.IPv4.Bits() == 32 {
		m.Inside = w.next()&1 != 0
	}
	return m
}

// step does one random thing to both tables and says what they made of it.
func (w *world) step(t testing.TB, fast *Table, slow naive) (*Table, naive) {
	if w.next()&3 == 0 && len(slow) > 0 {
		m := slow[w.next()%len(slow)]
		next, err := fast.Remove(m)
		if err != nil {
			t.Fatalf("remove %v: %v", m, err)
		}
		slow, _ = slow.remove(m)
		return next, slow
	}
	m := w.mapping()
	if m.Validate() != nil && !(32-m.IPv4.Bits() > 128-m.IPv6.Bits()) {
		return fast, slow // never-translated: not the reference's business
	}
	next, err := fast.Insert(m)
	after, refused := slow.insert(m)
	if (err != nil) != (refused != nil) {
		t.Fatalf("insert %v: error %v, reference %v", m, err, refused)
	}
	if err != nil {
		next = fast
	}
	return next, after
}

// agree compares every question that a table answers, about addresses in and
// beside its mappings.
func agree(t testing.TB, fast *Table, slow naive) {
	t.Helper()
	if fast.Len() != len(slow) {
		t.Fatalf("%d mappings, reference %d", fast.Len(), len(slow))
	}
	all := slices.Collect(fast.All())
	for _, m := range slow {
		if !slices.ContainsFunc(all, m.Equal) {
			t.Fatalf("%v is missing in All", m)
		}
		if e := fast.Get(m.IPv6); e == nil || !e.Mapping().Equal(m) {
			t.Fatalf("Get does not find %v", m)
		}
	}
	agree6(t, fast, slow)
	agree4(t, fast, slow)
	used := map[uint32]bool{}
	for e := range fast.Entries() {
		if used[e.Slot()] || int(e.Slot()) >= fast.Slots() {
			t.Fatalf("slot %d of %d is used twice or too high", e.Slot(), fast.Slots())
		}
		used[e.Slot()] = true
	}
}

func agree6(t testing.TB, fast *Table, slow naive) {
	t.Helper()
	for b := range 256 {
		a := (&world{data: []byte{byte(b)}}).addr6()
		want, ok := slow.lookup6(a)
		e := fast.Lookup6(Addr6From(a))
		if (e != nil) != ok {
			t.Fatalf("lookup of %v: %v, reference %v %v", a, e, want, ok)
		}
		if !ok {
			continue
		}
		if got := e.Mapping(); !got.Equal(want) || e.Shared() != (!want.Ports.IsZero()) {
			t.Fatalf("lookup of %v: %v, reference %v", a, got, want)
		}
		if got, want := Addr4(e.To4(Addr6From(a))), copySuffix(a, want.IPv6, want.IPv4); got != want {
			t.Fatalf("%v by %v becomes %v, reference %v", a, e.Mapping(), got, want)
		}
	}
}

func agree4(t testing.TB, fast *Table, slow naive) {
	t.Helper()
	for b := range 256 {
		a := (&world{data: []byte{byte(b)}}).addr4()
		n := Addr4From(a)
		want := slow.lookup4(a)
		e := fast.Lookup4(n)
		switch {
		case (e != nil) != (len(want) > 0):
			t.Fatalf("lookup of %v: %v, reference %v", a, e, want)
		case e == nil:
		case e.Shared() != (!want[0].Ports.IsZero()):
			t.Fatalf("lookup of %v: shared is %v, reference %v", a, e.Shared(), want)
		case e.Shared():
			agreePorts(t, fast, e, n, want)
		default:
			if got, v6 := e.Mapping(), copySuffix(a, want[0].IPv4, want[0].IPv6); !got.Equal(want[0]) || e.To6(n).Addr() != v6 {
				t.Fatalf("lookup of %v: %v %v, reference %v %v", a, got, e.To6(n).Addr(), want[0], v6)
			}
		}
	}
}

// agreePorts asks at the ends of all ranges and beside them.
func agreePorts(t testing.TB, fast *Table, head *Entry, a uint32, owners []Mapping) {
	t.Helper()
	asked := []uint16{0, 255, 256, 65535}
	for _, m := range owners {
		for r := range m.Ports.Runs() {
			asked = append(asked, r.First-1, r.First, r.Last, r.Last+1)
		}
	}
	for _, port := range asked {
		i := slices.IndexFunc(owners, func(m Mapping) bool { return owns(m.Ports, port) })
		e := fast.Port(head, a, port)
		if (e != nil) != (i >= 0) || e != nil && !e.Mapping().Equal(owners[i]) {
			t.Fatalf("port %d of %v: %v, reference %d of %v", port, Addr4(a), e, i, owners)
		}
		for _, m := range owners {
			if e := fast.Get(m.IPv6); e.Owns(port) != owns(m.Ports, port) {
				t.Fatalf("%v owns %d: %v", m, port, e.Owns(port))
			}
		}
	}
}

// FuzzTable makes tables by random edits and compares each with the slow
// reference; snapshots that were taken on the way must not change.
func FuzzTable(f *testing.F) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for range 8 {
		seed := make([]byte, 400)
		for i := range seed {
			seed[i] = byte(rnd.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) { randomEdits(t, data) })
}

func randomEdits(t testing.TB, data []byte) {
	w := &world{data: data[:min(len(data), 1<<10)]}
	prefix := prefixes[w.next()%len(prefixes)]
	fast, err := New(prefix, nil)
	if err != nil {
		t.Fatal(err)
	}
	type pair struct {
		fast *Table
		slow naive
	}
	snapshots := []pair{{fast, nil}}
	for len(w.data) > 0 {
		last := snapshots[len(snapshots)-1]
		f, s := w.step(t, last.fast, last.slow)
		snapshots = append(snapshots, pair{f, s})
	}
	for i := 0; i < len(snapshots); i += max(1, len(snapshots)/8) {
		agree(t, snapshots[i].fast, snapshots[i].slow)
	}
	last := snapshots[len(snapshots)-1]
	agree(t, last.fast, last.slow)
	again, err := New(prefix, last.slow)
	if err != nil {
		t.Fatal(err)
	}
	agree(t, again, last.slow)
}

// TestManyEdits makes tables that are large enough for buckets to split and
// pages to fill, in batches of edits, and compares with a map after each.
func TestManyEdits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	table, _ := New(netip.Prefix{}, nil)
	want := map[uint32]Mapping{} // by number
	number := func() uint32 { return rnd.Uint32N(40000) }
	type snapshot struct {
		table *Table
		want  map[uint32]Mapping
	}
	var old []snapshot
	for range 12 {
		e := table.Edit()
		for range 8000 {
			n := number()
			if m, ok := want[n]; ok && rnd.IntN(3) == 0 {
				if err := e.Remove(m); err != nil {
					t.Fatal(err)
				}
				delete(want, n)
			} else if m := numbered(n); !ok {
				if err := e.Insert(m); err != nil {
					t.Fatal(err)
				}
				want[n] = m
			} else if err := e.Insert(m); err == nil {
				t.Fatalf("%v is accepted twice", m)
			}
		}
		table = e.Table()
		old = append(old, snapshot{table, maps.Clone(want)})
	}
	for n, m := range want { // all away, one by one
		next, err := table.Remove(m)
		if err != nil {
			t.Fatal(err)
		}
		table = next
		delete(want, n)
		if len(want) == 500 {
			break
		}
	}
	old = append(old, snapshot{table, want})
	for i, s := range old {
		if err := sameAs(s.table, s.want); err != nil {
			t.Fatalf("snapshot %d: %v", i, err)
		}
	}
}

// numbered is mapping n of a plan in which every fourth shares its address
// with its neighbours and some are prefixes.
func numbered(n uint32) Mapping {
	a := Addr6{0x20010db8_00000000, uint64(n) << 8}
	switch n & 3 {
	case 0:
		k := n >> 2
		return Mapping{IPv6: netip.PrefixFrom(a.Addr(), 128), IPv4: netip.PrefixFrom(Addr4(0x0a000000|k>>4), 32),
			Ports: ports.Of(ports.Range{First: uint16(k&15) << 12, Last: uint16(k&15)<<12 | 0xfff})}
	case 1:
		return Mapping{IPv6: netip.PrefixFrom(a.Addr(), 120), IPv4: netip.PrefixFrom(Addr4(0x0b000000|n<<2), 30)}
	default:
		return Mapping{IPv6: netip.PrefixFrom(a.Addr(), 128), IPv4: netip.PrefixFrom(Addr4(0x0c000000|n), 32), Inside: n&4 != 0}
	}
}

func sameAs(table *Table, want map[uint32]Mapping) error {
	if table.Len() != len(want) {
		return fmt.Errorf("%d mappings, want %d", table.Len(), len(want))
	}
	for n := range uint32(40000) {
		m, in := want[n]
		plan := numbered(n)
		e := table.Get(plan.IPv6)
		if (e != nil) != in || in && !e.Mapping().Equal(m) {
			return fmt.Errorf("%v: in table %v, want %v", plan, e != nil, in)
		}
		a := Addr4From(plan.IPv4.Addr())
		e = table.Lookup4(a)
		if e != nil && e.Shared() {
			e = table.Port(e, a, plan.Ports.Min())
		}
		if (e != nil) != in || in && !e.Mapping().Equal(m) {
			return fmt.Errorf("%v by IPv4: in table %v, want %v", plan, e != nil, in)
		}
	}
	return nil
}
