//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/api/server"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/ports"
)

// many is a registry in memory with very many workloads.
type many struct {
	server.Registry
	all []*registry.Assignment
}

func (m many) List(f api.Filter, after string, limit int) (page []*registry.Assignment, next string, err error) {
	begin := 0
	if after != "" {
		fmt.Sscanf(after, "%x/", &begin)
		begin++
	}
	end := min(begin+limit, len(m.all))
	if end < len(m.all) {
		next = m.all[end-1].Key.String()
	}
	return m.all[begin:end], next, nil
}

func cpuTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestFiftyThousand: what a list of fifty thousand workloads costs, of both sides
// together, is far below what anybody waits for. The bound is several times what was
// measured (0.15 to 0.3 s of one CPU), for slow machines.
func TestFiftyThousand(t *testing.T) {
	const n = 50_000
	m := many{all: make([]*registry.Assignment, n)}
	for i := range m.all {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		m.all[i] = &registry.Assignment{Key: api.Key{ContainerID: fmt.Sprintf("%064x", i), Interface: "eth0"}, Pool: "default",
			Request: api.Request{Name: fmt.Sprint("default/web-", i), Network: "pods", IPv6: []netip.Addr{a}}, Since: time.Now(),
			Address: netip.AddrFrom4([4]byte{10, 9, byte(i >> 14), byte(i >> 6)}), Ports: ports.Of(ports.Range{First: 1024, Last: 2047})}
	}
	s := server.New(server.Options{Group: os.Getgid(), Registry: m, Ready: func() bool { return true }, Complete: traffic()})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := server.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	for words, bound := range map[string]time.Duration{
		"workloads": time.Second, "workloads --sort -name": time.Second, "workloads -o json": time.Second,
		"top --once -d 100ms --idle": 1500 * time.Millisecond, // it reads all twice
	} {
		var lines counter
		root := newRoot(&options{})
		root.SetOut(&lines)
		root.SetArgs(append(strings.Fields(words), "--socket", socket))
		before, began := cpuTime(), time.Now()
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		used := cpuTime() - before
		t.Logf("natless %s: %v of CPU, %v", words, used, time.Since(began))
		if used > bound {
			t.Errorf("natless %s takes %v of CPU, more than %v", words, used, bound)
		}
		if lines.n < n {
			t.Errorf("natless %s: %d lines", words, lines.n)
		}
	}
}

// counter counts lines.
type counter struct{ n int }

func (c *counter) Write(b []byte) (int, error) {
	c.n += strings.Count(string(b), "\n")
	return len(b), nil
}
