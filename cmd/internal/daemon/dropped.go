//go:build linux

package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/natless/natless/cmd/internal/page"
	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
)

// Bounds of what the page of dropped packets costs: it is one who watches, however many
// look at it, and nobody when they have gone.
const (
	droppedRate  = 50 // packets a second
	droppedKept  = 1000
	droppedLease = 15 * time.Second // longer than a page without scripts is not loaded again
)

// dropWatch watches packets that are dropped, while somebody looks.
type dropWatch struct {
	watch func(context.Context, api.Watch, apiserver.Send) error
	lease time.Duration

	mu   sync.Mutex // guards what follows
	seen *page.Dropped
	end  *time.Timer // of the watch; nil: there is none
}

// look gives what was seen, and begins to watch unless somebody did.
func (w *dropWatch) look() page.Dropped {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end == nil || !w.end.Stop() {
		seen := &page.Dropped{Since: time.Now()}
		ctx, cancel := context.WithCancel(context.Background())
		w.seen, w.end = seen, time.AfterFunc(w.lease, cancel)
		go w.run(ctx, seen)
	} else {
		w.end.Reset(w.lease)
	}
	out := *w.seen
	out.Packets = slices.Clone(w.seen.Packets)
	return out
}

// run watches until nobody has looked for a while.
func (w *dropWatch) run(ctx context.Context, seen *page.Dropped) {
	err := w.watch(ctx, api.Watch{Filter: "drop", Rate: droppedRate, Leave: true}, func(lines []byte) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for line := range bytes.Lines(lines) {
			note(seen, line)
		}
		return nil
	})
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		seen.Error = err.Error()
	}
}

// note notes a line of the stream.
func note(seen *page.Dropped, line []byte) {
	var s api.Seen
	if json.Unmarshal(line, &s) != nil {
		return
	}
	if c := s.Counts; c != nil {
		seen.All, seen.LeftOut = c.Matched, c.Limited+c.Lost
	}
	if s.Packet != nil {
		seen.Packets = append(seen.Packets, *s.Packet)
		if n := len(seen.Packets); n > 2*droppedKept {
			seen.Packets = slices.Delete(seen.Packets, 0, n-droppedKept)
		}
	}
}
