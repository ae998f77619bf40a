//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// run is one demo under test.
type run struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    strings.Builder
	before string
}

func start(t *testing.T, program, bin string) *run {
	t.Helper()
	r := &run{t: t, before: rootNamespace(t)}
	r.cmd = exec.Command(program, bin)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := netns.Start(r.cmd); err != nil {
		t.Fatal(err)
	}
	return r
}

func rootNamespace(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "ip -o link | grep natless; ip route | grep natless; ip -6 route | grep natless; exit 0").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// left is what the demo left behind: folders, changes to the namespace it was
// started in, and processes, which carry the folder's name or were started
// into its namespaces.
func (r *run) left() (left []string) {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("natless-demo-%d-*", r.cmd.Process.Pid)))
	left = append(left, folders...)
	if now := rootNamespace(r.t); now != r.before {
		left = append(left, now)
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		line, _ := os.ReadFile(p)
		for _, mark := range []string{"natless-demo-%d-", "/proc/%d/fd/"} {
			if strings.Contains(string(line), fmt.Sprintf(mark, r.cmd.Process.Pid)) {
				left = append(left, p+": "+strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
	}
	return left
}

func TestDemo(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "curl", "ping", "traceroute", "iperf3", "nsenter", "sysctl")
	bin, program := daemon.Build(t), filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	// A shell starts what runs in its background with interrupts ignored, which
	// programs inherit; not those that this process listens to.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)

	t.Run("whole", func(t *testing.T) {
		r := start(t, program, bin)
		err := r.cmd.Wait()
		if err != nil || strings.Count(r.out.String(), " ok  ") != len(steps) {
			t.Errorf("%v\n%s", err, &r.out)
		}
		if left := r.left(); left != nil {
			t.Errorf("left behind: %q", left)
		}
	})
	for i, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		for _, after := range []time.Duration{20, 60, 150, 300, 800, 3000} {
			t.Run(fmt.Sprintf("%v after %d ms", sig, after), func(t *testing.T) {
				r := start(t, program, bin)
				after += time.Duration(37 * i)
				time.Sleep(after * time.Millisecond)
				r.cmd.Process.Signal(sig)
				r.cmd.Wait()
				if left := r.left(); left != nil {
					t.Errorf("left behind: %q\n%s", left, &r.out)
				}
				if code := r.cmd.ProcessState.ExitCode(); code != 130 && !(code == -1 && r.out.Len() == 0) { // before it listens to signals it says nothing
					t.Errorf("exit status %d\n%s", code, &r.out)
				}
			})
		}
	}
	t.Run("natlessd killed", func(t *testing.T) {
		r := start(t, program, bin)
		time.Sleep(2 * time.Second)
		out, err := exec.Command("pgrep", "-P", fmt.Sprint(r.cmd.Process.Pid), "-x", "natlessd").Output()
		var pid int
		if fmt.Sscan(string(out), &pid); pid == 0 {
			t.Fatalf("no natlessd: %v\n%s", err, &r.out)
		}
		syscall.Kill(pid, syscall.SIGKILL)
		time.AfterFunc(time.Second, func() { r.cmd.Process.Signal(os.Interrupt) })
		r.cmd.Wait()
		if left := r.left(); left != nil {
			t.Errorf("left behind: %q\n%s", left, &r.out)
		}
	})
	t.Run("killed itself", func(t *testing.T) {
		r := start(t, program, bin)
		time.Sleep(2 * time.Second)
		r.cmd.Process.Kill()
		r.cmd.Wait()
		time.Sleep(200 * time.Millisecond)
		for _, left := range r.left() {
			if !strings.Contains(left, os.TempDir()) || strings.HasPrefix(left, "/proc") { // the folder goes with the next demo
				t.Errorf("left behind: %q", left)
			}
		}
		folder()
		if left := r.left(); left != nil {
			t.Errorf("left behind for the next demo: %q", left)
		}
	})
}
