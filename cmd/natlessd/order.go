//go:build linux

package main

import "context"

// following is a task that begins when others are ready. Routes follow the
// device: begun at once, they would be complete on a killed predecessor's, which
// is there for a moment longer, and the daemon ready without a route. And they
// follow the guard: no packet is to come before what judges it. The fast path
// follows the routes.
type following struct {
	task
	first []<-chan struct{}
}

func (f following) Run(ctx context.Context) error {
	for _, ready := range f.first {
		select {
		case <-ready:
		case <-ctx.Done(): // it still cleans up
		}
	}
	return f.task.Run(ctx)
}
