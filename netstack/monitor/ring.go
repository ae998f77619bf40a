package monitor

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/natless/natless/translator"
)

// ring takes records from one thread to one other, without a lock and without
// waiting: a record for which there is no room is lost. Records lie whole, each
// padded to eight bytes; one of length zero says that the next one is at the
// start of the buffer.
type ring struct {
	buf  []byte // a power of two
	_    [64]byte
	head atomic.Uint64 // where the writer will write; only it changes this
	_    [64]byte
	tail atomic.Uint64 // where the reader reads; only it changes this
}

// fields is a record without its bytes.
type fields struct {
	at      int64 // nanoseconds of the dataplane's clock
	in, out side
	verdict translator.Verdict
	gsoSize uint16
	gsoType uint8
	rule    uint32
}

// side is one side of the translation: how long the packet is, and how much of
// it was kept. A length of zero says that there is no packet.
type side struct{ length, kept uint32 }

const recordSize = 40

func padded(n int) int { return (n + 7) &^ 7 }

func newRing(size int) *ring { return &ring{buf: make([]byte, size)} }

// reserve gives room for a record of up to n bytes, or nil. It may be called
// again without commit, which gives up what was reserved.
func (r *ring) reserve(n int) []byte {
	n = padded(n)
	head, size := r.head.Load(), uint64(len(r.buf))
	free := size - (head - r.tail.Load())
	at := head & (size - 1)
	if left := size - at; uint64(n) > left { // it would not lie whole
		if left+uint64(n) > free {
			return nil
		}
		binary.LittleEndian.PutUint32(r.buf[at:], 0)
		r.head.Store(head + left) // the reader skips this by itself
		return r.buf[:n]
	}
	if uint64(n) > free {
		return nil
	}
	return r.buf[at : at+uint64(n)]
}

// commit shows the reader the record of n bytes that was written to what
// reserve gave.
func (r *ring) commit(n int) { r.head.Add(uint64(padded(n))) }

// next gives the oldest record, or nil. It stays until release.
func (r *ring) next() []byte {
	for {
		tail := r.tail.Load()
		if tail == r.head.Load() {
			return nil
		}
		at := tail & uint64(len(r.buf)-1)
		if n := binary.LittleEndian.Uint32(r.buf[at:]); n > 0 {
			return r.buf[at : at+uint64(n)]
		}
		r.tail.Store(tail + uint64(len(r.buf)) - at)
	}
}

// release gives the room of the oldest record back.
func (r *ring) release(record []byte) { r.tail.Add(uint64(padded(len(record)))) }

// put writes the fields in front of the bytes of a record of so many bytes.
func (f *fields) put(b []byte, size int) {
	le := binary.LittleEndian
	le.PutUint32(b, uint32(size))
	le.PutUint16(b[4:], f.gsoSize)
	b[6], b[7] = uint8(f.verdict), f.gsoType
	le.PutUint64(b[8:], uint64(f.at))
	le.PutUint32(b[16:], f.in.length)
	le.PutUint32(b[20:], f.in.kept)
	le.PutUint32(b[24:], f.out.length)
	le.PutUint32(b[28:], f.out.kept)
	le.PutUint32(b[32:], f.rule)
}

func readFields(b []byte) fields {
	le := binary.LittleEndian
	return fields{
		at: int64(le.Uint64(b[8:])), gsoSize: le.Uint16(b[4:]), gsoType: b[7], verdict: translator.Verdict(b[6]),
		in:  side{le.Uint32(b[16:]), le.Uint32(b[20:])},
		out: side{le.Uint32(b[24:]), le.Uint32(b[28:])}, rule: le.Uint32(b[32:]),
	}
}
