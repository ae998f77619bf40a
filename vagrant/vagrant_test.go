//go:build linux

package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// build makes what the machines get, once for all tests.
func build(t *testing.T) {
	t.Helper()
	netns.Require(t, netns.Root, "make", "ip", "nft", "sysctl", "curl", "ping", "nsenter", "unshare", "dpkg")
	if out, err := built(); err != nil {
		t.Fatalf("make vagrant-build: %v\n%s", err, out)
	}
}

var built = sync.OnceValues(func() ([]byte, error) {
	cmd := exec.Command("make", "-C", "..", "vagrant-build")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	return cmd.CombinedOutput()
})

func newLab(t *testing.T) *namespaces {
	t.Helper()
	runtime.LockOSThread() // children die with the thread that starts them
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newNamespaces(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	l.manager.log = &lines{t: t}
	t.Cleanup(func() { l.close(); runtime.UnlockOSThread() })
	return l
}

// lines are a program's output in the test's log.
type lines struct{ t *testing.T }

func (l *lines) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// TestNamespaces runs the checks of the machines, all of them, in namespaces.
func TestNamespaces(t *testing.T) {
	build(t)
	l := newLab(t)
	if !(&tester{lab: l, out: &lines{t}}).run(t.Context(), checks) {
		t.Fail()
	}
}

// TestChecksCanFail breaks what the checks are about, and wants them to notice.
func TestChecksCanFail(t *testing.T) {
	build(t)
	l, ctx := newLab(t), t.Context()
	c := &tester{lab: l, out: io.Discard}
	if !c.run(ctx, checks[:2]) {
		t.Fatal("the first checks fail")
	}
	defer c.endProbes()
	mustFail := func(what string, run func(context.Context, *tester) (string, error)) {
		t.Helper()
		note, err := run(ctx, c)
		if err == nil {
			t.Errorf("%s, and the check says ok: %s", what, note)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
	script := func(line string) {
		t.Helper()
		if _, err := sh(ctx, l, host, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.startServers(ctx); err != nil {
		t.Fatal(err)
	}
	script("ip netns exec two sysctl -qw net.ipv4.ip_local_port_range='1024 2047'")
	mustFail("container two takes the ports of one", outward)
	script("natless workloads delete lab/two")
	mustFail("container two has lost its assignment", inward)
	mustFail("container two has lost its assignment", whois)
	if err := l.service(ctx, "stop"); err != nil {
		t.Fatal(err)
	}
	mustFail("the daemon is stopped", ping)
	mustFail("the daemon is stopped", hairpin)
	mustFail("the daemon is stopped", underTraffic("start", 0))
	script("rm /var/lib/natless/registry.db*")
	mustFail("the registry is lost", reboot)
	script("touch /etc/natless.forgotten")
	mustFail("a file is left", purge)
}
