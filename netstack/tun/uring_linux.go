package tun

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is used of io_uring(7) (linux/io_uring.h).
const (
	uringSetupCQSize       = 1 << 3
	uringSetupDisabled     = 1 << 6
	uringSetupSingleIssuer = 1 << 12 // Linux 6.0
	uringSetupDeferTaskrun = 1 << 13 // Linux 6.1

	uringEnterGetevents = 1
	uringEnterExtArg    = 8       // Linux 5.11
	uringEnterNoIowait  = 1 << 7  // Linux 6.15
	uringFeatNoIowait   = 1 << 17 // says that it is there

	uringRegisterFiles   = 2
	uringUnregisterFiles = 3
	uringRegisterEnable  = 12

	uringOpPollAdd = 6
	uringOpCancel  = 14
	uringOpRead    = 22
	uringOpWrite   = 23

	uringFixedFile = 1 // the descriptor is an index into the registered files

	uringOffSQEs = 0x10000000
)

// uringParams is struct io_uring_params.
type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// uringSQE is struct io_uring_sqe.
type uringSQE struct {
	op, flags       uint8
	_               uint16
	fd              int32
	off, addr       uint64
	length, opFlags uint32
	data            uint64
	_               [3]uint64
}

// uringGeteventsArg is struct io_uring_getevents_arg.
type uringGeteventsArg struct {
	sigmask    uint64
	sigmaskLen uint32
	_          uint32
	timeout    uint64
}

// uringCQE is struct io_uring_cqe.
type uringCQE struct {
	data   uint64
	result int32
	_      uint32
}

// ring is an io_uring for one thread: its submissions and completions are the
// business of the thread that enables it, and all work is done inside enter.
// The few calls that are needed are written here by hand; there is no library
// that keeps runtime and allocations out of the way.
type ring struct {
	fd             int
	memory, sqes   []byte
	sqHead, sqTail *uint32
	cqHead, cqTail *uint32
	entries        uint32
	sq             []uringSQE
	cq             []uringCQE
	tail           uint32 // of submissions, the kernel knows of those before submitted
	submitted      uint32
	noIowait       uintptr // the flag, where the kernel knows it
	// Here, since on the stack they would escape.
	patience  unix.Timespec
	getevents uringGeteventsArg
	poll      []unix.PollFd
}

func newRing(entries uint32) (*ring, error) {
	p := uringParams{flags: uringSetupCQSize | uringSetupDisabled | uringSetupSingleIssuer | uringSetupDeferTaskrun, cqEntries: 4 * entries}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring: %w (Linux 6.1, and a system call filter that allows it)", errno)
	}
	unix.CloseOnExec(int(fd))
	r := &ring{fd: int(fd), entries: p.sqEntries}
	if p.features&uringFeatNoIowait != 0 {
		r.noIowait = uringEnterNoIowait
	}
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(uringCQE{})))
	var err error
	if r.memory, err = mapRing(r.fd, 0, int(size)); err == nil {
		r.sqes, err = mapRing(r.fd, uringOffSQEs, int(p.sqEntries)*int(unsafe.Sizeof(uringSQE{})))
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("io_uring: map: %w", err)
	}
	at := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.memory[offset])) }
	r.sqHead, r.sqTail, r.cqHead, r.cqTail = at(p.sq.head), at(p.sq.tail), at(p.cq.head), at(p.cq.tail)
	r.sq = unsafe.Slice((*uringSQE)(unsafe.Pointer(&r.sqes[0])), p.sqEntries)
	r.cq = unsafe.Slice((*uringCQE)(unsafe.Pointer(&r.memory[p.cq.cqes])), p.cqEntries)
	for i, array := uint32(0), unsafe.Slice(at(p.sq.array), p.sqEntries); i < p.sqEntries; i++ {
		array[i] = i // entry i is always submitted from place i
	}
	return r, nil
}

func mapRing(fd int, offset int64, size int) ([]byte, error) {
	return unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
}

// enable gives the ring to the calling thread, with files to be named by
// index. A wait that may be long is for one of these to have something to read.
func (r *ring) enable(files ...int32) error {
	if errno := r.register(uringRegisterEnable, nil, 0); errno != 0 {
		return fmt.Errorf("io_uring: enable: %w", errno)
	}
	if errno := r.register(uringRegisterFiles, unsafe.Pointer(&files[0]), len(files)); errno != 0 {
		return fmt.Errorf("io_uring: register files: %w", errno)
	}
	for _, fd := range files {
		r.poll = append(r.poll, unix.PollFd{Fd: fd, Events: unix.POLLIN})
	}
	return nil
}

func (r *ring) register(op uintptr, arg unsafe.Pointer, n int) syscall.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), op, uintptr(arg), uintptr(n), 0, 0)
	return errno
}

// full says that there is no room to push.
func (r *ring) full() bool { return r.tail-atomic.LoadUint32(r.sqHead) == r.entries }

// push adds a submission, which enter tells the kernel about.
func (r *ring) push(e uringSQE) {
	r.sq[r.tail&(r.entries-1)] = e
	r.tail++
}

// enter submits what was pushed and returns when at least wait completions are
// there. Only when sleep says so may it take long.
func (r *ring) enter(wait int, sleep bool) syscall.Errno {
	atomic.StoreUint32(r.sqTail, r.tail)
	flags, size, arg := uintptr(uringEnterGetevents), uintptr(0), unsafe.Pointer(nil)
	if sleep {
		flags, size, arg = flags|uringEnterExtArg|r.noIowait, unsafe.Sizeof(r.getevents), unsafe.Pointer(&r.getevents)
		r.patience = unix.NsecToTimespec(int64(briefly))
		r.getevents = uringGeteventsArg{timeout: uint64(uintptr(unsafe.Pointer(&r.patience)))}
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.tail-r.submitted), uintptr(wait), flags,
			uintptr(arg), size)
		switch errno {
		case 0:
			r.submitted += uint32(n)
		case unix.EINTR, unix.ETIME, unix.EAGAIN: // EAGAIN: no memory for a request just now
		default:
			return errno
		}
		if r.submitted == r.tail && (wait == 0 || r.pending() >= wait) {
			return 0
		}
		if sleep {
			runtime.Gosched()        // see briefly
			if errno != unix.EINTR { // with completions there, the kernel does not tell
				r.idle(wait)
			}
		}
	}
}

// idle waits as everybody does until the last of wait completions is near, if
// that one alone is missing: a wait in io_uring would count as one for a disk,
// and of an idle machine it would be said that it does nothing else.
func (r *ring) idle(wait int) {
	if wait-r.pending() == 1 && r.submitted == r.tail {
		unix.Poll(r.poll, -1)
	}
}

// pending is the number of completions that are there.
func (r *ring) pending() int { return int(atomic.LoadUint32(r.cqTail) - *r.cqHead) }

// next takes one completion off; there must be one.
func (r *ring) next() uringCQE {
	head := *r.cqHead
	e := r.cq[head&uint32(len(r.cq)-1)]
	atomic.StoreUint32(r.cqHead, head+1)
	return e
}

func (r *ring) close() error {
	if r.memory != nil {
		unix.Munmap(r.memory)
	}
	if r.sqes != nil {
		unix.Munmap(r.sqes)
	}
	return unix.Close(r.fd)
}
