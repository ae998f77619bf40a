// Package monitor shows packets to people while they pass: it copies what a
// viewer's filter wants, before and after translation, from the queues' threads
// to the viewer's goroutine. A viewer that is slow loses packets and never
// holds up a queue, where nothing waits and nothing is allocated; without
// viewers nothing of this runs. How packets are read, written and translated,
// and how they are shown, may not enter here.
package monitor

import (
	"errors"
	"sync"
	"time"

	"github.com/natless/natless/translator"
)

// MaxViewers bounds what watching costs.
const MaxViewers = 8

// ErrTooMany says that MaxViewers are there already.
var ErrTooMany = errors.New("8 others are watching already: try again when one of them has ended")

// Hub has the viewers.
type Hub struct {
	translator *translator.Translator
	queues     int
	observe    func(*Set)
	start      time.Time // zero of the records' clock

	mu      sync.Mutex // guards what follows
	viewers []*Viewer
}

// NewHub makes a hub for a dataplane of so many queues. observe is called with
// what is to see every packet, and with nil when nobody looks any more.
func NewHub(t *translator.Translator, queues int, observe func(*Set)) *Hub {
	return &Hub{translator: t, queues: queues, observe: observe, start: time.Now()}
}

// Options are what a viewer wants to see.
type Options struct {
	Filter *Filter
	Snap   int // bytes kept of each packet and side
	Rate   int // packets a second; 0: all
	Buffer int // bytes for each queue, a power of two that holds several packets
}

// Open lets a viewer look until it is closed.
func (h *Hub) Open(o Options) (*Viewer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.viewers) == MaxViewers {
		return nil, ErrTooMany
	}
	v := &Viewer{hub: h, Options: o, lanes: make([]lane, h.queues), refilled: time.Now()}
	for i := range v.lanes {
		v.lanes[i].ring = newRing(o.Buffer)
	}
	v.tokens.Store(int64(o.Rate))
	h.set(append(h.viewers[:len(h.viewers):len(h.viewers)], v))
	return v, nil
}

// close takes a viewer out; the second time does nothing.
func (h *Hub) close(v *Viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := make([]*Viewer, 0, len(h.viewers))
	for _, other := range h.viewers {
		if other != v {
			left = append(left, other)
		}
	}
	if len(left) < len(h.viewers) {
		h.set(left)
	}
}

func (h *Hub) set(viewers []*Viewer) {
	h.viewers = viewers
	if len(viewers) == 0 {
		h.observe(nil)
		return
	}
	h.observe(&Set{hub: h, viewers: viewers, queues: make([]queue, h.queues)})
}

// Viewers is how many look just now.
func (h *Hub) Viewers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.viewers)
}

// Set is all viewers of a moment; the dataplane's observer.
type Set struct {
	hub     *Hub
	viewers []*Viewer
	queues  []queue
}

// queue is what one queue's thread remembers from Read to Translated.
type queue struct {
	_      [64]byte
	at     int64
	packet Packet
	offload
	rule uint32
	read bool // Translated has not come yet
	_    [64]byte
}

type offload struct {
	gsoType uint8
	gsoSize uint16
}

// Begin is the observer's.
func (s *Set) Begin(queue int, now time.Time) {
	if queue < len(s.queues) {
		s.queues[queue].at = int64(now.Sub(s.hub.start))
	}
}

// Read is the observer's.
func (s *Set) Read(queue int, p *translator.Packet) {
	if queue >= len(s.queues) {
		return
	}
	q, b := &s.queues[queue], p.Bytes()
	q.read, q.offload = true, offload{p.GSOType, p.GSOSize}
	q.packet = Packet{In: MakeHead(b, len(b)), Table: s.hub.translator.Table()}
	for _, v := range s.viewers {
		v.read(&v.lanes[queue], &q.packet, b)
	}
}

// Translated is the observer's.
func (s *Set) Translated(queue int, p *translator.Packet, verdict translator.Verdict, rule uint32) {
	if queue >= len(s.queues) {
		return
	}
	q, b := &s.queues[queue], p.Bytes()
	if !q.read { // a fragment that was held
		q.offload = offload{}
		q.packet = Packet{Table: s.hub.translator.Table()}
		for _, v := range s.viewers {
			v.read(&v.lanes[queue], &q.packet, nil)
		}
	}
	q.read = false
	q.packet.Done, q.packet.Verdict, q.rule = true, verdict, rule
	if !left(&q.packet, verdict, b) {
		b = nil
	}
	q.packet.Out = MakeHead(b, len(b))
	for _, v := range s.viewers {
		v.translated(&v.lanes[queue], q, b)
	}
}

// left reports whether a packet came out: also to the local stack, where that is
// another packet than the one that came.
func left(p *Packet, v translator.Verdict, b []byte) bool {
	return v.Leaves() || v == translator.Local && len(b) > 0 && p.In.V6() != (b[0]>>4 == 6)
}
