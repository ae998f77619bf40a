//go:build linux

// Package netns makes network namespaces for tests, runs code and programs in
// them and removes them. A thread that entered a namespace is thrown away, so
// that no other goroutine can find itself there. Nothing but tests may use it.
package netns

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
)

var counter atomic.Uint32

// NS is one network namespace. Path can be given to nsenter --net.
type NS struct {
	t    testing.TB
	Name string
	Path string
}

// New makes a namespace whose real name starts with "natless-" and ends with
// name, with loopback up and no duplicate address detection, removed when the
// test ends.
func New(t testing.TB, name string) *NS {
	t.Helper()
	Require(t, Root, "ip", "sysctl")
	real := fmt.Sprintf("natless-%d-%d-%s", os.Getpid(), counter.Add(1), name)
	ns := &NS{t: t, Name: real, Path: "/run/netns/" + real}
	run(t, "ip", "netns", "add", real)
	t.Cleanup(func() { run(t, "ip", "netns", "del", real) })
	ns.Run("ip", "link", "set", "lo", "up")
	ns.Run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
	return ns
}

// Do runs f on a thread inside the namespace and waits for it. Sockets and
// files that f opens stay in the namespace; goroutines that f starts do not.
// f must not call t.FailNow.
func (ns *NS) Do(f func()) {
	ns.t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		handle, err := netns.GetFromPath(ns.Path)
		if err == nil {
			err = netns.Set(handle)
			handle.Close()
		}
		if err == nil {
			f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		ns.t.Fatalf("enter namespace %s: %v", ns.Name, err)
	}
}

// Command is a program to be run in the namespace, with the host's /sys and
// cgroups (ip netns exec would hide them).
func (ns *NS) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + ns.Path, name}, args...)...)
}

// CommandContext is Command, killed when ctx is done.
func (ns *NS) CommandContext(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + ns.Path, name}, args...)...)
}

// Run runs a program in the namespace, fails the test when it fails, and
// returns its standard output, trimmed. What it says besides, such as ip about
// another test's namespace that has just gone, is for people.
func (ns *NS) Run(name string, args ...string) string {
	ns.t.Helper()
	cmd := ns.Command(name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		ns.t.Fatalf("in %s: %s %s: %v\n%s%s", ns.Name, name, strings.Join(args, " "), err, out, &said)
	}
	return strings.TrimSpace(string(out))
}

// IP is Run("ip", …) with the arguments in one string. An IPv6 address that it
// adds can be used at once: without nodad it is tentative for a moment even
// where no duplicate is looked for, and who connects in that moment does so
// from ::1.
func (ns *NS) IP(args string) string {
	ns.t.Helper()
	words := strings.Fields(args)
	if strings.HasPrefix(args, "addr add ") && strings.Contains(args, ":") {
		words = append(words, "nodad")
	}
	return ns.Run("ip", words...)
}

// Veth joins two namespaces with a pair of devices, both up.
func Veth(t testing.TB, a *NS, nameA string, b *NS, nameB string) {
	t.Helper()
	run(t, "ip", "link", "add", nameA, "netns", a.Name, "type", "veth", "peer", "name", nameB, "netns", b.Name)
	a.Run("ip", "link", "set", nameA, "up")
	b.Run("ip", "link", "set", nameB, "up")
}

// Start starts a program that is killed when this process dies. The kernel
// counts the death of the thread that started it, and threads that were in a
// namespace are thrown away: so one that never ends does it.
func Start(cmd *exec.Cmd) error {
	startOnce.Do(func() { go starter() })
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error)
	toStart <- func() { result <- cmd.Start() }
	return <-result
}

var (
	startOnce sync.Once
	toStart   = make(chan func())
)

func starter() {
	runtime.LockOSThread()
	for start := range toStart {
		start()
	}
}

// Root asks Require for root.
const Root = "root"

// Require skips the test when it lacks root or a program, with the remedy; in
// CI (CI=true) and under make test (NATLESS_REQUIRE=1) it fails instead.
func Require(t testing.TB, what ...string) {
	t.Helper()
	var missing []string
	for _, w := range what {
		if w == Root {
			if os.Geteuid() != 0 {
				missing = append(missing, "root (run as root)")
			}
		} else if _, err := exec.LookPath(w); err != nil {
			missing = append(missing, w+" (run make test, which installs it)")
		}
	}
	if missing == nil {
		return
	}
	why := "this test needs " + strings.Join(missing, ", ")
	if os.Getenv("CI") == "true" || os.Getenv("NATLESS_REQUIRE") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
