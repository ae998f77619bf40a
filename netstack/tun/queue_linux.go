package tun

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator"
)

// batchLimit is after how many packets the owner looks at its clock again, and a
// stop is seen under load.
const batchLimit = 64

// briefly is how long a queue waits for the next packet without telling the Go
// runtime: while packets keep coming, leaving and entering it anew for each wait
// costs as much as a packet, and wakes threads of the runtime on other CPUs.
// Meanwhile the queue's thread keeps its share of GOMAXPROCS. When the runtime
// wants all goroutines to stop, its signal interrupts the wait, and Gosched lets
// it have its way. After that the queue waits as everybody does, for as long as
// it takes. It is less than the 10 ms after which the runtime interrupts whoever
// has not told it anything, and more than a tick of the kernel's: to arm a timer
// that comes before all others costs a virtual machine microseconds.
const briefly = 8 * time.Millisecond

// queue is a Queue as its device sees it.
type queue interface {
	Queue
	files() []int
	stop()
	close() error
}

// plainQueue reads and writes with one system call a packet. The descriptor is
// nonblocking and known only here: raw system calls keep the runtime's poller
// and scheduler out of the way, and an idle queue sleeps in poll(2).
type plainQueue struct {
	*common
	left int // packets until time has passed
	one  [1]*translator.Packet

	next      *translator.Packet // of bulk, read; packets of sparse flows may have come before it
	overtaken int                // how many went before it

	// Here, since on the stack they would escape.
	poll     [3]unix.PollFd
	patience unix.Timespec
}

func (q *plainQueue) Read() (packets []*translator.Packet, fresh bool, err error) {
	if q.left--; q.left < 0 {
		if q.stopped.Load() && q.next == nil {
			return nil, false, ErrStopped
		}
		q.left, fresh = batchLimit, true
	}
	for {
		p, errno := q.take()
		switch errno {
		case 0:
			q.one[0] = p
			return q.one[:], fresh, nil
		case unix.EAGAIN:
			errno = q.wait()
			q.left, fresh = batchLimit, true
		}
		if err := q.failed(errno); err != nil {
			return nil, false, err
		}
	}
}

// take reads a packet. After one of bulk it looks for those of sparse flows, which
// have come before it or are in more of a hurry; but not for ever.
func (q *plainQueue) take() (p *translator.Packet, errno syscall.Errno) {
	if q.next == nil {
		q.next, errno = q.read(q.fd)
		q.overtaken = 0
	}
	if q.sparse >= 0 && (errno == 0 || errno == unix.EAGAIN) && q.overtaken < batchLimit {
		if p, errno = q.read(q.sparse); errno == 0 && q.next != nil {
			q.overtaken++
		}
		if errno == 0 || q.next == nil {
			return p, errno
		}
	}
	if p, q.next = q.next, nil; p != nil {
		errno = 0
	}
	return p, errno
}

// read reads from one of the kernel's queues.
func (q *plainQueue) read(fd int) (*translator.Packet, syscall.Errno) {
	p := q.Buffer()
	for {
		n, errno := readPacket(fd, p, q.link)
		if errno == 0 && n >= headerLen+q.link {
			decode(p, q.link)
			return p, 0
		}
		if errno != 0 && errno != unix.EINTR {
			q.Release(p)
			return nil, errno
		}
	}
}

// wait sleeps until there is something to read or to stop for.
func (q *plainQueue) wait() syscall.Errno {
	if q.stopped.Load() {
		return 0
	}
	q.counters.Waits.Add(1)
	q.poll = [3]unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}, {Fd: int32(q.wake), Events: unix.POLLIN}, {Fd: int32(q.sparse), Events: unix.POLLIN}}
	q.patience = unix.NsecToTimespec(int64(briefly))
	n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&q.poll[0])), uintptr(len(q.poll)), uintptr(unsafe.Pointer(&q.patience)), 0, 0, 0)
	if errno == unix.EINTR {
		runtime.Gosched()
		return 0
	}
	if errno == 0 && n == 0 {
		if _, err := unix.Poll(q.poll[:], -1); err != nil && err != unix.EINTR {
			return err.(syscall.Errno)
		}
	}
	if q.poll[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
		return unix.EBADFD // how reads fail once the device is gone
	}
	return errno
}

// common is what every kind of queue has.
type common struct {
	Buffers
	name      string
	fd, wake  int // the device; an eventfd that is written to once, by stop
	sparse    int // the device's queue for sparse flows; -1: they have none of their own
	link      int // size of the link header in front of each packet: 0 for TUN
	stopped   atomic.Bool
	segmenter Segmenter
	scratch   *translator.Packet // of refused; nil until then
	counters  *Counters
}

// failed is the error that Read gives for a read's errno.
func (q *common) failed(errno syscall.Errno) error {
	switch {
	case q.stopped.Load():
		return ErrStopped
	case errno == 0:
		return nil
	case errno == unix.EBADFD, errno == unix.ENODEV, q.detached():
		return fmt.Errorf("device %s: %w", q.name, ErrGone)
	}
	return fmt.Errorf("device %s: read: %w", q.name, errno)
}

// detached asks whether the device has gone from the descriptor: a read that is
// under way at that moment may end with another error (EFAULT with io_uring).
func (q *common) detached() bool {
	request, err := unix.NewIfreq(q.name)
	return err == nil && unix.IoctlIfreq(q.fd, unix.TUNGETIFF, request) == unix.EBADFD
}

// files are the kernel's queues. Packets are written to the first one.
func (q *common) files() []int {
	if q.sparse < 0 {
		return []int{q.fd}
	}
	return []int{q.fd, q.sparse}
}

func (q *common) Counters() *Counters { return q.counters }

func (q *plainQueue) Write(packets []*translator.Packet) {
	for _, p := range packets {
		q.write(p)
	}
}

// write writes one packet at once.
func (q *common) write(p *translator.Packet) {
	if p.End > p.Start {
		if errno := writePacket(q.fd, p, q.link); errno != 0 {
			q.refused(p, errno)
		}
	}
	q.Release(p)
}

// refused deals with a packet that the kernel did not take.
func (q *common) refused(p *translator.Packet, errno syscall.Errno) {
	if errno == unix.EINVAL && retryable(p) {
		q.counters.Segmented.Add(1)
		if q.scratch == nil {
			q.scratch = new(Buffers).Buffer() // not of Buffers: a ring could not name it
		}
		errno = writeSegmented(q.fd, &q.segmenter, p, q.scratch, q.link)
	}
	if errno != 0 {
		q.counters.lost(errno)
	}
}

func (q *common) stop() {
	q.stopped.Store(true)
	unix.Write(q.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only when it is awake already
}

func (q *common) close() error {
	unix.Close(q.wake)
	if q.sparse >= 0 {
		unix.Close(q.sparse)
	}
	return unix.Close(q.fd)
}

// retryable says that there is another way to write what was refused.
func retryable(p *translator.Packet) bool {
	return p.GSOType != translator.GSONone || p.Flags&translator.FlagNeedsCsum != 0
}

// writeSegmented writes a refused packet in pieces that ask nothing of the
// kernel. It answers the last error.
func writeSegmented(fd int, s *Segmenter, p, scratch *translator.Packet, link int) (result syscall.Errno) {
	if p.GSOType == translator.GSONone {
		if !CompleteChecksum(p) {
			return unix.EINVAL
		}
		return writePacket(fd, p, link)
	}
	if s.Reset(p) != nil {
		return unix.EINVAL
	}
	copy(scratch.Buf[scratch.Start-link:scratch.Start], p.Buf[p.Start-link:p.Start])
	for s.Next(scratch) {
		if errno := writePacket(fd, scratch, link); errno != 0 {
			result = errno
		}
	}
	return result
}

// readPacket reads a packet with its virtio-net header, and a link header of so many
// bytes, right in front of p.Start, and sets p.End.
func readPacket(fd int, p *translator.Packet, link int) (int, syscall.Errno) {
	frame := p.Buf[p.Start-link-headerLen : len(p.Buf)-translator.Tailroom]
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)))
	if errno != 0 {
		return 0, errno
	}
	p.End = p.Start - link - headerLen + int(n)
	return int(n), 0
}

func writePacket(fd int, p *translator.Packet, link int) syscall.Errno {
	frame := encode(p, link)
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)))
		if errno != unix.EINTR {
			return errno
		}
	}
}
