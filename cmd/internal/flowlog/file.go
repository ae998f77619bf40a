//go:build linux

package flowlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/flows"
)

// File writes records as lines of JSON, to a file that rotates by size or to a pipe.
// It is our own: the known library (lumberjack) leaves a goroutine behind, and half a
// line where the disk is full.
type File struct {
	path    string
	maxSize int64
	keep    int
	log     *slog.Logger
	queue   *Queue
	ready   chan struct{}

	file *os.File // nil: it could not be opened
	size int64
	pipe bool
	kept bool // a regular file: of a device, or what else there may be, nothing is renamed
	buf  []byte

	mu      sync.Mutex // guards what follows
	written uint64
	dropped uint64
	problem string
	said    time.Time
}

// NewFile makes a task that writes to a path. A file of more than maxSize bytes
// becomes PATH.1, of which keep are kept.
func NewFile(path string, maxSize int64, keep int, log *slog.Logger) *File {
	return &File{path: path, maxSize: maxSize, keep: keep, log: log, queue: NewQueue(), ready: make(chan struct{})}
}

// Put takes records, and never waits.
func (f *File) Put(batch []flows.Record) { f.queue.Put(batch) }

// Room says that another batch finds room.
func (f *File) Room() bool { return f.queue.Room() }

// Ready is closed when it writes.
func (f *File) Ready() <-chan struct{} { return f.ready }

// Status says how it does.
func (f *File) Status() api.FlowReceiver {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := api.FlowReceiver{Name: f.path, State: "ok", Written: f.written, Dropped: f.dropped + f.queue.Dropped()}
	if f.problem != "" {
		r.State = f.problem
	}
	return r
}

// Run writes until ctx is done, and what was put before that.
func (f *File) Run(ctx context.Context) error {
	f.note(0, 0, f.open())
	close(f.ready)
	defer func() {
		if f.file != nil {
			f.file.Close()
		}
	}()
	for {
		batch, ok := f.queue.Next(ctx)
		if !ok {
			return nil
		}
		n, err := f.write(batch)
		f.note(n, len(batch)-n, err)
	}
}

// write writes all of a batch or none of it.
func (f *File) write(batch []flows.Record) (int, error) {
	if err := f.open(); err != nil {
		return 0, err
	}
	f.buf = f.buf[:0]
	for i := range batch {
		f.buf = appendLine(f.buf, &batch[i])
	}
	if f.pipe {
		return f.writePipe(len(batch))
	}
	if f.kept && f.size > 0 && f.size+int64(len(f.buf)) > f.maxSize {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	if _, err := f.file.Write(f.buf); err != nil {
		if f.kept {
			err = errors.Join(err, f.file.Truncate(f.size)) // no half of a line
		}
		return 0, err
	}
	f.size += int64(len(f.buf))
	return len(batch), nil
}

// pipePatience is how long the reader of a pipe may take for a batch.
const pipePatience = time.Second

func (f *File) writePipe(n int) (int, error) {
	f.file.SetWriteDeadline(time.Now().Add(pipePatience))
	if _, err := f.file.Write(f.buf); err != nil {
		f.file.Close() // the next one begins with a whole line
		f.file = nil
		return 0, err
	}
	return n, nil
}

// open opens the file, unless that is done: also anew, where somebody moved it away.
func (f *File) open() error {
	if f.file != nil {
		have, err1 := f.file.Stat()
		there, err2 := os.Stat(f.path)
		if err1 == nil && err2 == nil && os.SameFile(have, there) {
			f.size = have.Size() // which who rotates it by copying makes 0
			return nil
		}
		f.file.Close()
		f.file = nil
	}
	flag := os.O_WRONLY | os.O_APPEND | os.O_CREATE
	info, err := os.Stat(f.path)
	if f.pipe = err == nil && info.Mode()&fs.ModeNamedPipe != 0; f.pipe {
		flag = os.O_RDWR | syscall.O_NONBLOCK // also where nobody reads yet
	}
	if f.file, err = os.OpenFile(f.path, flag, 0o640); err != nil {
		f.file = nil
		return err
	}
	if info, err = f.file.Stat(); err == nil {
		f.size, f.kept = info.Size(), info.Mode().IsRegular()
	}
	return err
}

// rotate makes PATH.1 of the file, PATH.2 of that one, and so on.
func (f *File) rotate() error {
	f.file.Close()
	f.file = nil
	name := func(n int) string { return fmt.Sprintf("%s.%d", f.path, n) }
	for n := f.keep; n > 1; n-- {
		if err := os.Rename(name(n-1), name(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var err error
	if f.keep > 0 {
		err = os.Rename(f.path, name(1))
	} else {
		err = os.Remove(f.path)
	}
	return errors.Join(err, f.open())
}

// sayEvery is how often a problem is in the log.
const sayEvery = time.Minute

func (f *File) note(written, dropped int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += uint64(written)
	f.dropped += uint64(dropped)
	f.problem = ""
	if err != nil {
		f.problem = err.Error()
		if time.Since(f.said) > sayEvery {
			f.said = time.Now()
			f.log.Error("flow records are not written", "path", f.path, "error", err, "dropped", f.dropped)
		}
	}
}
