//go:build linux

// Package daemon builds the project's programs and runs natlessd in a test's
// network namespace, as systemd would: it waits for READY=1 and stops it with
// SIGTERM. Nothing but tests may use it.
package daemon

import (
	"cmp"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
	"github.com/natless/natless/tests/systemd"
)

// Daemon is a running natlessd.
type Daemon struct {
	t      testing.TB
	ns     *netns.NS
	Dir    string // holds the configuration, the registry and the socket
	Config string // path of the configuration
	Socket string
	Flags  []string // more than --config FILE
	Env    []string // more than the test's own
	// Patience is how long it may take to be ready; 0: a minute, on a machine that does
	// much besides.
	Patience time.Duration
	cmd      *exec.Cmd
	manager  *systemd.Manager
	exited   chan struct{}
	log      output.Buffer
}

// New writes a configuration for a daemon in ns. It gets api and registry keys
// that point into a folder of its own unless it has them. Start starts it.
func New(t testing.TB, ns *netns.NS, config string) *Daemon {
	t.Helper()
	d := &Daemon{t: t, ns: ns, Dir: t.TempDir()}
	d.Config, d.Socket = filepath.Join(d.Dir, "natless.yaml"), filepath.Join(d.Dir, "natless.sock")
	d.Write(config)
	return d
}

// Start writes the configuration and starts a daemon with it.
func Start(t testing.TB, ns *netns.NS, config string) *Daemon {
	t.Helper()
	d := New(t, ns, config)
	d.Start()
	return d
}

// FastPath is whether configurations of tests use the kernel fast path, where
// they do not say: what NATLESS_FAST_PATH says (auto, off or required), or auto.
func FastPath() string { return cmp.Or(os.Getenv("NATLESS_FAST_PATH"), "auto") }

// OnePath is for a test that the fast path can change nothing of, for that
// reason: it runs with the fast path, and not a second time without it.
func OnePath(t testing.TB, why string) {
	t.Helper()
	if FastPath() == "off" {
		t.Skip("has run with the fast path: " + why)
	}
}

// patience is that of a machine that is slow, as NATLESS_PATIENCE says: 10m.
func patience() time.Duration {
	d, _ := time.ParseDuration(os.Getenv("NATLESS_PATIENCE"))
	return d
}

// Write replaces the configuration, to be reloaded or started with.
func (d *Daemon) Write(config string) {
	d.t.Helper()
	if !strings.Contains(config, "api:") {
		config += fmt.Sprintf("\napi: {socket: %s}\n", d.Socket)
	}
	if !strings.Contains(config, "registry:") {
		config += fmt.Sprintf("\nregistry: {path: %s}\n", filepath.Join(d.Dir, "registry.db"))
	}
	if !strings.Contains(config, "fast_path:") {
		config += fmt.Sprintf("\nfast_path: %s\n", FastPath())
	}
	if err := os.WriteFile(d.Config, []byte(config), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// Start runs natlessd and returns when it says that it is ready. It is stopped
// when the test ends, and its log shown when the test failed.
func (d *Daemon) Start() {
	d.t.Helper()
	bin := Build(d.t)
	if d.manager == nil {
		var err error
		if d.manager, err = systemd.Listen(filepath.Join(d.t.TempDir(), "notify")); err != nil {
			d.t.Fatal(err)
		}
		d.t.Cleanup(d.manager.Close)
	}
	// The shell becomes the daemon, whose process id LISTEN_PID is.
	d.cmd = d.ns.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, filepath.Join(bin, "natlessd"), "--config", d.Config)
	d.cmd.Args = append(d.cmd.Args, d.Flags...)
	var env []string
	d.cmd.ExtraFiles, env = d.manager.Start()
	d.cmd.Env = append(append(os.Environ(), env...), d.Env...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := netns.Start(d.cmd); err != nil {
		d.t.Fatal(err)
	}
	cmd, exited := d.cmd, make(chan struct{})
	d.exited = exited
	go func() { cmd.Wait(); close(exited) }()
	d.t.Cleanup(func() {
		d.end(syscall.SIGTERM)
		if d.t.Failed() {
			d.t.Logf("natlessd:\n%s", d.Log())
		}
	})
	select {
	case <-d.manager.Ready():
	case <-exited:
		d.t.Fatalf("natlessd ended and was not ready\n%s", d.Log())
	case <-time.After(cmp.Or(d.Patience, patience(), time.Minute)):
		d.Signal(syscall.SIGQUIT) // which shows what it does
		select {
		case <-exited:
		case <-time.After(5 * time.Second):
		}
		d.t.Fatalf("natlessd did not become ready\n%s", d.Log())
	}
}

// Notified is how often the daemon told its service manager something with
// that text.
func (d *Daemon) Notified(text string) int { return d.manager.Count(text) }

// Longest is the longest that its service manager has waited for something with that
// text since the daemon was ready.
func (d *Daemon) Longest(text string) time.Duration { return d.manager.Longest(text) }

// Release closes the descriptors that the daemon left with its service manager,
// as systemd does when it stops the unit for good.
func (d *Daemon) Release() { d.manager.Release() }

// Stop ends the daemon as systemd does and waits for it.
func (d *Daemon) Stop() { d.t.Helper(); d.end(syscall.SIGTERM) }

// Kill ends it without giving it a chance, and waits for it.
func (d *Daemon) Kill() { d.t.Helper(); d.end(syscall.SIGKILL) }

func (d *Daemon) end(sig syscall.Signal) {
	d.t.Helper()
	select {
	case <-d.exited:
		return
	default:
	}
	d.cmd.Process.Signal(sig)
	select {
	case <-d.exited:
	case <-time.After(30 * time.Second):
		d.t.Errorf("natlessd is still there 30 s after %v", sig)
		d.cmd.Process.Kill()
		<-d.exited
	}
}

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Signal sends it a signal, such as SIGHUP to reload.
func (d *Daemon) Signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
}

// Client talks to it.
func (d *Daemon) Client() *api.Client { return api.NewClient(d.Socket) }

// Whois is what its page says of an address, where the configuration has metrics at [::1]:9464.
func (d *Daemon) Whois(asked string) string {
	d.t.Helper()
	out, err := d.ns.Command("curl", "-sS", "-G", "--max-time", "20", "--data-urlencode", "address="+asked, "http://[::1]:9464/whois").CombinedOutput()
	if err != nil {
		d.t.Errorf("the page's whois of %s: %v, %s", asked, err, out)
	}
	return html.UnescapeString(string(out))
}

// Log is all that it has said so far, over all its starts.
func (d *Daemon) Log() string { return d.log.String() }
