package translator

import (
	"encoding/binary"
	"sync"
)

// Bounds of the fragment tracker. They are all the memory it ever has.
const (
	trackedDatagrams = 4096
	trackedBuckets   = 4096
	heldBytes        = 1 << 20 // of fragments that came before their first
	heldPerDatagram  = 64 << 10
	trackTime        = 30e9 // nanoseconds
	holdTime         = 1e9
)

// tracker remembers which port the first fragment of a datagram to a shared
// address showed, since later fragments do not show it. All workers share one.
// Losing what it knows costs the datagrams in flight and nothing else.
//
// It is off the plain path, hence the mutex, and its memory is allocated once,
// with the first fragment for a shared address.
type tracker struct {
	mu sync.Mutex
	*tracked
}

type tracked struct {
	datagrams [trackedDatagrams]datagram // a ring: the oldest is overwritten
	next      int
	evicted   uint64
	buckets   [trackedBuckets]int32 // chains by hash: index+1 of the first datagram, 0 for none

	// Held fragments are a ring of records, each with a header in front. A
	// record is named by its place in the stream of all that was ever
	// written, so that it is plain which ones have been overwritten.
	ring [heldBytes]byte
	end  uint64
}

type datagramKey struct {
	src, dst uint32
	id       uint16
	proto    uint8
	sent     bool // by a workload: see sender
}

type datagram struct {
	key    datagramKey
	chain  int32 // index+1 of the next with the same hash
	bucket int32
	used   bool
	port   port
	seen   int64  // when its first packet came
	held   uint64 // the latest record held for it, 0 for none
	bytes  int    // held for it in all
}

// A record's header: the record before it for the same datagram, when it came,
// how long it is, and how it came.
const sizeRecord = 8 + 8 + 4 + 4

// TrackerStats is what the fragment tracker is busy with.
type TrackerStats struct {
	Tracked, Capacity int    // datagrams
	Evicted           uint64 // datagrams forgotten early, for want of room
}

// Tracker says how busy the fragment tracker is at the time now, of the
// workers' clock.
func (t *Translator) Tracker(now int64) TrackerStats {
	k := &t.tracker
	k.mu.Lock()
	defer k.mu.Unlock()
	s := TrackerStats{Capacity: trackedDatagrams}
	if k.tracked == nil {
		return s
	}
	s.Evicted = k.evicted
	for i := range k.datagrams {
		if d := &k.datagrams[i]; d.used && now-d.seen <= trackTime {
			s.Tracked++
		}
	}
	return s
}

func keyOf(h *parsed) datagramKey {
	return datagramKey{src: h.src4, dst: h.dst4, id: uint16(h.id), proto: h.proto}
}

func (k *datagramKey) bucket(secret *[16]byte) int32 {
	var b [11]byte
	binary.BigEndian.PutUint32(b[:], k.src)
	binary.BigEndian.PutUint32(b[4:], k.dst)
	binary.BigEndian.PutUint16(b[8:], k.id)
	b[10] = k.proto
	return int32(siphash(secret, b[:]) % trackedBuckets)
}

// find gives the port of a datagram whose first fragment is known.
func (t *tracker) find(secret *[16]byte, key datagramKey, now int64) port {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tracked == nil {
		return port{}
	}
	if d := t.lookup(key, key.bucket(secret), now); d != nil {
		return d.port
	}
	return port{}
}

// learn remembers the port of a first fragment, and gives the latest record
// that was held for it, or 0.
func (t *tracker) learn(secret *[16]byte, key datagramKey, now int64, number uint16) (held uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.obtain(key, key.bucket(secret), now)
	d.port = port{number, true}
	held, d.held, d.bytes = d.held, 0, 0
	return held
}

// hold keeps a fragment whose first is not here yet, and says if it could.
func (t *tracker) hold(secret *[16]byte, key datagramKey, now int64, b []byte, from way) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.obtain(key, key.bucket(secret), now)
	if d.held+heldBytes < t.end || now-t.came(d.held) > holdTime {
		d.held, d.bytes = 0, 0 // all of it is forgotten
	}
	if d.bytes+len(b) > heldPerDatagram { // rule 1.3.held-bound
		return false
	}
	size := uint64(sizeRecord + len(b))
	if t.end == 0 {
		t.end = heldBytes // so that no record is number 0
	}
	at := t.end % heldBytes
	if at+size > heldBytes { // records do not wrap
		t.end += heldBytes - at
		at = 0
	}
	record := t.ring[at : at+size]
	binary.LittleEndian.PutUint64(record, d.held)
	binary.LittleEndian.PutUint64(record[8:], uint64(now))
	binary.LittleEndian.PutUint32(record[16:], uint32(len(b)))
	record[20] = uint8(from)
	copy(record[sizeRecord:], b)
	d.held, d.bytes = t.end, d.bytes+len(b)
	t.end += size
	return true
}

// came is when a record was written, which must not be overwritten yet.
func (t *tracked) came(held uint64) int64 {
	return int64(binary.LittleEndian.Uint64(t.ring[held%heldBytes+8:]))
}

// take copies a held fragment into b and names the one held before it. n is 0
// when that one, and so all before it, is too old or overwritten.
func (t *tracker) take(held uint64, now int64, b []byte) (n int, from way, next uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tracked == nil || held+heldBytes < t.end {
		return 0, 0, 0
	}
	record := t.ring[held%heldBytes:]
	size := int(binary.LittleEndian.Uint32(record[16:]))
	if now-t.came(held) > holdTime || size > len(b) {
		return 0, 0, 0
	}
	n = copy(b, record[sizeRecord:sizeRecord+size])
	return n, way(record[20]), binary.LittleEndian.Uint64(record)
}

// lookup finds a datagram that is not too old.
func (t *tracked) lookup(key datagramKey, bucket int32, now int64) *datagram {
	for i := t.buckets[bucket]; i != 0; i = t.datagrams[i-1].chain {
		if d := &t.datagrams[i-1]; d.key == key {
			if now-d.seen > trackTime {
				return nil
			}
			return d
		}
	}
	return nil
}

// obtain finds a datagram, or makes room for it in the place of the oldest.
func (t *tracker) obtain(key datagramKey, bucket int32, now int64) *datagram {
	if t.tracked == nil {
		t.tracked = new(tracked)
	}
	if d := t.lookup(key, bucket, now); d != nil {
		return d
	}
	at := t.next
	d := &t.datagrams[at] // rule 1.3.tracker-bound
	if d.used {
		t.unlink(d)
		if now-d.seen <= trackTime {
			t.evicted++
		}
	}
	*d = datagram{key: key, bucket: bucket, chain: t.buckets[bucket], used: true, seen: now}
	t.next = (at + 1) % trackedDatagrams
	t.buckets[bucket] = int32(at) + 1
	return d
}

// unlink takes d out of the chain of its bucket.
func (t *tracked) unlink(d *datagram) {
	at := &t.buckets[d.bucket]
	for *at != 0 {
		if other := &t.datagrams[*at-1]; other != d {
			at = &other.chain
			continue
		}
		*at = d.chain
		return
	}
}
