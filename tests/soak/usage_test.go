//go:build linux

package soak

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// usage is what the daemon takes: memory of its own and of its BPF maps in kB,
// descriptors, goroutines, and the registry's bytes.
type usage struct{ memory, bpf, descriptors, goroutines, registry int }

func (u usage) String() string {
	return fmt.Sprintf("%d kB of its own, %d kB in BPF maps, %d descriptors, %d goroutines, registry of %d kB",
		u.memory, u.bpf, u.descriptors, u.goroutines, u.registry>>10)
}

// usage waits for nothing: the daemon must be there.
func (r *rig) usage() (u usage) {
	pid := r.daemon.PID()
	u.memory = field(r.T, fmt.Sprintf("/proc/%d/status", pid), "RssAnon:")
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	u.descriptors = len(infos)
	for _, path := range infos {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "map_type:") {
			u.bpf += value(string(text), "memlock:") >> 10
		}
	}
	u.goroutines = r.metric("go_goroutines")
	if info, err := os.Stat(filepath.Join(r.daemon.Dir, "registry.db")); err == nil {
		u.registry = int(info.Size())
	}
	return u
}

// compare wants u to be no more than before, but for what noise explains.
func (u usage) compare(t *testing.T, before usage) {
	for _, c := range []struct {
		what            string
		now, then, some int
	}{
		{"kB of memory", u.memory, before.memory, 16 << 10},
		{"kB of BPF maps", u.bpf, before.bpf, 0},
		{"descriptors", u.descriptors, before.descriptors, 8},
		{"goroutines", u.goroutines, before.goroutines, 16},
		{"bytes of registry", u.registry, before.registry, 1 << 20},
	} {
		if c.now > c.then+c.then/10+c.some {
			t.Errorf("%d %s, had been %d", c.now, c.what, c.then)
		}
	}
}

// metric is one value of the daemon's /metrics.
func (r *rig) metric(name string) (v int) {
	var text []byte
	var err error
	r.host.Do(func() {
		var conn net.Conn
		if conn, err = net.Dial("tcp", "[::1]:9464"); err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /metrics HTTP/1.1\r\nHost: natless\r\nConnection: close\r\n\r\n")
		var answer *http.Response
		if answer, err = http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			text, err = io.ReadAll(answer.Body)
		}
	})
	if err != nil {
		r.Errorf("metrics: %v", err)
	}
	return value("\n"+string(text), "\n"+name)
}

func field(t *testing.T, path, name string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return value(string(text), name)
}

// value is the number behind a name.
func value(text, name string) int {
	_, rest, _ := strings.Cut(text, name)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	f, _ := strconv.ParseFloat(words[0], 64)
	return int(f)
}
