package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Flags and words become one filter.
func TestWatchFilter(t *testing.T) {
	for _, c := range []struct {
		s     seeing
		words string
		want  string
	}{
		{seeing{}, "", ""},
		{seeing{}, "tcp or udp", "tcp or udp"},
		{seeing{drops: true}, "", "drop"},
		{seeing{drops: true, port: "22"}, "tcp or udp", "(tcp or udp) and (port 22) and (drop)"},
		{seeing{workloads: []string{"a", "b c"}, direction: "6to4"}, "", `(workload "a" or workload "b c") and (dir 6to4)`},
		{seeing{addresses: []string{"192.0.2.0/24", "::1"}, verdicts: []string{"too-big"}, proto: "udp"}, "", "(host 192.0.2.0/24 or host ::1) and (verdict too-big) and (proto udp)"},
	} {
		if got, err := c.s.filter(strings.Fields(c.words)); err != nil || got != c.want {
			t.Errorf("%+v %s: %s, %v, want %s", c.s, c.words, got, err, c.want)
		}
	}
	for _, s := range []seeing{{workloads: []string{`a" or "b`}}, {port: "1 or tcp"}, {direction: "(6to4"}, {addresses: []string{"x"}}} {
		if got, err := s.filter(nil); err == nil {
			t.Errorf("%+v: %s", s, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"": 1<<63 - 1, "1": 1, "500K": 500 << 10, "100M": 100 << 20, "2G": 2 << 30} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"0", "-1", "K", "3X", "1.5G", "9999999999999G"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// Where nothing can be watched, and where nobody answers, the reader learns it.
func TestWatchRefused(t *testing.T) {
	socket := daemon(t)
	for _, command := range []string{"monitor", "capture -w /dev/null"} {
		if got := run(t, socket, strings.Fields(command)...); got != "!there are no packets to watch here" {
			t.Errorf("%s: %s", command, got)
		}
		if got := run(t, socket+"-none", strings.Fields(command)...); !strings.Contains(got, "is natlessd running") {
			t.Errorf("%s: %s", command, got)
		}
	}
}

func TestWatchCompletion(t *testing.T) {
	socket := daemon(t)
	complete := func(words ...string) string {
		root := newRoot(&options{})
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(new(bytes.Buffer))
		root.SetArgs(append([]string{"__complete", "--socket", socket}, words...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for _, command := range []string{"monitor", "capture"} {
		if got := complete(command, "--workload", ""); !strings.HasPrefix(got, "ns/web\t") {
			t.Error(got)
		}
		if got := complete(command, "--reason", "port-"); !strings.Contains(got, "port-outside-set\nport-unassigned\n") {
			t.Error(got)
		}
		if d := cmp.Diff("6to4\n4to6\n4to4\n:4\n", complete(command, "--direction", "")); d != "" {
			t.Error(d)
		}
	}
}

// Who interrupts before an answer is told that, and not that the daemon is at fault.
func TestInterrupted(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "silent.sock")
	silent, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, command := range []string{"monitor", "capture -w /dev/null", "status", "workloads", "top"} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		root := newRoot(&options{})
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SetArgs(append(strings.Fields(command), "--socket", socket))
		err := root.ExecuteContext(ctx)
		if err == nil || !strings.HasPrefix(advise(socket, err).Error(), "interrupted before natlessd answered on "+socket) || strings.Contains(advise(socket, err).Error(), "alive") {
			t.Errorf("%s: %v", command, err)
		}
	}
}
