//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/natless/natless/netstack/engine"
)

// sayAfter is how long a start may take before it is said what it waits for, and
// how often that is said then.
const sayAfter = 5 * time.Second

// runTasks runs tasks until ctx is done or one of them fails. Either ends all, the
// last first, each after the one that follows it: routes go before the device that
// they point at. ready is called when every task is, until whose context is done.
func runTasks(ctx context.Context, log *slog.Logger, tasks []engine.Task, ready func(context.Context)) error {
	group, ctx := errgroup.WithContext(ctx)
	end := ctx
	for _, t := range slices.Backward(tasks) {
		own := end
		after, ended := context.WithCancel(context.Background())
		group.Go(func() error {
			defer ended()
			err := t.Run(own)
			if err != nil { // at once: until all have ended may take long, and this is why
				log.Error("a task has failed, natlessd ends", "task", t.Name, "error", err)
				err = ToldError{err}
			}
			return err
		})
		end = after
	}
	group.Go(func() error {
		if awaitAll(ctx, log, tasks) {
			ready(ctx)
		}
		return nil
	})
	return group.Wait()
}

// ToldError is in the log already.
type ToldError struct{ error }

func (e ToldError) Unwrap() error { return e.error }

// awaitAll waits until every task is ready. false: ctx is done.
func awaitAll(ctx context.Context, log *slog.Logger, tasks []engine.Task) bool {
	late := time.NewTicker(sayAfter)
	defer late.Stop()
	for waiting := unready(tasks); len(waiting) > 0; {
		select {
		case <-waiting[0].Ready():
			waiting = waiting[1:]
		case <-late.C:
			waiting = unready(waiting)
			log.Warn("natlessd is not ready yet", "waits_for", namesOf(waiting))
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// unready are the tasks that are not ready.
func unready(tasks []engine.Task) (waiting []engine.Task) {
	for _, t := range tasks {
		select {
		case <-t.Ready():
		default:
			waiting = append(waiting, t)
		}
	}
	return waiting
}

func namesOf(tasks []engine.Task) string {
	names := make([]string, len(tasks))
	for i, t := range tasks {
		names[i] = t.Name
	}
	return strings.Join(names, ", ")
}

// always is ready at once.
func always() <-chan struct{} {
	ready := make(chan struct{})
	close(ready)
	return ready
}
