//go:build linux

package main

import "context"

// following is a task that begins when another is ready. Routes follow the
// device: begun at once, they would be complete on a killed predecessor's, which
// is there for a moment longer, and the daemon ready without a route.
type following struct {
	task
	first <-chan struct{}
}

func (f following) Run(ctx context.Context) error {
	select {
	case <-f.first:
	case <-ctx.Done(): // it still cleans up
	}
	return f.task.Run(ctx)
}
