package tun

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator"
)

const (
	uringEntries = 128
	// maxDepth and depthBytes bound the reads of one system call: many small
	// packets, but of superpackets only what stays in the second-level cache.
	maxDepth   = 64
	depthBytes = 256 << 10
	maxSpared  = 15
)

// The indexes of the registered files, and what a completion is about, which
// stands in the low bits of its data above the slot's index.
const (
	fileDevice = 0
	fileWake   = 1

	aboutRead   = 0 // waits for a packet; at most one is under way
	aboutTry    = 1 // a read that does not wait
	aboutWrite  = 2
	aboutOther  = 3
	aboutBits   = 2
	aboutMask   = 1<<aboutBits - 1
	cancelledBy = 1 << aboutBits // data of the cancellation itself
)

var errNoNowait = errors.New("reads that do not wait are not supported (Linux 6.4)")

// uringQueue reads and writes many packets with one system call. One read
// waits for a packet. While packets keep coming, more reads go with it that
// do not wait: as many as lately found a packet, twice as many when all did.
// Writes are handed over with the next reads. A lone packet thus costs one
// system call.
type uringQueue struct {
	*common
	ring    *ring
	enabled bool
	slots   []*slot
	ready   []*translator.Packet // read; those from given on are not yet given out
	given   int
	depth   int
	lone    int   // packets in a row that came alone
	spared  int   // how many of these are taken without a look for more
	waiting *slot // of the read that waits
	writes  int   // under way
	tries   int   // under way
	failure syscall.Errno
	ended   error // of fill, for good
}

// slot is a packet that the ring can name.
type slot struct {
	translator.Packet // first: a *translator.Packet of ours is a *slot
	index             uint64
}

func newUringQueue(c *common) (*uringQueue, error) {
	if err := probeNowait(); err != nil {
		return nil, err
	}
	r, err := newRing(uringEntries)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(c.fd, false); err != nil { // else the read that waits would not
		r.close()
		return nil, err
	}
	return &uringQueue{common: c, ring: r, depth: 1, ready: make([]*translator.Packet, 0, 2*maxDepth)}, nil
}

// probeNowait asks a descriptor without a device: of one with a device it would
// take a packet.
func probeNowait() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("io_uring: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Preadv2(fd, [][]byte{make([]byte, 1)}, -1, unix.RWF_NOWAIT); err == unix.EOPNOTSUPP {
		return fmt.Errorf("io_uring: %w", errNoNowait)
	}
	return nil
}

// Buffer is Buffers.Buffer with packets that the ring can name.
func (q *uringQueue) Buffer() *translator.Packet {
	if len(q.free) == 0 {
		s := &slot{index: uint64(len(q.slots))}
		s.Buf = make([]byte, bufferSize)
		q.slots = append(q.slots, s)
		q.Release(&s.Packet)
	}
	return q.Buffers.Buffer()
}

func (q *uringQueue) Read() (packets []*translator.Packet, fresh bool, err error) {
	if q.given == len(q.ready) {
		if q.ended == nil {
			if q.ended = q.fill(); q.ended != nil {
				q.finish()
			}
		}
		// What was read when the end came is nobody else's: it goes out first.
		if q.given == len(q.ready) {
			return nil, false, q.ended
		}
	}
	packets = q.ready[q.given:]
	q.given = len(q.ready) // Write may read more, which goes behind these
	return packets, true, nil
}

// fill submits what was written and waits until something is read.
func (q *uringQueue) fill() error {
	q.ready, q.given = q.ready[:0], 0
	if !q.enabled {
		if err := q.enable(); err != nil {
			return err
		}
	}
	for len(q.ready) == 0 {
		if q.stopped.Load() { // Write may have reaped what would wake us
			return ErrStopped
		}
		q.read()
		wait := q.writes + q.tries
		if sleep := q.tries == 0; sleep {
			q.counters.Waits.Add(1)
			wait++
		}
		if errno := q.ring.enter(wait, q.tries == 0); errno != 0 {
			return q.failed(errno)
		}
		q.reap()
		if q.stopped.Load() || q.failure != 0 {
			return q.failed(q.failure)
		}
		q.adapt()
	}
	return nil
}

// enable gives the ring to this thread.
func (q *uringQueue) enable() error {
	q.enabled = true
	if err := q.ring.enable(int32(q.fd), int32(q.wake)); err != nil {
		return fmt.Errorf("device %s: %w", q.name, err)
	}
	q.ring.push(uringSQE{op: uringOpPollAdd, flags: uringFixedFile, fd: fileWake, opFlags: unix.POLLIN, data: aboutOther})
	return nil
}

// read pushes as many reads as the depth wants.
func (q *uringQueue) read() {
	if q.waiting == nil {
		s := q.slot(q.Buffer())
		q.waiting = s
		q.push(s, s.Buf[s.Start-q.link-headerLen:len(s.Buf)-translator.Tailroom], uringOpRead, 0, aboutRead)
	}
	for range q.depth - 1 {
		s := q.slot(q.Buffer())
		q.tries++
		q.push(s, s.Buf[s.Start-q.link-headerLen:len(s.Buf)-translator.Tailroom], uringOpRead, unix.RWF_NOWAIT, aboutTry)
	}
}

func (q *uringQueue) slot(p *translator.Packet) *slot { return (*slot)(unsafe.Pointer(p)) }

func (q *uringQueue) push(s *slot, frame []byte, op uint8, flags uint32, about uint64) {
	if q.ring.full() {
		q.ring.enter(0, false)
	}
	q.ring.push(uringSQE{op: op, flags: uringFixedFile, fd: fileDevice, addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(frame)))),
		length: uint32(len(frame)), opFlags: flags, data: s.index<<aboutBits | about})
}

func (q *uringQueue) Write(packets []*translator.Packet) {
	for _, p := range packets {
		if q.ended != nil || p.End == p.Start { // what is left, and what is only given back
			q.write(p)
			continue
		}
		if q.ring.full() {
			q.ring.enter(0, false)
			q.reap()
		}
		q.writes++
		q.push(q.slot(p), encode(p, q.link), uringOpWrite, 0, aboutWrite)
	}
}

// reap takes in what is completed.
func (q *uringQueue) reap() {
	for n := q.ring.pending(); n > 0; n-- {
		e := q.ring.next()
		if e.data&aboutMask == aboutOther {
			continue
		}
		s := q.slots[e.data>>aboutBits]
		switch e.data & aboutMask {
		case aboutRead:
			q.waiting = nil
			q.hasRead(s, e.result)
		case aboutTry:
			q.tries--
			q.hasRead(s, e.result)
		case aboutWrite:
			q.writes--
			if e.result < 0 {
				q.refused(&s.Packet, syscall.Errno(-e.result))
			}
			q.Release(&s.Packet)
		}
	}
}

func (q *uringQueue) hasRead(s *slot, result int32) {
	switch errno := syscall.Errno(-result); {
	case int(result) >= headerLen+q.link:
		s.End = s.Start - q.link - headerLen + int(result)
		decode(&s.Packet, q.link)
		q.ready = append(q.ready, &s.Packet)
		return
	case result >= 0, errno == unix.EAGAIN, errno == unix.EINTR, errno == unix.ECANCELED:
	default:
		q.failure = errno
	}
	q.Release(&s.Packet)
}

// adapt sets the depth for the next system call by what this one found. A look
// for more that finds nothing costs a system call, so while packets come alone
// it is taken ever more seldom.
func (q *uringQueue) adapt() {
	n, bytes := len(q.ready), 0
	switch {
	case n < q.depth:
		if q.depth = max(n, 1); n < 2 {
			q.lone, q.spared = 0, min(2*q.spared+1, maxSpared)
		}
		return
	case q.depth > 1:
		q.spared = 0
	case q.lone < q.spared:
		q.lone++
		return
	}
	for _, p := range q.ready {
		bytes += p.End - p.Start
	}
	q.depth = max(1, min(2*q.depth, maxDepth, n*depthBytes/bytes))
}

// finish ends what is under way, so that the device goes away when its
// descriptor is closed and not at some time later.
func (q *uringQueue) finish() {
	if !q.enabled {
		return
	}
	if q.waiting != nil {
		if q.ring.full() {
			q.ring.enter(0, false)
		}
		q.ring.push(uringSQE{op: uringOpCancel, fd: -1, addr: q.waiting.index<<aboutBits | aboutRead, data: cancelledBy | aboutOther})
	}
	for q.waiting != nil || q.writes > 0 || q.tries > 0 {
		if errno := q.ring.enter(1, true); errno != 0 {
			abandoned.keep(q) // the kernel may still write to the buffers
			break
		}
		q.reap()
	}
	q.ring.register(uringUnregisterFiles, nil, 0)
	q.enabled = false
}

func (q *uringQueue) close() error {
	return errors.Join(q.ring.close(), q.common.close())
}

// abandoned keeps the buffers of queues that ended while the kernel had some of
// them in hand and would not say when it is done: nothing else refers to them
// then, and the collector would give them to others. Closing a ring does not
// wait for what is under way, so they are kept for good; it happens where a
// system call filter comes into force late, if at all.
var abandoned abandonment

type abandonment struct {
	mu     sync.Mutex
	queues []*uringQueue
}

func (a *abandonment) keep(q *uringQueue) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queues = append(a.queues, q)
}
