package monitor

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/translator"
)

// plane is a hub with a translator, and the observer that a dataplane would have.
type plane struct {
	hub *Hub
	set *Set
	tr  *translator.Translator
}

func newPlane(t testing.TB, queues int) *plane {
	t.Helper()
	tr, err := translator.New(translator.Config{IPv4: netip.MustParseAddr("198.51.100.1"), IPv6: netip.MustParseAddr("2001:db8::1")}, table(t))
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{tr: tr}
	p.hub = NewHub(tr, queues, func(s *Set) { p.set = s })
	return p
}

func (p *plane) open(t testing.TB, filter string, o Options) *Viewer {
	t.Helper()
	var err error
	if o.Filter, err = Parse(filter); err != nil {
		t.Fatal(err)
	}
	if o.Buffer == 0 {
		o.Buffer = 1 << 16
	}
	if o.Snap == 0 {
		o.Snap = 1 << 17
	}
	v, err := p.hub.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// udp6 is a datagram from the workload, with a number in its payload.
func udp6(number uint32, payload int, port uint16) []byte {
	b := make([]byte, 48+payload)
	b[0], b[6], b[7] = 6<<4, 17, 64
	binary.BigEndian.PutUint16(b[4:], uint16(8+payload))
	src, dst := netip.MustParseAddr("2001:db8:6::2").As16(), netip.MustParseAddr("64:ff9b::9.9.9.9").As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	binary.BigEndian.PutUint16(b[40:], 5000)
	binary.BigEndian.PutUint16(b[42:], port)
	binary.BigEndian.PutUint16(b[44:], uint16(8+payload))
	b[46] = 1
	binary.BigEndian.PutUint32(b[48:], number)
	return b
}

// pass does to a packet what a queue's thread does.
func pass(set *Set, w *translator.Worker, queue int, p *translator.Packet, b []byte) translator.Verdict {
	p.Start = translator.Headroom
	p.End = p.Start + copy(p.Buf[p.Start:], b)
	set.Read(queue, p)
	v := w.Translate(p)
	set.Translated(queue, p, v, 0)
	return v
}

func buffer() *translator.Packet {
	return &translator.Packet{Buf: make([]byte, translator.Headroom+1<<16+translator.Tailroom)}
}

func TestViewer(t *testing.T) {
	p := newPlane(t, 1)
	if p.set != nil {
		t.Error("observed without a viewer")
	}
	all, some := p.open(t, "", Options{}), p.open(t, "port 53", Options{Snap: 60})
	w, packet := p.tr.NewWorker(), buffer()
	at := time.Now()
	p.set.Begin(0, at)
	for n, port := range []uint16{53, 80, 53} {
		if v := pass(p.set, w, 0, packet, udp6(uint32(n), 100, port)); v != translator.Forward4 {
			t.Fatal(v)
		}
	}
	broken := udp6(3, 100, 53)
	broken[6] = 6 // TCP, and shorter than its header says
	pass(p.set, w, 0, packet, broken[:50])

	for n := range 4 {
		r, ok := all.Next()
		if !ok || len(r.In) != r.InLength || r.Time.Sub(at).Abs() > time.Millisecond {
			t.Fatalf("record %d: %v, %+v", n, ok, r)
		}
		if n == 3 {
			if r.Verdict != translator.Malformed || len(r.Out) > 0 || r.InLength != 50 {
				t.Errorf("the broken one: %+v", r)
			}
			continue
		}
		if !bytes.Equal(r.In, udp6(uint32(n), 100, binary.BigEndian.Uint16(r.In[42:]))) {
			t.Errorf("record %d came as % x", n, r.In)
		}
		if h := MakeHead(r.Out, r.OutLength); r.OutLength != 128 || h.Src.String() != "198.51.100.2" || h.Dst.String() != "9.9.9.9" || h.SrcPort != 5000 || h.Proto != 17 {
			t.Errorf("record %d went as %+v", n, h)
		}
	}
	if _, ok := all.Next(); ok {
		t.Error("one too many")
	}
	for n := range 2 { // and the broken one
		if r, ok := some.Next(); !ok || len(r.In) != 60 || len(r.Out) != 60 || r.InLength != 148 || r.OutLength != 128 {
			t.Errorf("record %d: %v, %+v", n, ok, r)
		}
	}
	if c := some.Counts(); c != (Counts{Seen: 4, Matched: 3}) {
		t.Errorf("%+v", c)
	}
	some.Close()
	if p.set == nil || p.hub.Viewers() != 1 {
		t.Error("the other's end was everybody's")
	}
	all.Close()
	all.Close()
	if p.set != nil || p.hub.Viewers() != 0 {
		t.Error("observed when the last has gone")
	}
}

// A record has the rule that was told with its packet, and that one's alone.
func TestRuleOfRecord(t *testing.T) {
	p := newPlane(t, 1)
	v := p.open(t, "", Options{})
	packet := buffer()
	p.set.Begin(0, time.Now())
	rules := []uint32{0, 7, 1 << 31, 0}
	for _, rule := range rules {
		packet.Start = translator.Headroom
		packet.End = packet.Start + copy(packet.Buf[packet.Start:], udp6(1, 100, 53))
		p.set.Read(0, packet)
		p.set.Translated(0, packet, translator.Denied, rule)
	}
	for i, want := range rules {
		if r, ok := v.Next(); !ok || r.Rule != want || r.Verdict != translator.Denied || r.InLength != 148 {
			t.Errorf("record %d: %v, rule %d, want %d; %+v", i, ok, r.Rule, want, r)
		}
	}
}

func TestTooManyViewers(t *testing.T) {
	p := newPlane(t, 1)
	for range MaxViewers {
		p.open(t, "", Options{})
	}
	if _, err := p.hub.Open(Options{Filter: &Filter{}, Buffer: 1 << 12}); err != ErrTooMany {
		t.Error(err)
	}
}

// More queues than were announced are not seen, and do no harm.
func TestUnknownQueue(t *testing.T) {
	p := newPlane(t, 1)
	v := p.open(t, "", Options{})
	p.set.Begin(1, time.Now())
	pass(p.set, p.tr.NewWorker(), 1, buffer(), udp6(0, 10, 53))
	if v.Counts().Seen != 0 {
		t.Error("seen")
	}
}

func TestRate(t *testing.T) {
	p := newPlane(t, 1)
	v := p.open(t, "port 53", Options{Rate: 10})
	w, packet := p.tr.NewWorker(), buffer()
	send := func() {
		for n := range 30 {
			pass(p.set, w, 0, packet, udp6(uint32(n), 10, 53+uint16(n%2)))
		}
	}
	send()
	if c := v.Counts(); c.Matched != 15 || c.Limited != 5 {
		t.Errorf("at first: %+v", c)
	}
	v.refilled = v.refilled.Add(-500 * time.Millisecond)
	v.Refill()
	send()
	if c := v.Counts(); c.Matched != 30 || c.Limited != 15 {
		t.Errorf("half a second later: %+v", c)
	}
	v.refilled = v.refilled.Add(-time.Hour)
	v.Refill()
	if n := v.tokens.Load(); n != 10 {
		t.Errorf("after an hour %d may pass at once", n)
	}
}

// Two queues' threads write while the viewer reads slowly: what it gets is
// whole, in order for each queue, and what it does not get is counted.
func TestSlowViewer(t *testing.T) {
	p := newPlane(t, 2)
	v := p.open(t, "", Options{Buffer: 1 << 14})
	set, done := p.set, make(chan bool)
	const each = 20_000
	for q := range 2 {
		go func() {
			w, packet, random := p.tr.NewWorker(), buffer(), rand.New(rand.NewPCG(1, uint64(q)))
			for n := range each {
				set.Begin(q, time.Now())
				pass(set, w, q, packet, udp6(uint32(n), 4+random.IntN(1400), 53+uint16(q)))
			}
			done <- true
		}()
	}
	got, last := uint64(0), [2]int{-1, -1}
	read := func() {
		for r, ok := v.Next(); ok; r, ok = v.Next() {
			got++
			n, q := int(binary.BigEndian.Uint32(r.In[48:])), binary.BigEndian.Uint16(r.In[42:])-53
			if n <= last[q] {
				t.Errorf("%d of queue %d after %d", n, q, last[q])
			}
			last[q] = n
			if !bytes.Equal(r.In[48:], r.Out[28:]) || len(r.In) != r.InLength || len(r.Out) != r.OutLength {
				t.Fatalf("%d of queue %d is not whole", n, q)
			}
		}
	}
	for ended := 0; ended < 2; {
		select {
		case <-done:
			ended++
		default:
			read()
			time.Sleep(100 * time.Microsecond)
		}
	}
	read()
	c := v.Counts()
	if c.Seen != 2*each || c.Matched != c.Seen || got+c.Lost != c.Seen || c.Lost == 0 || got == 0 {
		t.Errorf("got %d, counted %+v", got, c)
	}
}

// On the queue's thread nothing is allocated, whatever the filter.
func TestNoAllocs(t *testing.T) {
	p := newPlane(t, 1)
	v := p.open(t, "(workload web or net 198.51.100.0/24 or port 53) and not reason too-big", Options{})
	v.Filter.Resolve(func(string) []Workload { return []Workload{{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::9")}}} })
	p.open(t, "drop", Options{Rate: 1})
	w, packet, b := p.tr.NewWorker(), buffer(), udp6(0, 1000, 53)
	if n := testing.AllocsPerRun(1000, func() {
		p.set.Begin(0, time.Time{})
		pass(p.set, w, 0, packet, b)
		v.Next()
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
	if v.Counts().Matched == 0 {
		t.Error("nothing matched")
	}
}

func BenchmarkWatch(b *testing.B) {
	p := newPlane(b, 1)
	w, packet, data := p.tr.NewWorker(), buffer(), udp6(0, 1400, 53)
	b.Run("nobody", func(b *testing.B) {
		for b.Loop() {
			packet.Start = translator.Headroom
			packet.End = packet.Start + copy(packet.Buf[packet.Start:], data)
			w.Translate(packet)
		}
	})
	for name, o := range map[string]struct {
		filter string
		Options
	}{
		"other":   {"port 54", Options{}},
		"limited": {"port 53", Options{Rate: 1}},
		"words":   {"port 53", Options{Snap: 256}},
		"whole":   {"port 53", Options{}},
	} {
		b.Run(name, func(b *testing.B) {
			v := p.open(b, o.filter, o.Options)
			defer v.Close()
			for b.Loop() {
				pass(p.set, w, 0, packet, data)
				v.Next()
			}
		})
	}
}
