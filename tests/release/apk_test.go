//go:build linux

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// TestAPK: neither Alpine nor apk-tools is reached, so this is its form: what is in it,
// its version, and scripts that a plain shell takes.
func TestAPK(t *testing.T) {
	for arch, pattern := range map[string]string{"x86_64": "natless_*_x86_64.apk", "aarch64": "natless_*_aarch64.apk"} {
		dir := unpack(t, file(t, pattern))
		info, err := os.ReadFile(dir + "/.PKGINFO")
		if err != nil || !strings.Contains(string(info), "pkgver = "+written("apk")(t, version(t))+"\n") || !strings.Contains(string(info), "arch = "+arch+"\n") {
			t.Errorf("%v\n%s", err, info)
		}
		for _, path := range []string{"usr/sbin/natlessd", "usr/bin/natless", "usr/libexec/cni/natless-cni", "etc/init.d/natlessd"} {
			if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s: %v, %v", path, info, err)
			}
		}
		for _, script := range []string{".post-install", ".post-upgrade", ".pre-deinstall", "etc/init.d/natlessd"} {
			if out, err := exec.Command("dash", "-n", filepath.Join(dir, script)).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", script, err, out)
			}
		}
	}
}

// alpine is a machine with OpenRC and busybox's shell, of which this test is the package
// manager: it does what apk-tools does, in its order.
type alpine struct {
	*machine
	files map[string]bool // the files of the package that is installed
	at    string          // its version
	dir   string          // it, unpacked
}

// addgroup is busybox's, which Debian's build of busybox lacks.
const addgroup = "#!/bin/sh\n[ \"$1\" = -S ] && exec groupadd --system \"$2\"\n"

// network is what a host has that OpenRC brings up.
const network = "#!/sbin/openrc-run\ndepend() { provide net; }\nstart() { :; }\n"

func newAlpine(t *testing.T) *alpine {
	t.Helper()
	a := &alpine{machine: newMachine(t)}
	a.boot(false)
	a.run("sh", "-c", "rm -rf /etc/runlevels/*/*; mkdir -p /opt/cni/bin")
	for path, text := range map[string]string{"/usr/sbin/addgroup": addgroup, "/etc/init.d/network": network} {
		a.write(path, text)
		a.run("chmod", "755", path)
	}
	a.run("rc-update", "add", "network", "default")
	for _, level := range []string{"sysinit", "boot", "default"} {
		a.run("openrc", level)
	}
	return a
}

// service runs what may leave a service behind, which must not hold its output open.
func (a *alpine) service(name string, args ...string) {
	a.t.Helper()
	if err := a.command("sh", append([]string{"-c", `exec "$@" >/tmp/said 2>&1`, "sh", name}, args...)...).Run(); err != nil {
		a.t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, a.run("cat", "/tmp/said"))
	}
}

// script runs one of the package's, by the shell that Alpine has.
func (a *alpine) script(name string, args ...string) {
	a.t.Helper()
	a.service("busybox", append([]string{"sh", a.put(filepath.Join(a.dir, name))}, args...)...)
}

// install is apk add, of the first or of another version.
func (a *alpine) install(apk string) {
	a.t.Helper()
	before, was := a.files, a.at
	a.dir = unpack(a.t, apk)
	info, err := os.ReadFile(a.dir + "/.PKGINFO")
	if err != nil {
		a.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(info), "\npkgver = ")
	a.at, _, _ = strings.Cut(rest, "\n")
	if out, err := exec.Command("tar", "-xf", apk, "-C", a.machine.dir, "--exclude", "./.*", "--exclude", ".*").CombinedOutput(); err != nil {
		a.t.Fatalf("%s: %v\n%s", apk, err, out)
	}
	out, err := exec.Command("find", a.dir, "-mindepth", "2", "!", "-type", "d", "-printf", "%P\n").Output()
	if err != nil {
		a.t.Fatal(err)
	}
	a.files = map[string]bool{}
	for path := range strings.FieldsSeq(string(out)) {
		a.files[path] = true
	}
	for path := range before {
		if !a.files[path] {
			a.run("rm", "/"+path)
		}
	}
	if was == "" {
		a.script(".post-install", a.at)
	} else {
		a.script(".post-upgrade", a.at, was)
	}
}

// remove is apk del.
func (a *alpine) remove() {
	a.t.Helper()
	a.script(".pre-deinstall", a.at)
	for path := range a.files {
		a.run("rm", "/"+path)
	}
}

// serves waits until natlessd is ready as another process than the last, and gives the
// process.
func (a *alpine) serves(last string) (process string) {
	a.t.Helper()
	a.until("natlessd is ready, as another process than "+last, func() bool {
		out, _ := a.command("pgrep", "-x", "natlessd").Output()
		process = strings.TrimSpace(string(out))
		return process != "" && process != last && a.command("natless", "status", "--ready").Run() == nil
	})
	a.run("ip", "link", "show", "natless0")
	return process
}

// TestAlpine: what the package puts into a system with OpenRC works there: the service
// starts, reads its configuration again, comes back when it is killed, goes on as another
// version, and takes out of the kernel what it made.
func TestAlpine(t *testing.T) {
	netns.Require(t, netns.Root)
	newer, old := file(t, "natless_*_x86_64.apk"), olderPackage(t, "apk")
	a := newAlpine(t)
	a.install(old)
	if a.run("getent", "group", "natless") == "" || a.run("readlink", "/opt/cni/bin/natless-cni") != "/usr/libexec/cni/natless-cni\n" {
		t.Error("there is no group natless, or no plugin in /opt/cni/bin")
	}
	a.run("rc-update", "add", "natlessd", "default")
	if a.command("rc-service", "natlessd", "start").Run() == nil {
		t.Error("it starts without a configuration")
	}
	a.write("/etc/natless/natless.yaml", configuration)
	a.service("rc-service", "natlessd", "start")
	process := a.serves("")
	a.run("natless", "drain", "--pool", "default") // what must be there afterwards
	a.write("/etc/natless/natless.yaml", strings.Replace(configuration, "1024", "2048", 1))
	a.service("rc-service", "natlessd", "reload")
	a.until("the configuration is read again", func() bool {
		out, _ := a.command("natless", "pools", "-o", "json").Output()
		return strings.Contains(string(out), "2048")
	})
	a.run("pkill", "-KILL", "-x", "natlessd")
	process = a.serves(process)
	for _, apk := range []string{newer, old} { // up, and back
		a.install(apk)
		process = a.serves(process)
	}
	if out := a.run("cat", "/var/log/natlessd.log"); !strings.Contains(out, "ready") {
		t.Errorf("the log:\n%s", out)
	}
	if out := a.run("natless", "pools"); !strings.Contains(out, "drained since") {
		t.Errorf("what the older daemon was told is gone:\n%s", out)
	}
	a.remove()
	link := a.command("ip", "link", "show", "natless0").Run()
	if rules, err := a.command("nft", "list", "ruleset").Output(); link == nil || err != nil || strings.Contains(string(rules), "natless") {
		t.Errorf("left in the kernel: %v, %v\n%s", link, err, rules)
	}
	if out, _ := a.command("pgrep", "-l", "natlessd|supervise").Output(); len(out) > 0 {
		t.Errorf("runs still: %s", out)
	}
	left, _ := exec.Command("find", a.machine.dir, "-xdev", "-name", "natless*", "-not", "-path", "*/srv/*", "-not", "-path", "*/etc/natless/*", "-not", "-path", "*/var/lib/natless/*",
		"-not", "-path", "*/var/log/*", "-not", "-path", "*/etc/natless", "-not", "-path", "*/var/lib/natless", "-not", "-type", "d").Output()
	if len(left) > 0 {
		t.Errorf("left by the removal:\n%s", left)
	}
}
