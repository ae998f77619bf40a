package translator

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// datagram4 is a UDP datagram to the shared address in fragments of 64 bytes.
func datagram4(id, port uint16, n int) (fragments [][]byte) {
	l4 := udp(server4, shared4, 53, port, data(n))
	for at := 0; at < len(l4); at += 64 {
		end := min(at+64, len(l4))
		h := hdr4{src: server4, dst: shared4, proto: 17, id: id, flags: uint16(at / 8)}
		if end < len(l4) {
			h.flags |= 0x2000
		}
		fragments = append(fragments, h.packet(l4[at:end]))
	}
	return fragments
}

func fragment6(dst string, id, port uint16, n, i int) []byte {
	l4 := udp(server6, dst, 53, port, data(n))
	end := min(64*i+64, len(l4))
	return hdr6{src: server6, dst: dst, hop: 63, next: 44, ext: fragHdr(17, 64*i, end < len(l4), uint32(id))}.packet(l4[64*i : end])
}

func heldBuffer() *Packet { return &Packet{Buf: make([]byte, Headroom+65535+Tailroom)} }

func TestSection1_3_TrackerInOrder(t *testing.T) {
	w := newTestWorker(t)
	for i, f := range datagram4(7, 1030, 150) {
		wantTranslated(t, w, f, Forward6, fragment6(sharedA6, 7, 1030, 150, i))
	}
	other := w.t.NewWorker() // workers know the same
	wantTranslated(t, other, datagram4(7, 1030, 150)[1], Forward6, fragment6(sharedA6, 7, 1030, 150, 1))
	wantVerdict(t, w, datagram4(8, 99, 150)[0], PortUnassigned|Replied)
	wantVerdict(t, w, datagram4(8, 99, 150)[1], FragmentHeld)
}

func TestSection1_3_TrackerHeld(t *testing.T) {
	w := newTestWorker(t)
	fragments := datagram4(7, 2050, 250)
	n := len(fragments)
	for i := n - 1; i > 0; i-- {
		wantVerdict(t, w, fragments[i], FragmentHeld)
	}
	wantTranslated(t, w, fragments[0], Forward6, fragment6(sharedB6, 7, 2050, 250, 0))
	got := map[string]bool{}
	dst := heldBuffer()
	for {
		v, ok := w.NextHeld(dst)
		if !ok {
			break
		}
		if v != Forward6 {
			t.Fatal(v)
		}
		got[string(dst.Bytes())] = true
	}
	for i := 1; i < n; i++ {
		if !got[string(fragment6(sharedB6, 7, 2050, 250, i))] {
			t.Errorf("fragment %d is missing", i)
		}
	}
	if len(got) != n-1 {
		t.Errorf("%d fragments, want %d", len(got), n-1)
	}
	// Given once.
	wantVerdict(t, w, fragments[0], Forward6)
	if v, ok := w.NextHeld(dst); ok {
		t.Error("held again", v)
	}
}

func TestSection1_3_TrackerTimes(t *testing.T) {
	const second = int64(1e9)
	w := newTestWorker(t)
	dst := heldBuffer()
	f := datagram4(7, 2050, 100)
	w.SetTime(5 * second)
	wantVerdict(t, w, f[1], FragmentHeld)
	w.SetTime(6*second + 1)
	wantVerdict(t, w, f[0], Forward6)
	if _, ok := w.NextHeld(dst); ok {
		t.Error("held for more than a second")
	}
	w.SetTime(35 * second)
	wantVerdict(t, w, f[1], Forward6)
	w.SetTime(35*second + 1)
	wantVerdict(t, w, f[1], FragmentHeld) // the first is forgotten after 30 s
}

func TestSection1_3_TrackerBounds(t *testing.T) {
	w := newTestWorker(t)
	wantVerdict(t, w, datagram4(0, 1030, 100)[0], Forward6)
	for id := 1; id < trackedDatagrams; id++ {
		wantVerdict(t, w, datagram4(uint16(id), 1030, 100)[0], Forward6)
	}
	wantVerdict(t, w, datagram4(0, 1030, 100)[1], Forward6) // still there
	wantVerdict(t, w, datagram4(trackedDatagrams, 1030, 100)[0], Forward6)
	wantVerdict(t, w, datagram4(0, 1030, 100)[1], FragmentHeld) // the oldest made room
	wantVerdict(t, w, datagram4(2, 1030, 100)[1], Forward6)

	t.Run("64 KiB again, a second later", func(t *testing.T) {
		w := newTestWorker(t)
		h := hdr4{src: server4, dst: shared4, proto: 17, id: 9, flags: 0x2000 | 100}
		for second := range int64(3) {
			w.SetTime(second * (holdTime + 1))
			for range 46 {
				wantVerdict(t, w, h.packet(data(1400)), FragmentHeld)
			}
			wantVerdict(t, w, h.packet(data(1400)), FragmentUnknown)
		}
		wantVerdict(t, w, datagram4(9, 1030, 100)[0], Forward6)
		dst, n := heldBuffer(), 0
		for _, ok := w.NextHeld(dst); ok; _, ok = w.NextHeld(dst) {
			n++
		}
		if n != 46 {
			t.Errorf("%d held", n)
		}
	})
	t.Run("64 KiB a datagram", func(t *testing.T) {
		w := newTestWorker(t)
		h := hdr4{src: server4, dst: shared4, proto: 17, id: 9, flags: 0x2000 | 100}
		for range 46 {
			wantVerdict(t, w, h.packet(data(1400)), FragmentHeld)
		}
		wantVerdict(t, w, h.packet(data(1400)), FragmentUnknown)
		wantVerdict(t, w, datagram4(9, 1030, 100)[0], Forward6)
		dst, n := heldBuffer(), 0
		for _, ok := w.NextHeld(dst); ok; _, ok = w.NextHeld(dst) {
			n++
			if !w.Fragments() {
				t.Fatal("1400 bytes with DF=0 must be cut")
			}
			small := &Packet{Buf: make([]byte, Headroom+1280+Tailroom)}
			for range 2 {
				if !w.NextFragment(dst, small) {
					t.Fatal("no fragment")
				}
			}
			if w.NextFragment(dst, small) {
				t.Fatal("too many")
			}
		}
		if n != 46 {
			t.Errorf("%d held", n)
		}
	})
	t.Run("1 MiB in all, oldest first", func(t *testing.T) {
		w := newTestWorker(t)
		const each = 1024
		for id := range uint16(1100) {
			h := hdr4{src: server4, dst: shared4, proto: 17, id: id, flags: 100}
			wantVerdict(t, w, h.packet(binary.BigEndian.AppendUint16(data(each-22), id)), FragmentHeld)
		}
		dst, kept := heldBuffer(), 0
		for id := range uint16(1100) {
			wantVerdict(t, w, datagram4(id, 1030, 100)[0], Forward6)
			_, ok := w.NextHeld(dst)
			if !ok {
				if kept > 0 {
					t.Fatalf("datagram %d is lost, an older one was not", id)
				}
				continue
			}
			kept++
			if b := dst.Bytes(); binary.BigEndian.Uint16(b[len(b)-2:]) != id {
				t.Fatalf("datagram %d got another's fragment", id)
			}
		}
		if kept < 990 || kept > heldBytes/each {
			t.Errorf("%d kept", kept)
		}
	})
}

// A fragment of a packet that is hairpinned to a shared address.
func TestSection1_3_TrackerHairpin(t *testing.T) {
	w := newTestWorker(t)
	l4 := udp(work6, sharedIn6, 9, 1030, data(100))
	h := hdr6{src: work6, dst: sharedIn6, next: 44, ext: fragHdr(17, 64, false, 5)}
	back := "2001:db8:64::198.51.100.2"
	want := udp(back, sharedA6, 9, 1030, data(100))
	h2 := hdr6{src: back, dst: sharedA6, next: 44, hop: 63, ext: fragHdr(17, 64, false, 5)}
	wantVerdict(t, w, h.packet(l4[64:]), FragmentHeld)
	h.ext, h2.ext = fragHdr(17, 0, true, 5), fragHdr(17, 0, true, 5)
	wantTranslated(t, w, h.packet(l4[:64]), Hairpin, h2.packet(want[:64]))
	dst := heldBuffer()
	v, ok := w.NextHeld(dst)
	h2.ext = fragHdr(17, 64, false, 5)
	if !ok || v != Hairpin || !bytes.Equal(dst.Bytes(), h2.packet(want[64:])) {
		t.Errorf("%v %v %x", v, ok, dst.Bytes())
	}
}

// The tracker's memory is there once it is needed and not before.
func TestSection1_3_TrackerMemory(t *testing.T) {
	w := newTestWorker(t)
	wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: 17, flags: 0x2000}.packet(udp(server4, work4, 1, 2, data(8))), Forward6)
	wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: 17, flags: 7}.packet(data(8)), Forward6)
	if w.t.tracker.tracked != nil {
		t.Error("memory for nothing")
	}
	f := datagram4(7, 1030, 100)
	wantVerdict(t, w, f[0], Forward6)
	p := heldBuffer()
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range f {
			p.Start, p.End = Headroom, Headroom+copy(p.Buf[Headroom:], b)
			w.Translate(p)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each datagram", n)
	}
}

// The tracker knows exactly the newest datagrams, however often it went round.
func TestTrackerAgainstModel(t *testing.T) {
	var tr tracker
	var secret [16]byte
	keyOf := func(i int) datagramKey { return datagramKey{src: uint32(i * 7919), dst: 9, id: uint16(i), proto: 17} }
	const n = 3*trackedDatagrams + 100
	for i := range n {
		tr.learn(&secret, keyOf(i), int64(i), uint16(i))
	}
	for i := range n {
		want := port{uint16(i), true}
		if i < n-trackedDatagrams {
			want = port{}
		}
		if got := tr.find(&secret, keyOf(i), n); got != want {
			t.Fatalf("datagram %d of %d: %v, want %v", i, n, got, want)
		}
	}
	chained := 0
	for _, first := range tr.buckets {
		for i := first; i != 0; i = tr.datagrams[i-1].chain {
			if chained++; chained > trackedDatagrams {
				t.Fatal("the chains hold more than there is")
			}
		}
	}
	if chained != trackedDatagrams {
		t.Errorf("%d datagrams in the chains", chained)
	}
}

func TestTrackerStats(t *testing.T) {
	w := newTestWorker(t)
	now := int64(5e9)
	w.SetTime(now)
	if s := w.t.Tracker(now); s != (TrackerStats{Capacity: trackedDatagrams}) {
		t.Errorf("idle: %+v", s)
	}
	for id := range uint16(trackedDatagrams) {
		wantVerdict(t, w, datagram4(id, 1030, 150)[0], Forward6)
	}
	if s := w.t.Tracker(now); s.Tracked != trackedDatagrams || s.Evicted != 0 {
		t.Errorf("full: %+v", s)
	}
	for id := range uint16(3) {
		wantVerdict(t, w, datagram4(trackedDatagrams+id, 1030, 150)[0], Forward6)
	}
	if s := w.t.Tracker(now); s.Tracked != trackedDatagrams || s.Evicted != 3 {
		t.Errorf("three too many: %+v", s)
	}
	now += trackTime + 1
	w.SetTime(now)
	if s := w.t.Tracker(now); s.Tracked != 0 {
		t.Errorf("all too old: %+v", s)
	}
	wantVerdict(t, w, datagram4(60000, 1030, 150)[0], Forward6)
	if s := w.t.Tracker(now); s.Tracked != 1 || s.Evicted != 3 {
		t.Errorf("in the place of one too old: %+v", s)
	}
}
