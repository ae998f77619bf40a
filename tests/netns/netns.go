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

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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
// test ends. No program is started for it: tests make hundreds.
func New(t testing.TB, name string) *NS {
	t.Helper()
	Require(t, Root, "ip", "sysctl")
	real := fmt.Sprintf("natless-%d-%d-%s", os.Getpid(), counter.Add(1), name)
	ns := &NS{t: t, Name: real, Path: "/run/netns/" + real}
	if err := shareMount(); err != nil {
		t.Fatalf("/run/netns: %v", err)
	}
	if err := onThrownThread(func() error { return create(real) }); err != nil {
		t.Fatalf("make namespace %s: %v", real, err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteNamed(real); err != nil {
			t.Errorf("remove namespace %s: %v", real, err)
		}
	})
	return ns
}

// At is a namespace that somebody else made and removes, a container engine's.
func At(t testing.TB, name, path string) *NS { return &NS{t: t, Name: name, Path: path} }

// create leaves the calling thread in a new namespace with that name.
func create(name string) error {
	handle, err := netns.NewNamed(name)
	if err != nil {
		return err
	}
	defer handle.Close()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, which := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
	}
	return nil
}

// shareMount makes /run/netns what ip netns add makes of it: a mount whose
// changes reach those who have a view of the file system of their own. Without
// it a namespace lives as long as they do.
var shareMount = sync.OnceValue(func() error {
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	err := unix.Mount("", "/run/netns", "none", unix.MS_SHARED|unix.MS_REC, "")
	if err != unix.EINVAL { // it is a mount already
		return err
	}
	if err := unix.Mount("/run/netns", "/run/netns", "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", "/run/netns", "none", unix.MS_SHARED|unix.MS_REC, "")
})

// onThrownThread runs f on a thread that ends with it, so that it may leave its
// namespace and not come back.
func onThrownThread(f func() error) error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		failed <- f()
	}()
	return <-failed
}

// Do runs f on a thread inside the namespace and waits for it. Sockets and
// files that f opens stay in the namespace; goroutines that f starts do not.
// f must not call t.FailNow.
func (ns *NS) Do(f func()) {
	ns.t.Helper()
	err := ns.enter(func() error { f(); return nil })
	if err != nil {
		ns.t.Fatalf("enter namespace %s: %v", ns.Name, err)
	}
}

func (ns *NS) enter(f func() error) error {
	return onThrownThread(func() error {
		handle, err := netns.GetFromPath(ns.Path)
		if err != nil {
			return err
		}
		defer handle.Close()
		if err := netns.Set(handle); err != nil {
			return err
		}
		return f()
	})
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
	cmd := exec.Command(name, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := ns.enter(cmd.Run); err != nil { // a child is where the thread is that starts it: that saves nsenter
		ns.t.Fatalf("in %s: %s %s: %v\n%s%s", ns.Name, name, strings.Join(args, " "), err, &out, &said)
	}
	return strings.TrimSpace(out.String())
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
	err := a.enter(func() error {
		other, err := netns.GetFromPath(b.Path)
		if err != nil {
			return err
		}
		defer other.Close()
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(other)}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		return netlink.LinkSetUp(pair)
	})
	if err == nil {
		err = b.enter(func() error {
			peer, err := netlink.LinkByName(nameB)
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(peer)
		})
	}
	if err != nil {
		t.Fatalf("join %s of %s and %s of %s: %v", nameA, a.Name, nameB, b.Name, err)
	}
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
