package monitor

import (
	"sync/atomic"
	"time"

	"github.com/natless/natless/translator"
)

// Viewer is one who looks. Its methods belong to one goroutine.
type Viewer struct {
	Options
	hub    *Hub
	lanes  []lane
	tokens atomic.Int64 // how many packets may pass until the next refill

	refilled time.Time
	current  *ring // holds record
	record   []byte
}

// lane is what one queue's thread does for one viewer.
type lane struct {
	_     [64]byte
	ring  *ring
	room  []byte // for the packet that is being translated
	kept  int    // bytes of it that are in room
	state state
	seen, matched,
	limited, lost atomic.Uint64
	_ [64]byte
}

// state is what became of a packet when it was read.
type state uint8

const (
	unwanted state = iota
	overRate
	noRoom
	copied
)

// Counts are packets since the viewer came.
type Counts struct {
	Seen    uint64 // passed
	Matched uint64 // passed, and the filter wants them
	Limited uint64 // of these, left out for the rate
	Lost    uint64 // of these, left out because the viewer was slow
}

// growth is more than a packet gains in translation, and as long as an ICMP
// error of ours may be.
const growth = 1536

// read looks at a packet as it came and copies it if it may be wanted.
func (v *Viewer) read(l *lane, p *Packet, b []byte) {
	l.seen.Add(1)
	switch {
	case !v.Filter.Wants(p):
		l.state = unwanted
		return
	case v.Rate > 0 && v.tokens.Load() <= 0:
		l.state = overRate
		return
	}
	l.kept = min(len(b), v.Snap)
	if l.room = l.ring.reserve(recordSize + l.kept + min(len(b)+growth, v.Snap)); l.room == nil {
		l.state = noRoom
		return
	}
	copy(l.room[recordSize:], b[:l.kept])
	l.state = copied
}

// translated completes the record; out is nil when nothing came out.
func (v *Viewer) translated(l *lane, q *queue, out []byte) {
	if l.state == unwanted || !v.Filter.Wants(&q.packet) {
		return
	}
	l.matched.Add(1)
	switch l.state {
	case overRate:
		l.limited.Add(1)
		return
	case noRoom:
		l.lost.Add(1)
		return
	}
	if v.Rate > 0 {
		v.tokens.Add(-1)
	}
	kept := copy(l.room[recordSize+l.kept:], out[:min(len(out), v.Snap)])
	size := recordSize + l.kept + kept
	f := fields{at: q.at, verdict: q.packet.Verdict, gsoType: q.gsoType, gsoSize: q.gsoSize, rule: q.rule,
		in: side{uint32(q.packet.In.Length), uint32(l.kept)}, out: side{uint32(len(out)), uint32(kept)}}
	f.put(l.room, size)
	l.ring.commit(size)
	l.state = unwanted
}

// Record is a packet before and after. Of a side that is not there, the length
// is 0; what was kept may be less than the length.
type Record struct {
	Time                time.Time
	Verdict             translator.Verdict
	In, Out             []byte
	InLength, OutLength int
	Rule                uint32 // serial of the rule that denied it, or would; 0: none
	GSOType             uint8  // of a superpacket, as it came
	GSOSize             uint16
}

// Next gives the oldest record, whose bytes are good until the next call of
// Next. ok is false when there is none for now.
func (v *Viewer) Next() (r Record, ok bool) {
	v.release()
	var oldest fields
	for i := range v.lanes {
		b := v.lanes[i].ring.next()
		if b == nil {
			continue
		}
		if f := readFields(b); v.record == nil || f.at < oldest.at {
			oldest, v.record, v.current = f, b, v.lanes[i].ring
		}
	}
	if v.record == nil {
		return r, false
	}
	in, out := v.record[recordSize:][:oldest.in.kept], v.record[recordSize+oldest.in.kept:][:oldest.out.kept]
	return Record{Time: v.wall(oldest.at), Verdict: oldest.verdict, In: in, Out: out,
		InLength: int(oldest.in.length), OutLength: int(oldest.out.length), GSOType: oldest.gsoType, GSOSize: oldest.gsoSize, Rule: oldest.rule}, true
}

func (v *Viewer) release() {
	if v.record != nil {
		v.current.release(v.record)
		v.record, v.current = nil, nil
	}
}

// wall is a moment of the records' clock by the clock on the wall, which may
// have been set since the hub was made.
func (v *Viewer) wall(at int64) time.Time {
	now := time.Now()
	return now.Add(time.Duration(at) - now.Sub(v.hub.start)).Round(0)
}

// Refill lets as many packets pass as the rate allows since the last call, and
// a second's at most. Who has a rate calls it several times a second.
func (v *Viewer) Refill() {
	if v.Rate == 0 {
		return
	}
	now := time.Now()
	n := int64(now.Sub(v.refilled).Seconds() * float64(v.Rate))
	if n > 0 {
		v.refilled = now
		v.tokens.Add(min(n, int64(v.Rate)-v.tokens.Load()))
	}
}

// Counts says how many packets passed.
func (v *Viewer) Counts() (c Counts) {
	for i := range v.lanes {
		l := &v.lanes[i]
		c.Limited += l.limited.Load()
		c.Lost += l.lost.Load()
		c.Matched += l.matched.Load()
		c.Seen += l.seen.Load()
	}
	return c
}

// Close ends it: the queues do not see the viewer from their next batch on.
func (v *Viewer) Close() { v.hub.close(v) }
