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

// The indexes of the registered files and of the intakes, and what a completion is about,
// which stands in the low bits of its data under the slot's index. Reads have the index of
// their intake besides.
const (
	fileWake   = 0
	fileDevice = 1 // of bulk, which is written to
	fileSparse = 2

	atBulk   = 0
	atSparse = 1

	aboutRead   = 0 // waits for a packet; at most one of each intake is under way
	aboutTry    = 2 // a read that does not wait
	aboutWrite  = 4
	aboutOther  = 5
	aboutBits   = 3
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
	intakes []intake             // of bulk; of sparse flows, if there is one
	batch   []*translator.Packet // given out
	writes  int                  // under way
	tries   int                  // under way
	failure syscall.Errno
	ended   error // of fill, for good
}

// intake is one of the kernel's queues.
type intake struct {
	file    int32
	about   uint64               // atBulk or atSparse
	ready   []*translator.Packet // read, and not yet given out
	waiting *slot                // of the read that waits
	depth   int                  // reads of one system call
	lone    int                  // packets in a row that came alone
	spared  int                  // how many of these are taken without a look for more
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
	for _, fd := range c.files() {
		if err := unix.SetNonblock(fd, false); err != nil { // else the read that waits would not
			r.close()
			return nil, err
		}
	}
	q := &uringQueue{common: c, ring: r, intakes: []intake{{file: fileDevice, about: atBulk, depth: 1}}}
	if c.sparse >= 0 {
		q.intakes = append(q.intakes, intake{file: fileSparse, about: atSparse, depth: 1})
	}
	return q, nil
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
	if q.ended == nil {
		if q.ended = q.fill(); q.ended != nil {
			q.finish()
		}
	}
	// What was read when the end came is nobody else's: it goes out first.
	if packets = q.take(); len(packets) == 0 {
		return nil, false, q.ended
	}
	return packets, true, nil
}

// take gives out what was read, sparse flows first.
func (q *uringQueue) take() []*translator.Packet {
	q.batch = q.batch[:0]
	for i := len(q.intakes) - 1; i >= 0; i-- {
		n := &q.intakes[i]
		q.batch = append(q.batch, n.ready...)
		n.ready = n.ready[:0]
	}
	return q.batch
}

func (q *uringQueue) found() (found bool) {
	for i := range q.intakes {
		found = found || len(q.intakes[i].ready) > 0
	}
	return found
}

// fill submits what was written and waits until something is read. Write may have read
// something already.
func (q *uringQueue) fill() error {
	if !q.enabled {
		if err := q.enable(); err != nil {
			return err
		}
	}
	for !q.found() {
		if q.stopped.Load() { // Write may have reaped what would wake us
			return ErrStopped
		}
		for i := range q.intakes {
			q.read(&q.intakes[i])
		}
		if err := q.turn(); err != nil {
			return err
		}
		for i := range q.intakes {
			q.intakes[i].adapt()
		}
	}
	return q.overtake()
}

// turn submits what was pushed and takes in what is completed. Where no read tries
// for more, it waits for a packet.
func (q *uringQueue) turn() error {
	wait := q.writes + q.tries
	sleep := q.tries == 0 && !q.found()
	if sleep {
		q.counters.Waits.Add(1)
		wait++
	}
	if errno := q.ring.enter(wait, sleep); errno != 0 {
		return q.failed(errno)
	}
	q.reap()
	if q.stopped.Load() || q.failure != 0 {
		return q.failed(q.failure)
	}
	return nil
}

// overtake reads, where bulk was read, all packets of sparse flows that came before it:
// the first packets of a flow that became bulk stay its first ones. A read that waits
// finds no packet that was there when it began, and is completed by the first that comes.
func (q *uringQueue) overtake() error {
	for range maxDepth {
		if len(q.intakes) == 1 || len(q.intakes[atBulk].ready) == 0 || q.intakes[atSparse].waiting != nil {
			break
		}
		q.read(&q.intakes[atSparse])
		if err := q.turn(); err != nil {
			return err
		}
	}
	return nil
}

// enable gives the ring to this thread.
func (q *uringQueue) enable() error {
	q.enabled = true
	files := []int32{fileWake: int32(q.wake)}
	for _, fd := range q.files() {
		files = append(files, int32(fd))
	}
	if err := q.ring.enable(files...); err != nil {
		return fmt.Errorf("device %s: %w", q.name, err)
	}
	q.ring.push(uringSQE{op: uringOpPollAdd, flags: uringFixedFile, fd: fileWake, opFlags: unix.POLLIN, data: aboutOther})
	return nil
}

// read pushes as many reads as the depth wants.
func (q *uringQueue) read(n *intake) {
	if n.waiting == nil {
		n.waiting = q.slot(q.Buffer())
		q.pushRead(n, n.waiting, 0, aboutRead)
	}
	for range n.depth - 1 {
		q.tries++
		q.pushRead(n, q.slot(q.Buffer()), unix.RWF_NOWAIT, aboutTry)
	}
}

func (q *uringQueue) pushRead(n *intake, s *slot, flags uint32, about uint64) {
	q.push(s, n.file, s.Buf[s.Start-q.link-headerLen:len(s.Buf)-translator.Tailroom], uringOpRead, flags, about+n.about)
}

func (q *uringQueue) slot(p *translator.Packet) *slot { return (*slot)(unsafe.Pointer(p)) }

func (q *uringQueue) push(s *slot, file int32, frame []byte, op uint8, flags uint32, about uint64) {
	if q.ring.full() {
		q.ring.enter(0, false)
	}
	q.ring.push(uringSQE{op: op, flags: uringFixedFile, fd: file, addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(frame)))),
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
		q.push(q.slot(p), fileDevice, encode(p, q.link), uringOpWrite, 0, aboutWrite)
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
		switch about := e.data & aboutMask; about {
		case aboutRead + atBulk, aboutRead + atSparse:
			n := &q.intakes[about-aboutRead]
			n.waiting = nil
			q.hasRead(n, s, e.result)
		case aboutTry + atBulk, aboutTry + atSparse:
			q.tries--
			q.hasRead(&q.intakes[about-aboutTry], s, e.result)
		case aboutWrite:
			q.writes--
			if e.result < 0 {
				q.refused(&s.Packet, syscall.Errno(-e.result))
			}
			q.Release(&s.Packet)
		}
	}
}

func (q *uringQueue) hasRead(n *intake, s *slot, result int32) {
	switch errno := syscall.Errno(-result); {
	case int(result) >= headerLen+q.link:
		s.End = s.Start - q.link - headerLen + int(result)
		decode(&s.Packet, q.link)
		n.ready = append(n.ready, &s.Packet)
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
func (n *intake) adapt() {
	found, bytes := len(n.ready), 0
	switch {
	case found < n.depth:
		if found <= 1 && n.depth > 1 {
			n.lone, n.spared = 0, min(2*n.spared+1, maxSpared)
		}
		n.depth = max(found, 1)
		return
	case n.depth > 1:
		n.spared = 0
	case n.lone < n.spared:
		n.lone++
		return
	}
	for _, p := range n.ready {
		bytes += p.End - p.Start
	}
	n.depth = max(1, min(2*n.depth, maxDepth, found*depthBytes/bytes))
}

// finish ends what is under way, so that the device goes away when its
// descriptor is closed and not at some time later.
func (q *uringQueue) finish() {
	if !q.enabled {
		return
	}
	for i := range q.intakes {
		n := &q.intakes[i]
		if n.waiting == nil {
			continue
		}
		if q.ring.full() {
			q.ring.enter(0, false)
		}
		q.ring.push(uringSQE{op: uringOpCancel, fd: -1, addr: n.waiting.index<<aboutBits | (aboutRead + n.about), data: cancelledBy | aboutOther})
	}
	for q.reading() || q.writes > 0 || q.tries > 0 {
		if errno := q.ring.enter(1, true); errno != 0 {
			abandoned.keep(q) // the kernel may still write to the buffers
			break
		}
		q.reap()
	}
	q.ring.register(uringUnregisterFiles, nil, 0)
	q.enabled = false
}

func (q *uringQueue) reading() (reading bool) {
	for i := range q.intakes {
		reading = reading || q.intakes[i].waiting != nil
	}
	return reading
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
