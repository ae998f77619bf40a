//go:build linux

package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator/mapping"
)

// Reader is told what a viewer sees, in its order. What it is told may be gathered
// until Flush; an error of Packet or Flush says that nobody reads any more.
type Reader interface {
	// Refresh is called now and then: workloads come and go.
	Refresh()
	// Packet gets a record, which it may not keep, and says how much it has
	// gathered so far, in bytes.
	Packet(*Record) (gathered int)
	Counts(c Counts, end bool)
	Flush() error
}

const (
	sendAt = 1 << 18 // bytes that are flushed at once
	batch  = 4096    // packets until the time is looked at again

	idlePause    = 20 * time.Millisecond // how long nothing is looked for when there was nothing
	busyPause    = 2 * time.Millisecond
	countsEvery  = 100 * time.Millisecond
	refreshEvery = time.Second
)

// behind is by how much a reader's thread steps back behind those of the queues.
const behind = 15

// Stream tells a reader all that a viewer sees until ctx is done, on a thread of its
// own, which steps back where processors are short: packets come before those who
// watch them. An error says that a packet could not be shown.
func Stream(ctx context.Context, v *Viewer, r Reader, log *slog.Logger) error {
	done := make(chan error)
	go func() { done <- (&stream{viewer: v, reader: r, refreshed: time.Now()}).behind(ctx, log) }()
	return <-done
}

// stream is one reader's.
type stream struct {
	viewer    *Viewer
	reader    Reader
	refreshed time.Time
	counts    Counts // as told last
	told      time.Time
}

func (s *stream) behind(ctx context.Context, log *slog.Logger) (err error) {
	defer func() { // what packets say is anybody's: a reader may end of it, the daemon not
		if p := recover(); p != nil {
			log.Error("watch: panic", "value", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("a packet could not be shown: %v", p)
		}
	}()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), behind); err != nil {
		log.Debug("watch with a priority as high as the packets'", "error", err)
	}
	s.run(ctx)
	return nil
}

func (s *stream) run(ctx context.Context) {
	for {
		s.viewer.Refill()
		if time.Since(s.refreshed) > refreshEvery {
			s.refreshed = time.Now()
			s.reader.Refresh()
		}
		n, err := s.drain()
		if err != nil {
			return
		}
		s.countNow()
		if s.reader.Flush() != nil {
			return
		}
		pause := busyPause
		if n == 0 {
			pause = idlePause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			s.viewer.Close()
			s.drain()
			s.count(s.viewer.Counts(), true)
			s.reader.Flush()
			return
		}
	}
}

// drain tells what is there, and says how many packets.
func (s *stream) drain() (n int, err error) {
	for ; n < batch; n++ {
		record, ok := s.viewer.Next()
		if !ok {
			break
		}
		if s.reader.Packet(&record) > sendAt {
			s.countNow() // a slow reader learns what is missing before all that waits for it
			if err := s.reader.Flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// countNow tells the counts when they have changed, now and then.
func (s *stream) countNow() {
	if time.Since(s.told) <= countsEvery {
		return
	}
	if c := s.viewer.Counts(); c != s.counts {
		s.count(c, false)
	}
}

func (s *stream) count(c Counts, end bool) {
	s.counts, s.told = c, time.Now()
	s.reader.Counts(c, end)
}

// Mapping is the mapping of the workload that sent a packet or gets it, as a table
// has it; nil when there is none.
func (p *Packet) Mapping(table *mapping.Table) *mapping.Entry {
	switch {
	case p.In.Valid && p.In.V6():
		return table.Lookup6(mapping.Addr6From(p.In.Src))
	case p.Out.Valid && p.Out.V6():
		return table.Lookup6(mapping.Addr6From(p.Out.Dst))
	case !p.In.Valid:
		return nil
	}
	if e := p.insider(); e != nil && p.Direction() == Across {
		return e
	}
	if p.In.Echo {
		return owner4(table, p.In.Dst, true, p.In.Ident)
	}
	return owner4(table, p.In.Dst, p.In.Ports, p.In.DstPort)
}
