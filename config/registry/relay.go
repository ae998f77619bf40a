package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

// The rules of a relay are in a file beside the database, as the blocks of a host are: a line
// with a sum, a line with the rules, and behind it a line for each change since, with a sum of
// its own. One who knows nothing of changes takes a file that has some for damaged, and does not
// go by rules that have ended.

func relayPath(path string) string { return path + ".relay" }

// relayLog is the file of a relay's rules as changes are appended to it.
type relayLog struct {
	mu    sync.Mutex // guards what follows, and the file
	file  *os.File   // nil: the next change has the rules written whole
	whole int64      // how long it is without changes
	size  int64
}

// fewChanges is how many bytes of changes are kept however few the rules are.
const fewChanges = 64 << 10

// readRelay reads the rules and the changes. What was being appended when the power went is
// not there: nobody was told that it was.
func readRelay(path string) (r lease.Relay, err error) {
	b, err := os.ReadFile(relayPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		r, err = decodeRelay(b)
	}
	if err != nil {
		return r, fmt.Errorf("the rules that the fleet has told this relay: %s: %w: delete it, and have them told again",
			relayPath(path), err)
	}
	return r, nil
}

func decodeRelay(b []byte) (r lease.Relay, err error) {
	end := len(b)
	if i := bytes.IndexByte(b[min(sumSize, end):], '\n'); i >= 0 {
		end = sumSize + i + 1
	}
	if err := decodeSummed(b[:end], &r); err != nil {
		return r, err
	}
	for end < len(b) {
		line, _, _ := bytes.Cut(b[end:], []byte("\n"))
		delta, err := decodeRelayChange(line)
		if err != nil {
			if unfinished(b, end) {
				return r, nil
			}
			return r, errRecord
		}
		if r, _, err = r.Change(delta, lease.RelayAsked{Boot: r.Boot}); err != nil {
			return r, err
		}
		end += len(line) + 1
	}
	return r, nil
}

// unfinished reports whether what a file has from start on, which is no change, can be what was
// being written when the power went: a line without an end, or one that lacks blocks of the disk.
// A line that is whole but for its end is neither: its end is damaged.
func unfinished(b []byte, start int) bool {
	switch end := bytes.IndexByte(b[start:], '\n'); {
	case end < 0:
		_, err := decodeRelayChange(b[start : len(b)-1])
		return err != nil || b[len(b)-1] == 0
	case start+end+1 < len(b):
		return false
	}
	return lacksBlocks(b, start)
}

// sector is what a disk writes whole, or not at all.
const sector = 512

// lacksBlocks reports whether there is nothing from start, or from where a sector begins, to
// where one ends, or to the end.
func lacksBlocks(b []byte, start int) bool {
	for from := start; from < len(b); {
		to := min(from-from%sector+sector, len(b))
		if len(bytes.Trim(b[from:to], "\x00")) == 0 {
			return true
		}
		from = to
	}
	return false
}

func encodeRelayChange(d api.RuleDelta) ([]byte, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", checksum(b), b), nil
}

func decodeRelayChange(line []byte) (d api.RuleDelta, err error) {
	if len(line) < sumSize {
		return d, errRecord
	}
	sum, err := strconv.ParseUint(string(line[:sumSize-1]), 16, 32)
	if err != nil || line[sumSize-1] != ' ' || uint32(sum) != checksum(line[sumSize:]) {
		return d, errRecord
	}
	return d, json.Unmarshal(line[sumSize:], &d)
}

// Relay is what this host knows of who has which block.
func (r *Registry) Relay() lease.Relay {
	if s := r.relay.Load(); s != nil {
		return *s
	}
	return lease.Relay{}
}

// SetRelay has that on disk; when it returns, it outlives the process. One calls it or
// ChangeRelay at a time.
func (r *Registry) SetRelay(s lease.Relay) error {
	r.relayLog.mu.Lock()
	defer r.relayLog.mu.Unlock()
	return r.writeRelay(s)
}

func (r *Registry) writeRelay(s lease.Relay) error {
	r.relayLog.close()
	if err := writeSummed(relayPath(r.path), s, "registry: relay"); err != nil {
		return &WriteError{Path: relayPath(r.path), Err: err}
	}
	r.relay.Store(&s)
	r.relayLog.open(relayPath(r.path))
	return nil
}

// ChangeRelay is SetRelay of a state that a delta has made of the one before: it takes a time
// that does not grow with the rules, but now and then, when they are written whole again.
func (r *Registry) ChangeRelay(s lease.Relay, by api.RuleDelta) error {
	l := &r.relayLog
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.size-l.whole > l.whole+fewChanges {
		return r.writeRelay(s)
	}
	line, err := encodeRelayChange(by)
	if err == nil {
		at("registry: relay change")
		err = l.append(line)
	}
	if err != nil {
		l.close() // what is in it now nobody knows
		return &WriteError{Path: relayPath(r.path), Err: err}
	}
	at("registry: relay changed")
	r.relay.Store(&s)
	return nil
}

// open has changes be appended to a file that was just written whole. Where it cannot be
// opened, each is written whole.
func (l *relayLog) open(name string) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	if info, err := f.Stat(); err == nil {
		l.file, l.whole, l.size = f, info.Size(), info.Size()
		return
	}
	f.Close()
}

func (l *relayLog) append(line []byte) error {
	if _, err := l.file.Write(line); err != nil {
		return err
	}
	l.size += int64(len(line))
	return l.file.Sync()
}

func (l *relayLog) close() {
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.whole, l.size = nil, 0, 0
}

// settleRelay has no changes behind the rules: a natlessd of before reads them.
func (r *Registry) settleRelay() error {
	l := &r.relayLog
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > l.whole {
		if err := r.writeRelay(r.Relay()); err != nil {
			return err
		}
	}
	l.close()
	return nil
}
