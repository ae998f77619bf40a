package local

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/natless/natless/translator"
)

// TestQueueKeepsOrder holds the queue against what it promises, over random puts
// and gets: a sender's packets in their order, each byte of them, and nobody with
// few packets loses any.
func TestQueueKeepsOrder(t *testing.T) {
	q := newQueue()
	r := rand.New(rand.NewPCG(1, 2))
	const senders = 20
	var sent, got [senders]uint32
	have := func() (n int) { return q.packets }
	for range 200_000 {
		sender := r.IntN(senders)
		if r.IntN(10) < 4 {
			sender = 0 // floods
		}
		if r.IntN(2) == 0 {
			before := q.lanes[sender].packets
			packet := binary.BigEndian.AppendUint32(nil, uint32(sender))
			packet = binary.BigEndian.AppendUint32(packet, sent[sender])
			packet = append(packet, bytes.Repeat([]byte{byte(sent[sender])}, r.IntN(3000))...)
			dropped, ok := q.put(packet, uint64(sender))
			sent[sender]++
			if !ok && dropped == 0 || !ok && before < queuePackets/senders-1 {
				t.Fatalf("sender %d with %d packets there lost one of %d bytes; %d dropped", sender, before, len(packet), dropped)
			}
			continue
		}
		b := q.get()
		if b == nil {
			if have() != 0 {
				t.Fatalf("nothing where there are %d", have())
			}
			continue
		}
		from, number := binary.BigEndian.Uint32(*b), binary.BigEndian.Uint32((*b)[4:])
		if number < got[from] || bytes.Count((*b)[8:], []byte{byte(number)}) != len(*b)-8 {
			t.Fatalf("sender %d: packet %d after %d", from, number, got[from])
		}
		got[from] = number + 1
		q.done(b)
	}
	for b := q.get(); b != nil; b = q.get() {
		q.done(b)
	}
	if q.packets != 0 || q.bytes != 0 || q.active != 0 {
		t.Errorf("left: %d packets, %d bytes, %d lanes", q.packets, q.bytes, q.active)
	}
	free := 0
	for i := q.free; i >= 0; i = q.slots[i].next {
		free++
	}
	if free != queuePackets {
		t.Errorf("%d of %d slots are free", free, queuePackets)
	}
}

// TestQueueShares: behind one who floods, and with one who floods and has all the
// bytes, each other's packet is the next but few.
func TestQueueShares(t *testing.T) {
	for _, size := range []int{40, 1500, 60_000} {
		q := newQueue()
		for range 10 * queuePackets {
			q.put(make([]byte, size), 1)
		}
		for sender := range uint64(50) {
			if _, ok := q.put([]byte{0xff}, 100+sender); !ok {
				t.Fatalf("%d bytes: sender %d is not let in", size, sender)
			}
		}
		for i := range 51 {
			b := q.get()
			if b == nil || len(*b) != 1 && len(*b) != size {
				t.Fatal("packets are gone")
			}
			if i > 0 && len(*b) == size {
				t.Errorf("%d bytes: the flood has turn %d", size, i)
			}
		}
		if q.bytes > queueBytes || q.packets > queuePackets {
			t.Errorf("%d bytes, %d packets", q.bytes, q.packets)
		}
	}
}

// TestStrangersLeaveWorkloads: one who pretends to be ten thousand strangers, with
// packets of any size, takes no workload's place, and has every second turn at most.
func TestStrangersLeaveWorkloads(t *testing.T) {
	t.Parallel()
	for _, size := range []int{40, 1500, 60_000} {
		q := newQueues()
		flood := func(n int) {
			for range n {
				q.put(make([]byte, size), translator.Sender{Hash: rand.Uint64()})
			}
		}
		flood(10_000)
		const workloads, each = 20, 3
		for i := range workloads * each {
			w := translator.Sender{Hash: uint64(i%workloads) * 7, Workload: true}
			if dropped, ok := q.put([]byte{0xff}, w); !ok || dropped > 0 {
				t.Fatalf("%d bytes: packet %d of workloads: %v, %d dropped", size, i, ok, dropped)
			}
			flood(5)
		}
		got := 0
		for range 2 * workloads * each {
			b := q.get()
			if len(*b) == 1 {
				got++
			}
			q.done(b)
			flood(5)
		}
		if got != workloads*each {
			t.Errorf("%d bytes: %d packets of workloads in as many turns as there are twice", size, got)
		}
		if n := q.of[0].bytes; n > queueBytes {
			t.Errorf("%d bytes are held", n)
		}
	}
}

// TestHeld: on a host that is overloaded a workload that floods brings no more than its share,
// all strangers together no more than theirs, and another workload loses nothing.
func TestHeld(t *testing.T) {
	t.Parallel()
	q := newQueues()
	flooder, other := translator.Sender{Hash: 3, Workload: true}, translator.Sender{Hash: 4, Workload: true}
	q.hold(1000 * dearness)
	each := q.each.Load()
	var of, strangers, lost int
	const second = 100_000 // packets
	for i := range int64(second) {
		now := 1e15 + i*int64(time.Second)/second
		if !q.over(flooder, each, now) {
			of++
		}
		if !q.over(translator.Sender{Hash: rand.Uint64()}, each, now) {
			strangers++
		}
		if i%200 == 0 && q.over(other, each, now) {
			lost++
		}
	}
	if of < 950 || of > 1050 || strangers < company*950 || strangers > company*1050 || lost > 0 {
		t.Errorf("%d of a flooder, %d of strangers, and another lost %d", of, strangers, lost)
	}
	few := func() (n int) {
		for range 1000 {
			if _, ok := q.put([]byte{1}, flooder); ok {
				n++
				q.done(q.get())
			}
		}
		return n
	}
	q.hold(1)
	if n := few(); n > 100 {
		t.Errorf("%d of 1000 packets got in", n)
	}
	q.hold(0)
	if n := few(); n != 1000 {
		t.Errorf("without a limit %d of 1000 packets got in", n)
	}
}

func BenchmarkQueue(b *testing.B) {
	q, packet := newQueue(), make([]byte, 100)
	for b.Loop() {
		q.put(packet, 7)
		q.done(q.get())
	}
}

// BenchmarkQueueFull is a flood from everywhere.
func BenchmarkQueueFull(b *testing.B) {
	q, packet := newQueue(), make([]byte, 100)
	i := uint64(0)
	for b.Loop() {
		i++
		q.put(packet, i*0x9e3779b97f4a7c15>>20)
	}
}
