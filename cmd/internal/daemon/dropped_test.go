//go:build linux

package daemon

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
)

// TestDropped: however many look, one watches; and nobody when they have gone.
func TestDropped(t *testing.T) {
	began, ended, sent := make(chan apiserver.Send, 10), make(chan struct{}, 10), make(chan struct{})
	w := &dropWatch{lease: time.Hour, watch: func(ctx context.Context, a api.Watch, send apiserver.Send) error {
		if a.Filter != "drop" || !a.Leave || a.Rate == 0 {
			t.Errorf("it asks for %+v", a)
		}
		began <- send
		<-ctx.Done()
		ended <- struct{}{}
		return nil
	}}
	for range 3 {
		w.look()
	}
	send := <-began
	if len(began) > 0 {
		t.Fatal("two watch")
	}
	go func() {
		defer close(sent)
		for i := range 5 * droppedKept {
			send(fmt.Appendf(nil, `{"packet":{"verdict":"too-big","in":{"length":%d}}}`+"\n"+`{"counts":{"matched":%d,"limited":3,"lost":1}}`+"\n", i, i+5))
		}
	}()
	<-sent
	seen := w.look()
	if n := len(seen.Packets); n < droppedKept || n > 2*droppedKept || seen.Packets[n-1].In.Length != 5*droppedKept-1 || seen.All != 5*droppedKept+4 || seen.LeftOut != 4 {
		t.Errorf("%d packets of %d, %d left out", n, seen.All, seen.LeftOut)
	}
	w.mu.Lock()
	w.end.Reset(0) // they have gone
	w.mu.Unlock()
	<-ended
	if seen := w.look(); len(seen.Packets) > 0 { // and somebody comes
		t.Errorf("%d packets of before", len(seen.Packets))
	}
	<-began
	w.mu.Lock()
	w.end.Reset(0)
	w.mu.Unlock()
	<-ended
}
