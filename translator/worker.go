package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
	"github.com/natless/natless/translator/policy"
)

// Worker translates packets for one loop. What it says besides the verdict
// (Fragments, NextFragment, Held, NextHeld) is about the last packet.
type Worker struct {
	t    *Translator
	s    *snapshot // as of the packet that is being translated
	now  int64     // nanoseconds
	held uint64    // the next fragment that was held for the last packet
	cut  cutting

	ids     uint16 // the next identification of our block
	idsLeft int

	source, destination uint32        // see Slots
	src4, dst4          uint32        // see Addrs4
	inside              mapping.Tag   // see Inside
	hop                 bool          // the source is a hop without an IPv4 address of its own
	rule                *policy.Rules // see Rule
	denial              Denial        // see Denial
	refuse              bool          // nothing is given by first use: see TranslateRefused
	loop                uint32        // a number of its own, of those who count for themselves
	ce                  mapt.CE       // that sent the packet, by a rule; zero: none

	batch  mapping.Batch // see Prepare
	warmed uint64

	limited4, limited6 limited // errors of ours that a budget forbade
	trial              bool    // see NewTrial

	half      *Worker // of the half toward the fabric; nil: nothing has gone there
	descended bool    // the next packet is what Descend made, and has used some of its room
	label     uint32  // the flow label of the last packet, where there is an edge

	scratch [maxError6]byte // where ICMP errors are put together
}

// SetTime tells the worker the time, in nanoseconds of any steady clock that
// all workers of a translator share. Call it once a batch.
func (w *Worker) SetTime(now int64) { w.now = now }

// Time is what SetTime told last.
func (w *Worker) Time() int64 { return w.now }

// Translate rewrites p in place and says what became of it. After a drop
// without Replied, p's content is undefined.
func (w *Worker) Translate(p *Packet) Verdict {
	descended := w.descended
	w.begin()
	if !descended && !p.roomy() {
		return Malformed
	}
	if p.Buf[p.Start]>>4 == 6 {
		if w.s.fabric != nil && p.End-p.Start >= 4 {
			w.label = binary.BigEndian.Uint32(p.Buf[p.Start:]) & 0xfffff
		}
		return w.plainTo4(p)
	}
	return w.plainTo6(p)
}

// begin makes w ready for a packet.
func (w *Worker) begin() {
	w.s = w.t.snapshot.Load()
	w.held, w.cut, w.descended = 0, cutting{}, false
	w.source, w.destination, w.inside, w.hop, w.rule, w.label, w.ce = 0, 0, 0, false, nil, 0, mapt.CE{}
}

// Done says that everything was asked that was to be asked of the last packet. It
// lets go of the table, which a worker that then has nothing to do for long would
// keep from going when another takes its place.
func (w *Worker) Done() {
	w.s, w.rule, w.ce = nil, nil, mapt.CE{}
	if w.half != nil {
		w.half.Done()
	}
}

// Slots are those of the mappings (mapping.Entry.Slot) that gave the last packet
// its IPv4 source and its IPv6 destination: the workload that sent it and the one that
// it is for; 0 if there is none. They belong to the table that translated the packet,
// and are valid only if the verdict is a forward.
func (w *Worker) Slots() (source, destination uint32) { return w.source, w.destination }

// Addrs4 are the IPv4 addresses of the last packet, where it leaves as IPv6. They
// mean something only where its verdict is Forward6 or Hairpin.
func (w *Worker) Addrs4() (src, dst uint32) { return w.src4, w.dst4 }

// Inside names the workload that the last packet is to be given to, as IPv4, where
// it has its address inside: what is Deliver4, or an ICMP error of ours for it. 0 is
// none: what leaves goes where it came from.
func (w *Worker) Inside() mapping.Tag { return w.inside }

// Rule is the rule of a policy by which the last packet was denied; or would be, if
// its policy were in force, and not only audited. nil is none.
func (w *Worker) Rule() *policy.Rules { return w.rule }

// ErrorsLimited is how many ICMP errors the budgets forbade, to senders of IPv4
// and of IPv6. Any goroutine may ask.
func (w *Worker) ErrorsLimited() (v4, v6 ErrorsLimited) { return w.limited4.load(), w.limited6.load() }

// Fragments says that the packet just translated (by Translate, Pass4, NextHeld or
// Ascend; Forward6, Hairpin or Deliver4) is too long for the workloads' side and must be
// written as the packets that NextFragment makes, not as it is.
func (w *Worker) Fragments() bool { return w.cut.active }

// Held says that fragments were held for the packet just translated, which
// NextHeld may have to give.
func (w *Worker) Held() bool { return w.held != 0 }

// identificationBlock is how many identifications a worker draws at once.
const identificationBlock = 256

// nextID gives an IPv4 identification, never 0, for a packet from e's workload (nil:
// from no workload) that becomes n packets on the wire. Segmentation counts up from it.
func (w *Worker) nextID(e *mapping.Entry, n int) uint16 {
	if w.idsLeft < n {
		blocks := n/identificationBlock + 1
		last := w.t.identifications.Add(uint32(blocks))
		w.ids = uint16(last-uint32(blocks)) * identificationBlock
		w.idsLeft = blocks * identificationBlock
	}
	if w.ids == 0 {
		w.ids, w.idsLeft = 1, w.idsLeft-1
	} else if int(w.ids)+n > 1<<16 { // no segment gets 0 either
		w.ids = 1
	}
	id := w.identification(e, w.ids)
	if id == 0 { // the start of the first share
		id = w.identification(e, w.ids+1)
	}
	w.ids += uint16(n)
	w.idsLeft -= n
	return max(id, 1)
}
