//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/cmd/internal/systemd"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/tun"
)

// A daemon cannot know whether SIGTERM is its end or a restart. With --handover
// it leaves everything as it is, and the device's queues with the service
// manager, which keeps them over a restart and closes them at a stop. Packets
// wait in the queues until the next daemon reads on. What a stop should remove
// --cleanup removes, which the service manager runs then: see
// config/deploy/systemd.

// The names that the service manager knows the queues of our devices by.
const (
	queuesName       = "natless-queues"
	insideQueuesName = "natless-inside-queues"
)

// mostSparse is for how many queues the kernel has a second one each, for sparse flows
// (MAX_TAP_QUEUES).
const mostSparse = 256 / 2

// opener makes the device: first of the queues that a predecessor left, and
// anew whenever it was deleted.
func opener(c tun.Config, stored string, handover bool, log *slog.Logger) func() (*tun.Device, error) {
	left := len(c.Adopt)
	c.Disown = func() { // held by the service manager, it could not be made anew
		if err := systemd.Forget(stored, left); err != nil {
			log.Debug("queues that are not those of the configuration", "error", err)
		}
	}
	return func() (*tun.Device, error) {
		d, err := tun.Open(c)
		c.Adopt = nil // they are in use, or closed
		if err != nil || !handover {
			return d, err
		}
		if d.Inherited() {
			log.Info("the device was left to us, with what waits in its queues", "device", d.Name())
		} else if err := systemd.Store(stored, d.Descriptors()...); err != nil {
			log.Warn("packets will be lost at a restart", "error", err)
		}
		return d, nil
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// CleanUp removes what a daemon with that configuration left in the kernel and
// gives the exit status. Without a usable configuration it does so for the
// default one, since a purge may come after the file is gone.
func CleanUp(path string, stderr io.Writer) int {
	c, err := config.Load(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(stderr, "%v\nnatlessd: cleaning up by the default configuration\n", err)
		}
		d := config.Default()
		c = &d
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s, err := api.NewClient(c.API.Socket).Status(ctx); err == nil {
		fmt.Fprintf(stderr, "natlessd: process %d runs with this configuration: stop it first\n", s.PID)
		return 1
	}
	return removeAll(c, stderr)
}

// removeAll removes what there is to remove. It gives the exit status.
func removeAll(c *config.Config, stderr io.Writer) (status int) {
	errs := engine.Cleanup(engine.Options{Device: c.Device.Name, SysctlDir: c.SysctlDir, StateDir: filepath.Dir(c.API.Socket)},
		func(what string) { fmt.Fprintln(stderr, "natlessd: removed the fast path's", what) })
	for _, err := range errs {
		fmt.Fprintln(stderr, "natlessd:", err)
		status = 1
	}
	return status
}
