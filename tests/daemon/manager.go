//go:build linux

package daemon

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// manager is what of systemd a daemon talks with: the notify socket, and the
// store that keeps descriptors from one start to the next.
type manager struct {
	t      testing.TB
	socket string
	conn   *net.UnixConn
	ready  chan struct{} // gets an element for each READY=1

	mu    sync.Mutex
	said  []string
	store []stored
}

type stored struct {
	name string
	file *os.File
}

func newManager(t testing.TB) *manager {
	t.Helper()
	m := &manager{t: t, socket: filepath.Join(t.TempDir(), "notify"), ready: make(chan struct{}, 1000)}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); m.serve() }()
	t.Cleanup(func() { m.conn.Close(); <-done; m.release() })
	return m
}

func (m *manager) serve() {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(253*4))
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		m.take(string(buf[:n]), descriptors(oob[:oobn]))
	}
}

func descriptors(oob []byte) (fds []int) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, c := range messages {
		if some, err := unix.ParseUnixRights(&c); err == nil {
			fds = append(fds, some...)
		}
	}
	return fds
}

// take does what a message asks for (sd_notify(3)).
func (m *manager) take(message string, fds []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said = append(m.said, message)
	name := "stored"
	for line := range strings.Lines(message) {
		if n, ok := strings.CutPrefix(line, "FDNAME="); ok {
			name = strings.TrimSuffix(n, "\n")
		}
	}
	switch lines := "\n" + message + "\n"; {
	case strings.Contains(lines, "\nFDSTOREREMOVE=1\n"):
		kept := m.store[:0]
		for _, s := range m.store {
			if s.name == name {
				s.file.Close()
			} else {
				kept = append(kept, s)
			}
		}
		m.store = kept
	case strings.Contains(lines, "\nFDSTORE=1\n"):
		for _, fd := range fds {
			m.store = append([]stored{{name, os.NewFile(uintptr(fd), name)}}, m.store...)
		}
	case strings.Contains(lines, "\nREADY=1\n"):
		m.ready <- struct{}{}
	}
}

// release closes what is stored, as systemd does when a unit is stopped.
func (m *manager) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.store {
		s.file.Close()
	}
	m.store = nil
}

// pass gives what is stored to a program: its descriptors from 3 on, and the
// environment that tells of them but LISTEN_PID.
func (m *manager) pass() (files []*os.File, env []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, s := range m.store {
		files, names = append(files, s.file), append(names, s.name)
	}
	return files, []string{"NOTIFY_SOCKET=" + m.socket,
		fmt.Sprint("LISTEN_FDS=", len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
}

// count is how many messages had that text.
func (m *manager) count(text string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.said {
		n += bytes.Count([]byte(s), []byte(text))
	}
	return n
}
