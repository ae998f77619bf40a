package shed

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// TestWhose: whoever is told here is whom the translator finds, in any world.
// plane is a dataplane of which a test says what it has done.
type plane struct {
	spent   time.Duration
	packets float64
	lost    uint64
	program int
}

func (p *plane) Worked() (time.Duration, float64) { return p.spent, p.packets }
func (p *plane) Lost() uint64                     { return p.lost }
func (p *plane) Police(program int) error         { p.program = program; return nil }

// table is of workloads at 2001:db8::1 and so on, which share 192.0.2.1.
func table(t testing.TB, workloads int) *mapping.Table {
	t.Helper()
	var all []mapping.Mapping
	for i := range workloads {
		a := netip.MustParseAddr("2001:db8::").As16()
		binary.BigEndian.PutUint16(a[14:], uint16(i+1))
		b := netip.MustParseAddr("192.0.2.0").As4()
		b[3] += byte(1 + i/60)
		all = append(all, mapping.Mapping{IPv6: netip.PrefixFrom(netip.AddrFrom16(a), 128), IPv4: netip.PrefixFrom(netip.AddrFrom4(b), 32),
			Ports: ports.Of(ports.Range{First: uint16(1024 + 1024*(i%60)), Last: uint16(2047 + 1024*(i%60))})})
	}
	tb, err := mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), all)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

// from is a datagram of the i-th workload, to is one for it.
func from(i int) []byte {
	b := make([]byte, 48)
	b[0], b[6] = 6<<4, 17
	a := netip.MustParseAddr("2001:db8::").As16()
	binary.BigEndian.PutUint16(a[14:], uint16(i+1))
	copy(b[8:], a[:])
	return b
}

func to(i int) []byte {
	b := make([]byte, 28)
	b[0], b[9] = 0x45, 17
	copy(b[16:], []byte{192, 0, 2, byte(1 + i/60)})
	binary.BigEndian.PutUint16(b[22:], uint16(1024+1024*(i%60)+7))
	return b
}

// rig is a governor whose host has nothing left, and one loop.
type rig struct {
	*Shed
	plane *plane
	queue *Queue
	now   time.Time
	table *mapping.Table
}

func newRig(t testing.TB, workloads int) *rig {
	t.Helper()
	r := &rig{plane: &plane{}, now: time.Unix(1000, 0), table: table(t, workloads)}
	var err error
	if r.Shed, err = New(Config{Table: func() *mapping.Table { return r.table }, Plane: r.plane, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	stat, err := os.CreateTemp(t.TempDir(), "stat")
	if err != nil {
		t.Fatal(err)
	}
	stat.WriteString("cpu  0 0 0 0 0 0 0 0 0 0\n") // no time goes by idle
	r.processors.close()
	r.processors = &processors{file: stat}
	r.queue = r.NewQueue(true)
	t.Cleanup(func() { r.end() })
	return r
}

// pass has a loop read packets for the time of a look, and gives how many of each it let through.
func (r *rig) pass(packets map[int]int, make func(int) []byte) (passed map[int]int) {
	passed = map[int]int{}
	order := []int{}
	for i, n := range packets {
		for range n {
			order = append(order, i)
		}
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for at := 0; at < len(order); at += 64 {
		batch := order[at:min(at+64, len(order))]
		now := r.now.UnixNano() + int64(every)*int64(at)/int64(len(order))
		asks := r.queue.Begin(now, func() *mapping.Table { return r.table })
		for _, i := range batch {
			if !asks || !r.queue.Over(make(i)) {
				passed[i]++
			}
		}
		r.queue.End()
	}
	r.plane.spent += every
	r.plane.packets += float64(len(order))
	r.now = r.now.Add(every)
	r.look(r.now)
	return passed
}

// TestGovernor: of a flooder and a thousand others, the flooder alone gives way, both
// ways; what was dropped is told by workload; and when it is over, nobody is asked
// anything any more.
func TestGovernor(t *testing.T) {
	t.Parallel()
	for name, packet := range map[string]func(int) []byte{"sent": from, "received": to} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 1000)
			if r.filter != nil { // what the loops do alone
				r.filter.close()
				r.filter = nil
			}
			load := map[int]int{7: 20_000}
			for i := range 1000 {
				if i != 7 {
					load[i] = 20
				}
			}
			var passed map[int]int
			for range 12 {
				passed = r.pass(load, packet)
			}
			if n := passed[7]; n < 3000 || n > 6000 {
				t.Errorf("%d of 20000 packets of the flooder passed", n)
			}
			for i, n := range load {
				if i != 7 && passed[i] != n {
					t.Fatalf("workload %d: %d of %d packets passed", i, passed[i], n)
				}
			}
			slot, w := r.table.Lookup6(mapping.Addr6From(netip.MustParseAddr("2001:db8::8"))).Slot(), Sent
			if name == "received" {
				w = Received
			}
			if got := r.Dropped(slot)[w]; got < 50_000 || got != r.Total()[w] || r.Total()[1-w] != 0 {
				t.Errorf("dropped of the flooder %d, of all %v", got, r.Total())
			}
			if s := r.Status(); !s.Overloaded || len(s.Limited) != 1 || s.Limited[0].Slot != slot || s.Limited[0].Way != w {
				t.Errorf("status %+v", s)
			}
			delete(load, 7)
			for range patience + calmLooks + 2 {
				r.pass(load, packet)
			}
			for range window + 2 {
				r.now = r.now.Add(every)
				r.look(r.now)
			}
			if r.queue.Begin(0, nil) || r.Status().Overloaded {
				t.Errorf("loops are asked still: %+v", r.Status())
			}
		})
	}
}

// TestStrangersErrors: who floods with senders that he made up gives way, and takes none of the
// errors of routers, without which workloads' downloads would not go on.
func TestStrangersErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t, 60)
	if r.filter != nil { // what the loops do alone
		r.filter.close()
		r.filter = nil
	}
	const spoofed, router = 5000, 6000
	load := map[int]int{spoofed: 20_000, router: 50}
	for i := range 50 {
		load[i] = 20
	}
	packet := func(i int) []byte {
		b := from(i)
		if i == router {
			b[6], b[40] = protoICMP6, 2
		}
		return b
	}
	var passed map[int]int
	for range 12 {
		passed = r.pass(load, packet)
	}
	if passed[spoofed] > 10_000 || passed[router] != 50 || passed[3] != 20 {
		t.Errorf("passed: %d spoofed ones, %d of a router, %d of a workload", passed[spoofed], passed[router], passed[3])
	}
	if s := r.Status(); len(s.Limited) != 1 || s.Limited[0].Slot != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestNothing: a host that is not overloaded is metered by nobody, and Begin costs nothing.
func TestNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	for range 20 {
		r.now = r.now.Add(every)
		r.plane.spent += every / 100
		r.look(r.now)
		if r.queue.Begin(0, nil) {
			t.Fatal("loops are asked")
		}
	}
}

// TestKernel: offenders are dropped by the kernel's program, and by the same measure.
func TestKernel(t *testing.T) {
	netns.Require(t, netns.Root)
	r := newRig(t, 100)
	if r.filter == nil {
		t.Fatal("no policer in the kernel")
	}
	load := map[int]int{7: 20_000, 8: 100}
	for _, packet := range []func(int) []byte{from, to} {
		for range 8 {
			r.pass(load, packet)
		}
	}
	if !r.installed || r.plane.program <= 0 || len(r.limited) != 2 {
		t.Fatalf("installed %v as %d, %d limited", r.installed, r.plane.program, len(r.limited))
	}
	passes := func(b []byte) bool {
		t.Helper()
		ret, _, err := r.filter.objects.Police.Test(append(make([]byte, 14), b...))
		if err != nil {
			t.Fatal(err)
		}
		return ret != 0
	}
	for name, packet := range map[string]func(int) []byte{"sent": from, "received": to} {
		passed, dropped := 0, 0
		for range 10_000 {
			if passes(packet(7)) {
				passed++
			} else {
				dropped++
			}
			if !passes(packet(8)) {
				t.Fatal("another's packet was dropped")
			}
		}
		if dropped == 0 && passed > 5000 {
			t.Logf("%s: the machine is too slow to be over a limit", name)
		}
		t.Logf("%s: %d passed, %d dropped", name, passed, dropped)
	}
	for _, l := range r.limited { // a second's packets at most
		slow := rates{share: rateOf(1, unit, unit)}
		l.rates.Store(&slow)
		if err := r.filter.write(l); err != nil {
			t.Fatal(err)
		}
	}
	for name, packet := range map[string]func(int) []byte{"sent": from, "received": to} {
		passed := 0
		for range 1000 {
			if passes(packet(7)) {
				passed++
			}
		}
		if passed > 100 {
			t.Errorf("%s: %d of 1000 passed at one a second", name, passed)
		}
	}
	before := r.Total()
	r.collect()
	if after := r.Total(); after[Sent] < before[Sent]+900 || after[Received] < before[Received]+900 {
		t.Errorf("dropped %v, before %v", after, before)
	}
}

// TestKernelOpens: a limit of connections holds what opens one, and nothing else.
func TestKernelOpens(t *testing.T) {
	netns.Require(t, netns.Root)
	r := newRig(t, 2)
	r.install(true)
	for _, w := range []Way{Sent, Received} {
		l := r.limit(r.table.Lookup6(mapping.Addr6From(netip.MustParseAddr("2001:db8::1"))).Slot(), w)
		slow := rates{connections: rateOf(0.01, unit, unit)}
		l.rates.Store(&slow)
		if err := r.filter.write(l); err != nil {
			t.Fatal(err)
		}
		r.limited = append(r.limited, l)
	}
	r.publish()
	r.queue.device = false // ask the loop, too
	for name, packet := range map[string]func(int) []byte{"sent": from, "received": to} {
		b := append(packet(0), make([]byte, 20)...)
		at, proto := 40, 6
		if name == "received" {
			at, proto = 20, 9
		}
		b[proto] = 6
		for flags, want := range map[byte]int{0x02: 1, 0x12: 20, 0x10: 20, 0x42: 0} { // SYN, SYN ACK, ACK, SYN with ECE
			b[at+13] = flags
			kernel, loop := 0, 0
			for range 20 {
				if ret, _, err := r.filter.objects.Police.Test(append(make([]byte, 14), b...)); err != nil {
					t.Fatal(err)
				} else if ret != 0 {
					kernel++
				}
				r.queue.Begin(time.Now().UnixNano(), func() *mapping.Table { return r.table })
				if !r.queue.Over(b) {
					loop++
				}
			}
			if flags&0x12 == 2 { // both kinds of SYN are of one account
				if kernel > 1 || loop > 1 {
					t.Errorf("%s: flags %#x: %d and %d passed, want %d or fewer", name, flags, kernel, loop, max(want, 1))
				}
			} else if kernel != want || loop != want {
				t.Errorf("%s: flags %#x: %d and %d passed, want %d", name, flags, kernel, loop, want)
			}
		}
	}
}

// slotOf is the slot of the i-th workload.
func (r *rig) slotOf(i int) uint32 { return r.table.Get(r.prefixOf(i)).Slot() }

func (r *rig) prefixOf(i int) netip.Prefix {
	a := netip.MustParseAddr("2001:db8::").As16()
	binary.BigEndian.PutUint16(a[14:], uint16(i+1))
	return netip.PrefixFrom(netip.AddrFrom16(a), 128)
}

// TestCaps: an operator's limits hold on a host that has nothing to do, each way by itself,
// in the kernel and in the loops, for as long as they are wanted, and wherever the
// workload has moved.
func TestCaps(t *testing.T) {
	netns.Require(t, netns.Root)
	r := newRig(t, 100)
	r.Wish(r.prefixOf(3), Wish{Caps: [NumWays]Caps{Sent: {Packets: 5}, Received: {Bits: 8 * 48 * 10}}})
	r.look(r.now)
	r.queue.device = false // ask the loop, too
	count := func(packet func(int) []byte, i int) (kernel, loop int) {
		t.Helper()
		asks := r.queue.Begin(time.Now().UnixNano(), func() *mapping.Table { return r.table })
		for range 3000 {
			ret, _, err := r.filter.objects.Police.Test(append(make([]byte, 14), packet(i)...))
			if err != nil {
				t.Fatal(err)
			}
			if ret != 0 {
				kernel++
			}
			if !asks || !r.queue.Over(packet(i)) {
				loop++
			}
		}
		return kernel, loop
	}
	few := func(what string, n int) {
		t.Helper()
		if n < 1 || n > 2900 {
			t.Errorf("%s: %d of 3000 passed", what, n)
		}
	}
	for what, packet := range map[string]func(int) []byte{"sent": from, "received": to} {
		kernel, loop := count(packet, 3)
		few(what+", kernel", kernel)
		few(what+", loop", loop)
		if kernel, loop = count(packet, 4); kernel != 3000 || loop != 3000 {
			t.Errorf("%s: of another's, %d and %d of 3000 passed", what, kernel, loop)
		}
	}
	for range seldom {
		r.now = r.now.Add(every)
		r.look(r.now)
	}
	if n := r.Dropped(r.slotOf(3)); n[Sent] == 0 || n[Received] == 0 || n != r.Total() {
		t.Errorf("dropped %v, of all %v", n, r.Total())
	}
	if s := r.Status(); s.Overloaded || len(s.Limited) != 0 {
		t.Errorf("status %+v", s)
	}
	edit := r.table.Edit() // it gets other ports
	m := r.table.Get(r.prefixOf(3)).Mapping()
	if err := edit.Remove(m); err != nil {
		t.Fatal(err)
	}
	m.Ports = ports.Of(ports.Range{First: 63 * 1024, Last: 64*1024 - 1})
	if err := edit.Insert(m); err != nil {
		t.Fatal(err)
	}
	r.table = edit.Table()
	r.look(r.now.Add(2 * every))
	if kernel, loop := count(to, 3); kernel != 3000 || loop != 3000 {
		t.Errorf("to ports that it had, %d and %d of 3000 passed", kernel, loop)
	}
	kernel, loop := count(func(int) []byte { b := to(3); binary.BigEndian.PutUint16(b[22:], 63*1024+5); return b }, 3)
	few("other ports, kernel", kernel)
	few("other ports, loop", loop)
	r.Wishes(nil)
	r.look(r.now.Add(3 * every))
	if kernel, loop := count(from, 3); kernel != 3000 || loop != 3000 || r.installed {
		t.Errorf("without limits %d and %d of 3000 passed, installed %v", kernel, loop, r.installed)
	}
}

// TestKernelKnows: while strangers have a limit the program learns of a workload that comes, and
// forgets one that goes; where there are too many of them the loops do without it.
// many are more workloads than the program knows.
func TestPriorities(t *testing.T) {
	t.Parallel()
	r := newRig(t, 100)
	if r.filter != nil {
		r.filter.close()
		r.filter = nil
	}
	r.Wishes(map[netip.Prefix]Wish{r.prefixOf(1): {Priority: Batch}, r.prefixOf(2): {Priority: Critical}})
	load := map[int]int{0: 20_000, 1: 20_000, 2: 30_000, 3: 100}
	var passed map[int]int
	for range 12 {
		passed = r.pass(load, from)
	}
	if passed[1]*3 > passed[0] || passed[0]*3 > passed[2] || passed[1] == 0 || passed[2] == 30_000 || passed[3] != 100 {
		t.Errorf("passed: normal %d, batch %d, critical %d, another %d", passed[0], passed[1], passed[2], passed[3])
	}
}

// TestManyCaps: more workloads with limits than are read one by one are told apart.
func TestManyCaps(t *testing.T) {
	netns.Require(t, netns.Root)
	r := newRig(t, 200)
	all := map[netip.Prefix]Wish{}
	for i := range 200 {
		all[r.prefixOf(i)] = Wish{Caps: [NumWays]Caps{Sent: {Packets: 1}}}
	}
	r.Wishes(all)
	r.look(r.now)
	for range 500 {
		if _, _, err := r.filter.objects.Police.Test(append(make([]byte, 14), from(150)...)); err != nil {
			t.Fatal(err)
		}
	}
	for range seldom {
		r.now = r.now.Add(every)
		r.look(r.now)
	}
	if n := r.Dropped(r.slotOf(150))[Sent]; n < 400 || n != r.Total()[Sent] {
		t.Errorf("dropped %d, of all %v", n, r.Total())
	}
}

// TestLost: what is policed is not taken for lost, though both are read one after the other.
func TestLost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ lost, policed, want uint64 }{{0, 0, 0}, {0, 10, 0}, {1000, 1010, 0}, {1010, 1000, 0}, {100, 0, 100}, {1500, 1000, 500}} {
		before := &seen{lost: 77, policed: 70}
		if got := lost(&seen{lost: 77 + c.lost, policed: 70 + c.policed}, before); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// BenchmarkOver is what a loop takes to drop a packet, and to let one pass.
func BenchmarkOver(b *testing.B) {
	r := newRig(b, 1000)
	if r.filter != nil {
		r.filter.close()
		r.filter = nil
	}
	for range 8 {
		r.pass(map[int]int{7: 20_000, 8: 100}, from)
	}
	for name, packet := range map[string][]byte{"flooder": from(7), "other": from(8)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r.queue.Begin(r.now.UnixNano(), func() *mapping.Table { return r.table })
			for b.Loop() {
				r.queue.Over(packet)
			}
		})
	}
}

// TestRests: where loops have next to nothing to do the governor looks no more; it does
// again when they have, and when an operator wants something.
func TestRests(t *testing.T) {
	r := &rig{plane: &plane{}, table: table(t, 1)}
	var err error
	if r.Shed, err = New(Config{Table: func() *mapping.Table { return r.table }, Plane: r.plane}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(ended); r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	within := func(what string, is bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); r.resting.Load() != is; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within a minute", what)
			}
		}
	}
	within("it rests", true)
	q := r.NewQueue(true)
	for range rousing - 1 {
		q.Begin(1, func() *mapping.Table { return r.table })
	}
	if !r.resting.Load() {
		t.Error("a few packets roused it")
	}
	q.Begin(1, func() *mapping.Table { return r.table })
	within("it is roused", false)
	within("it rests again", true)
}
