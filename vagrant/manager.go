//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// manager plays systemd for natless's unit in the namespaces: it waits for
// READY=1, keeps the file descriptors that are given to it over restarts
// (sd_notify(3), FDSTORE=1), and starts again what was killed. What systemd
// itself does of the unit (confinement, watchdog) is seen on machines only.
type manager struct {
	lab    *namespaces
	socket string
	log    io.Writer // what the daemon says
	cmd    *exec.Cmd // nil: it does not run
	exited chan struct{}

	mu     sync.Mutex
	stored []*os.File
	names  []string // of what is stored
}

func (m *manager) do(ctx context.Context, verb string) error {
	switch verb {
	case "start":
		return m.start(ctx)
	case "stop":
		if err := m.stop(syscall.SIGTERM); err != nil {
			return err
		}
		m.forget()
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
	os.Remove(m.socket)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	m.mu.Lock()
	stored, names := slices.Clone(m.stored), strings.Join(m.names, ":")
	m.mu.Unlock()
	script := "exec " + line
	if len(stored) > 0 {
		script = fmt.Sprintf("export LISTEN_FDS=%d LISTEN_FDNAMES=%s LISTEN_PID=$$; %s", len(stored), names, script)
	}
	m.cmd = m.lab.command(context.WithoutCancel(ctx), host, script)
	m.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.socket)
	m.cmd.ExtraFiles = stored
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		return err
	}
	m.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
		notify.Close()
	}(m.cmd, m.exited)
	ready := make(chan struct{})
	go m.listen(notify, ready)
	select {
	case <-ready:
		return nil
	case <-m.exited:
		return errors.New("natlessd ends before it is ready")
	case <-time.After(20 * time.Second):
		return errors.New("natlessd is not ready after 20 s")
	}
}

// listen hears what the daemon says until it is gone.
func (m *manager) listen(notify *net.UnixConn, ready chan<- struct{}) {
	message, control := make([]byte, 4096), make([]byte, 4096)
	for {
		n, c, _, _, err := notify.ReadMsgUnix(message, control)
		if err != nil {
			return
		}
		said := parse(string(message[:n]))
		if said["FDSTORE"] == "1" {
			m.keep(control[:c], said["FDNAME"])
		}
		if said["FDSTOREREMOVE"] == "1" {
			m.drop(said["FDNAME"])
		}
		if said["READY"] == "1" && ready != nil {
			close(ready)
			ready = nil
		}
	}
}

func parse(message string) map[string]string {
	said := make(map[string]string)
	for line := range strings.Lines(message) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			said[key] = value
		}
	}
	return said
}

// keep stores the descriptors of a message.
func (m *manager) keep(control []byte, name string) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			m.stored = append(m.stored, os.NewFile(uintptr(fd), name))
			m.names = append(m.names, cmp.Or(name, "stored"))
		}
	}
}

// drop closes what is stored under a name.
func (m *manager) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.names) - 1; i >= 0; i-- {
		if m.names[i] == name {
			m.stored[i].Close()
			m.stored, m.names = slices.Delete(m.stored, i, i+1), slices.Delete(m.names, i, i+1)
		}
	}
}

// forget closes all that is stored.
func (m *manager) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.stored {
		f.Close()
	}
	m.stored, m.names = nil, nil
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
	m.forget()
}
