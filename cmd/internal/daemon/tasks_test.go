//go:build linux

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/tests/output"
)

// fakeTask is ready when it is told so, and fails with what it is given.
type fakeTask struct {
	ready chan struct{}
	fail  chan error
	slow  time.Duration // to end
}

func (f *fakeTask) Ready() <-chan struct{} { return f.ready }

func (f *fakeTask) Run(ctx context.Context) error {
	select {
	case err := <-f.fail:
		return err
	case <-ctx.Done():
		time.Sleep(f.slow)
		return nil
	}
}

// TestLateStart checks that a start that takes long says what it waits for, and
// that why a task failed is said before the others have ended.
func TestLateStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(output.Buffer)
		say := slog.New(slog.NewTextHandler(log, nil))
		waits := &fakeTask{ready: make(chan struct{}), fail: make(chan error)}
		fine := &fakeTask{ready: make(chan struct{}), slow: time.Hour}
		close(fine.ready)
		ended := make(chan error)
		go func() {
			ended <- runTasks(t.Context(), say, []engine.Task{{Name: "fine", Runner: fine}, {Name: "what is late", Runner: waits}}, func(context.Context) {})
		}()
		time.Sleep(sayAfter - time.Second)
		if text := log.String(); text != "" {
			t.Errorf("too early: %s", text)
		}
		time.Sleep(2 * time.Second)
		if text := log.String(); !strings.Contains(text, "waits_for=\"what is late\"\n") {
			t.Errorf("it does not say what it waits for: %s", text)
		}
		waits.fail <- errors.New("the device is busy")
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "the device is busy") {
			t.Errorf("it does not say at once why it ends: %s", text)
		}
		if err := <-ended; err == nil {
			t.Error("no error at the end")
		}
	})
}
