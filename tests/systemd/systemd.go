//go:build linux

// Package systemd is what of systemd a daemon talks with, for tests and labs: the
// notify socket, and the store that keeps descriptors from one start to the next
// (sd_notify(3)).
package systemd

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Manager hears a daemon until Close.
type Manager struct {
	socket  string
	conn    *net.UnixConn
	stopped chan struct{}
	ready   chan struct{} // gets an element for each READY=1

	mu    sync.Mutex
	said  []string
	when  []time.Time // each of said came
	store []stored
}

type stored struct {
	name string
	file *os.File
}

// Listen makes a notify socket at a path where nothing is.
func Listen(socket string) (*Manager, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	m := &Manager{socket: socket, conn: conn, stopped: make(chan struct{}), ready: make(chan struct{}, 1000)}
	go m.serve()
	return m, nil
}

// Close ends the socket and closes what is stored.
func (m *Manager) Close() {
	m.conn.Close()
	<-m.stopped
	m.Release()
}

func (m *Manager) serve() {
	defer close(m.stopped)
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

// take does what a message asks for.
func (m *Manager) take(message string, fds []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said, m.when = append(m.said, message), append(m.when, time.Now())
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

// Release closes what is stored, as systemd does when a unit is stopped.
func (m *Manager) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.store {
		s.file.Close()
	}
	m.store = nil
}

// Start is what a program gets that is started now: what is stored, as its
// descriptors from 3 on, and the environment that tells of them, but for
// LISTEN_PID. Ready gets an element for READY=1 of this start and later ones.
func (m *Manager) Start() (files []*os.File, env []string) {
	for len(m.ready) > 0 {
		<-m.ready
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, s := range m.store {
		files, names = append(files, s.file), append(names, s.name)
	}
	return files, []string{"NOTIFY_SOCKET=" + m.socket,
		fmt.Sprint("LISTEN_FDS=", len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
}

// Ready gets an element for each READY=1.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Count is how many times text was said.
func (m *Manager) Count(text string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.said {
		n += strings.Count(s, text)
	}
	return n
}

// Longest is the longest time between two messages with that text, from the first
// on that said READY=1 until now.
func (m *Manager) Longest(text string) (most time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var last time.Time
	for i, s := range m.said {
		if ready := last.IsZero() && strings.Contains(s, "READY=1"); !ready && !strings.Contains(s, text) {
			continue
		}
		if !last.IsZero() {
			most = max(most, m.when[i].Sub(last))
		}
		last = m.when[i]
	}
	return max(most, time.Since(last))
}
