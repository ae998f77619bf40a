package shed

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

func TestWhose(t *testing.T) {
	t.Parallel()
	for _, world := range generate.AllWorlds() {
		table, err := mapping.New(world.Prefix, world.Mappings)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := translator.New(world.Config, table)
		if err != nil {
			t.Fatal(err)
		}
		w, g, told := tr.NewWorker(), generate.New(world, 3), 0
		for n := range 1000 {
			p := g.Next4()
			if n%2 == 0 {
				p = g.Next6()
			}
			slot, way, _ := whose(table, nil, p.Bytes)
			in := &translator.Packet{Buf: make([]byte, translator.Headroom+len(p.Bytes)+translator.Tailroom), Start: translator.Headroom, Offload: p.Offload}
			in.End = in.Start + copy(in.Buf[in.Start:], p.Bytes)
			if v := w.Translate(in); !v.IsForward() {
				continue
			}
			source, destination := w.Slots()
			if way == Sent && slot != source && !(source == 0 && Stranger(slot)) {
				t.Fatalf("%s: % x was sent by slot %d, not %d", world.Name, p.Bytes, source, slot)
			}
			if way == Received && slot != destination && slot != 0 {
				t.Fatalf("%s: % x is for slot %d, not %d", world.Name, p.Bytes, destination, slot)
			}
			if !Stranger(slot) {
				told++
			}
		}
		if told < 100 && len(world.Mappings) > 0 {
			t.Errorf("%s: %d packets were somebody's", world.Name, told)
		}
	}
}

// TestWhoseEdge: what comes by the fabric is its receiver's, as both halves find him.
func TestWhoseEdge(t *testing.T) {
	t.Parallel()
	for _, world := range generate.EdgeWorlds() {
		table, err := mapping.New(world.Prefix, world.Mappings)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := translator.New(world.Config, table)
		if err != nil {
			t.Fatal(err)
		}
		w, g, told := tr.NewWorker(), generate.New(world, 3), 0
		for range 3000 {
			p := g.NextFabric()
			slot, way, _ := whose(table, tr.EdgeTable(), p.Bytes)
			in := &translator.Packet{Buf: make([]byte, translator.Headroom+len(p.Bytes)+translator.Tailroom), Start: translator.Headroom, Offload: p.Offload}
			in.End = in.Start + copy(in.Buf[in.Start:], p.Bytes)
			if !w.FromFabric(in) || w.Descend(in) != translator.Forward4 || !w.Translate(in).IsForward() {
				continue
			}
			if _, destination := w.Slots(); way != Received || slot != destination && slot != 0 {
				t.Fatalf("%s: % x is for slot %d, not %d, way %d", world.Name, p.Bytes, destination, slot, way)
			}
			if slot != 0 {
				told++
			}
		}
		if told < 50 {
			t.Errorf("%s: %d packets were somebody's", world.Name, told)
		}
	}
}

// TestKernelWhose: the program takes a packet for the one's whom the loops take it for, in any
// world: errors, echo messages and fragments, too.
func TestKernelWhose(t *testing.T) {
	netns.Require(t, netns.Root)
	for _, world := range generate.AllWorlds() {
		t.Run(world.Name, func(t *testing.T) {
			t.Parallel()
			kernelWhose(t, world)
		})
	}
}

func kernelWhose(t *testing.T, world generate.World) {
	r := newRig(t, 0)
	var err error
	if r.table, err = mapping.New(world.Prefix, world.Mappings); err != nil {
		t.Fatal(err)
	}
	r.install(true)
	all := map[key]*limited{}
	for e := range r.table.Entries() {
		for w := range NumWays {
			l := r.limit(e.Slot(), w)
			nothing := rates{packets: rate{each: 1 << 40}}
			l.rates.Store(&nothing)
			if err := r.filter.write(l); err != nil {
				t.Fatal(err)
			}
			all[key{l.slot, w}] = l
		}
	}
	for w := range NumWays {
		l := r.limit(0, w)
		l.rates.Store(&rates{share: rate{each: 1 << 40}})
		if !l.inKernel.Load() {
			t.Fatal("strangers are not in the kernel")
		}
		if err := r.filter.write(l); err != nil {
			t.Fatal(err)
		}
		all[key{0, w}] = l
	}
	g := generate.New(world, 5)
	for n := range 600 {
		p := g.Next4().Bytes
		if n%3 == 0 {
			p = g.Next6().Bytes
		}
		if len(p) > 2000 || len(p) < 40 { // more than a program can be tested with, or no header
			continue
		}
		slot, way, _ := whose(r.table, nil, p)
		if v := p[0] >> 4; v != 4 && v != 6 { // comes by no device
			continue
		}
		l, before := all[key{slot, way}], uint64(0)
		if l != nil {
			before = r.filter.dropped(l).queue
		}
		ret, _, err := r.filter.objects.Police.Test(append(make([]byte, 14), p...))
		if err != nil {
			t.Fatal(err)
		}
		if l == nil && ret == 0 {
			t.Fatalf("% x is nobody's, but was dropped", p)
		}
		if l != nil && (ret != 0 || r.filter.dropped(l).queue != before+1) {
			t.Fatalf("% x is %v's, %d, but was not dropped as such", p, l.mapping, way)
		}
	}
}

func TestKernelKnows(t *testing.T) {
	netns.Require(t, netns.Root)
	r := newRig(t, 5)
	r.level.packets = 1
	for w := range NumWays {
		l := r.limit(0, w)
		l.rates.Store(&rates{share: rate{each: 1 << 40}})
		if err := r.filter.write(l); err != nil {
			t.Fatal(err)
		}
		r.limited = append(r.limited, l)
	}
	passes := func(what string, b []byte, want bool) {
		t.Helper()
		ret, _, err := r.filter.objects.Police.Test(append(make([]byte, 14), b...))
		if err != nil {
			t.Fatal(err)
		}
		if (ret != 0) != want {
			t.Errorf("%s: passes %v, want %v", what, ret != 0, want)
		}
	}
	both := func(what string, i int, want bool) {
		t.Helper()
		passes(what+" sends", from(i), want)
		passes(what+" is sent", to(i), want)
	}
	both("a workload", 4, true)
	both("a stranger", 5, false)
	r.table = table(t, 6)
	r.follow()
	both("a workload that has come", 5, true)
	r.table = table(t, 3)
	r.follow()
	both("a workload that has gone", 4, false)
	both("a workload", 2, true)
	r.filter.known.table = nil
	r.table = many(t)
	r.follow()
	both("a stranger among too many", 9, true)
	for _, l := range r.limited {
		if l.inKernel.Load() {
			t.Error("the loops do not know that it is for them")
		}
	}
}

func many(t *testing.T) *mapping.Table {
	t.Helper()
	var all []mapping.Mapping
	for i := range uint32(knownMost + 1) {
		a := netip.MustParseAddr("2001:db8:1::").As16()
		binary.BigEndian.PutUint32(a[12:], i)
		all = append(all, mapping.Mapping{IPv6: netip.PrefixFrom(netip.AddrFrom16(a), 128), IPv4: netip.PrefixFrom(mapping.Addr4(100<<24|i), 32)})
	}
	tb, err := mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), all)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

// TestPriorities: batch gives way first, critical last.
