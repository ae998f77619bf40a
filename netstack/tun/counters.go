package tun

import (
	"maps"
	"sync/atomic"
	"syscall"
)

// maxErrno is above every error number that Linux has (EHWPOISON is 133).
const maxErrno = 134

// Counters of one queue. Its owner adds, anyone reads.
type Counters struct {
	Waits     atomic.Uint64 // times the queue had nothing to read and slept
	Segmented atomic.Uint64 // packets that the kernel refused and that were written segmented
	errors    [maxErrno]atomic.Uint64
	_         [64]byte // the next queue's counters start on a cache line of their own
}

// Stats are summed counters.
type Stats struct {
	Waits, Segmented uint64
	WriteErrors      map[syscall.Errno]uint64 // packets lost, by the kernel's answer
}

// AddTo sums the counters into s.
func (c *Counters) AddTo(s *Stats) {
	s.Waits += c.Waits.Load()
	s.Segmented += c.Segmented.Load()
	for errno := range c.errors {
		n := c.errors[errno].Load()
		if n == 0 {
			continue
		}
		if s.WriteErrors == nil {
			s.WriteErrors = make(map[syscall.Errno]uint64)
		}
		s.WriteErrors[syscall.Errno(errno)] += n
	}
}

func (c *Counters) lost(errno syscall.Errno) {
	c.errors[min(int(errno), maxErrno-1)].Add(1)
}

// Add adds another's.
func (s *Stats) Add(o Stats) {
	s.Waits += o.Waits
	s.Segmented += o.Segmented
	for errno, n := range o.WriteErrors {
		if s.WriteErrors == nil {
			s.WriteErrors = make(map[syscall.Errno]uint64)
		}
		s.WriteErrors[errno] += n
	}
}

// Clone is a copy that shares nothing with s.
func (s Stats) Clone() Stats {
	s.WriteErrors = maps.Clone(s.WriteErrors)
	return s
}
