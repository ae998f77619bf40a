//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/natless/natless/tests/systemd"
)

// manager plays systemd for natless's unit in the namespaces: it waits for
// READY=1, keeps the file descriptors that are given to it over restarts
// (sd_notify(3), FDSTORE=1), and starts again what was killed. What systemd
// itself does of the unit (confinement, watchdog) is seen on machines only.
type manager struct {
	*systemd.Manager
	lab    *namespaces
	log    io.Writer // what the daemon says
	cmd    *exec.Cmd // nil: it does not run
	exited chan struct{}
}

func (m *manager) do(ctx context.Context, verb string) error {
	switch verb {
	case "start":
		return m.start(ctx)
	case "stop":
		if err := m.stop(syscall.SIGTERM); err != nil {
			return err
		}
		m.Release()
		return m.cleanUp(ctx)
	case "restart":
		if err := m.stop(syscall.SIGTERM); err != nil {
			return err
		}
		return m.start(ctx)
	case "kill":
		if err := m.stop(syscall.SIGKILL); err != nil {
			return err
		}
		return m.start(ctx)
	case "reload":
		return m.cmd.Process.Signal(syscall.SIGHUP)
	}
	return fmt.Errorf("service %s: unknown verb", verb)
}

const units = "/usr/lib/systemd/system/"

// cleanUp runs what the unit says that stands behind natlessd's, and that
// systemd stops when natlessd is stopped but not when it is restarted.
func (m *manager) cleanUp(ctx context.Context) error {
	line, err := sh(ctx, m.lab, host, "sed -n s/^ExecStop=//p "+units+"natlessd-cleanup.service")
	if err != nil {
		return err
	}
	_, err = sh(ctx, m.lab, host, line)
	return err
}

// start runs what the installed unit says, with the descriptors that are kept.
func (m *manager) start(ctx context.Context) error {
	line, err := sh(ctx, m.lab, host, "sed -n s/^ExecStart=//p "+units+"natlessd.service")
	if err != nil {
		return err
	}
	// The shell becomes the daemon, whose process id LISTEN_PID is.
	m.cmd = m.lab.command(context.WithoutCancel(ctx), host, "export LISTEN_PID=$$; exec "+line)
	files, env := m.Start()
	m.cmd.Env, m.cmd.ExtraFiles = append(os.Environ(), env...), files
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		return err
	}
	m.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(m.cmd, m.exited)
	select {
	case <-m.Ready():
		return nil
	case <-m.exited:
		return errors.New("natlessd ends before it is ready")
	case <-time.After(20 * time.Second):
		return errors.New("natlessd is not ready after 20 s")
	}
}

// stop sends a signal and waits.
func (m *manager) stop(sig syscall.Signal) error {
	if m.cmd == nil {
		return nil
	}
	m.cmd.Process.Signal(sig)
	select {
	case <-m.exited:
		m.cmd = nil
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("natlessd is still there 20 s after %v", sig)
	}
}

func (m *manager) powerOff() {
	m.stop(syscall.SIGKILL)
	m.Release()
}
