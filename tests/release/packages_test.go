//go:build linux

package release

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

const older = "0.0.9"

// olderPackage is a package of the same programs and of an older version.
func olderPackage(t *testing.T, format string) string {
	t.Helper()
	bin := filepath.Join(unpack(t, file(t, "natless-*-linux-amd64.tar.gz")), "natless-"+version(t)+"-linux-amd64")
	to := t.TempDir()
	cmd := exec.Command("config/deploy/packages/build", bin, to, older, "amd64", format)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOFLAGS=-buildvcs=false")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// manager is how a distribution's packages come and go.
type manager struct {
	format, newer string // the release's file
	install, back []string
	remove        []string
	plugin        string
	purge         []string
	written       func(t *testing.T, semantic string) string
	query         []string
}

func written(format string) func(t *testing.T, semantic string) string {
	return func(t *testing.T, semantic string) string {
		t.Helper()
		cmd := exec.Command("config/deploy/release/version", format, semantic)
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
}

// managers are those that run in a Debian. rpm is Debian's own build of it, in a Debian:
// no registry of a distribution with rpm is reached, so what is proven is the package
// and its scripts, not its dependencies' names.
var managers = []manager{
	{format: "deb", newer: "natless_*_amd64.deb", install: []string{"dpkg", "-i"}, back: []string{"dpkg", "-i", "--force-downgrade"}, remove: []string{"dpkg", "-r", "natless"},
		purge: []string{"dpkg", "-P", "natless"}, plugin: "/usr/lib/cni/natless-cni", written: written("deb"),
		query: []string{"dpkg-query", "-W", "-f", "${Version}", "natless"}},
	{format: "rpm", newer: "natless-*.x86_64.rpm", install: []string{"rpm", "--force-debian", "--nodeps", "-U"}, back: []string{"rpm", "--force-debian", "--nodeps", "-U", "--oldpackage"},
		remove: []string{"rpm", "--force-debian", "-e", "natless"}, plugin: "/usr/libexec/cni/natless-cni", written: written("rpm"),
		query: []string{"rpm", "-q", "--qf", "%{VERSION}", "natless"}},
}

// TestPackages: each is installed, upgraded, rolled back and removed, with a systemd that
// runs and without; a daemon that runs goes on as the other version, and keeps what it
// has assigned.
func TestPackages(t *testing.T) {
	for _, p := range managers {
		for _, systemd := range []bool{true, false} {
			name := p.format + "/without systemd"
			if systemd {
				name = p.format + "/systemd"
			}
			t.Run(name, func(t *testing.T) {
				netns.Require(t, netns.Root)
				newer, old := file(t, p.newer), olderPackage(t, p.format)
				m := newMachine(t)
				m.boot(systemd)
				p.lives(t, m, m.put(old), m.put(newer), systemd)
			})
		}
	}
}

const configuration = `prefix: 64:ff9b::/96
addresses: {ipv4: 192.0.2.1, ipv6: "2001:db8::1"}
pools: [{name: default, ipv4: 198.51.100.0/30, ports_per_workload: 1024}]
`

func (p *manager) lives(t *testing.T, m *machine, old, newer string, systemd bool) {
	m.run("mkdir", "-p", "/opt/cni/bin")
	m.run(p.install[0], append(p.install[1:], old)...)
	p.is(t, m, older)
	for _, path := range []string{"/usr/sbin/natlessd", "/usr/bin/natless", p.plugin, "/opt/cni/bin/natless-cni", "/usr/lib/systemd/system/natlessd.service", "/usr/share/man/man8/natlessd.8.gz"} {
		if !m.has(path) {
			t.Errorf("not installed: %s", path)
		}
	}
	if out := m.run("getent", "group", "natless"); out == "" {
		t.Error("there is no group natless")
	}
	// rpm's asks the distribution's presets, and Debian's enable everything.
	if !m.has("/etc/systemd/system/multi-user.target.wants/natlessd.service") {
		t.Error("the unit is not enabled")
	}
	m.write("/etc/natless/natless.yaml", configuration)
	process := ""
	if systemd {
		if state, _ := m.command("systemctl", "is-active", "natlessd").Output(); strings.TrimSpace(string(state)) == "active" {
			t.Error("it runs without a configuration")
		}
		m.run("systemctl", "start", "natlessd")
		process = p.serves(t, m, "")
		m.run("natless", "drain", "--pool", "default") // what must be there afterwards
	}

	m.run(p.install[0], append(p.install[1:], newer)...)
	p.is(t, m, version(t))
	if systemd {
		process = p.serves(t, m, process)
	}
	m.run(p.back[0], append(p.back[1:], old)...)
	p.is(t, m, older)
	if systemd {
		p.serves(t, m, process)
		if out := m.run("natless", "pools"); !strings.Contains(out, "drained since") {
			t.Errorf("what the older daemon was told is gone:\n%s", out)
		}
	}
	p.goes(t, m, systemd)
}

// is: that version is installed.
func (p *manager) is(t *testing.T, m *machine, semantic string) {
	t.Helper()
	if got, want := m.run(p.query[0], p.query[1:]...), p.written(t, semantic); got != want {
		t.Errorf("installed is %s, want %s", got, want)
	}
}

// serves waits until natlessd is ready as another process than the last, whose device is
// there, and gives the process.
func (p *manager) serves(t *testing.T, m *machine, last string) string {
	t.Helper()
	process := ""
	m.until("natlessd is ready, as another process than "+last, func() bool {
		out, _ := m.command("systemctl", "show", "natlessd", "--property", "MainPID", "--value").Output()
		process = strings.TrimSpace(string(out))
		return process != "0" && process != last && m.command("natless", "status", "--ready").Run() == nil
	})
	m.run("ip", "link", "show", "natless0")
	return process
}

// goes: a removal stops the daemon, which takes out of the kernel what it made, and
// leaves what an administrator wrote; a purge, where there is one, leaves nothing.
func (p *manager) goes(t *testing.T, m *machine, systemd bool) {
	t.Helper()
	m.run(p.remove[0], p.remove[1:]...)
	for _, path := range []string{"/usr/sbin/natlessd", "/usr/bin/natless", p.plugin, "/opt/cni/bin/natless-cni", "/usr/lib/systemd/system/natlessd.service"} {
		if m.has(path) {
			t.Errorf("left by remove: %s", path)
		}
	}
	if !m.has("/etc/natless/natless.yaml") {
		t.Error("the configuration went with the programs")
	}
	if systemd {
		m.until("nothing of natlessd is in the kernel", func() bool {
			link := m.command("ip", "link", "show", "natless0").Run()
			rules, err := m.command("nft", "list", "ruleset").Output()
			return link != nil && err == nil && !strings.Contains(string(rules), "natless")
		})
		if out, _ := m.command("pgrep", "natlessd").Output(); len(out) > 0 {
			t.Errorf("natlessd runs still: %s", out)
		}
		if out := m.run("systemctl", "list-units", "--failed", "--plain", "--no-legend"); out != "" {
			t.Errorf("failed: %s", out)
		}
	}
	if p.purge == nil {
		return
	}
	m.run(p.purge[0], p.purge[1:]...)
	left, _ := exec.Command("find", m.dir, "-xdev", "-name", "*natless*", "-not", "-path", "*/srv/*", "-not", "-path", "*/var/log/*", "-not", "-path", "*/var/lib/dpkg/*").Output()
	if len(left) > 0 {
		t.Errorf("left by purge:\n%s", left)
	}
}

// TestVersionsSort: a later version is greater by rpm's rules, too.
func TestVersionsSort(t *testing.T) {
	netns.Require(t, "rpm")
	last := "0~"
	for _, semantic := range []string{"0.9.0-alpha.9+gfedcba9", "0.9.0-alpha.581+gabcdef0", "0.9.0-beta.1", "0.9.0-rc.1", "0.9.0-rc.2", "0.9.0", "0.9.1-alpha.582", "0.10.0"} {
		next := written("rpm")(t, semantic)
		out, err := exec.Command("rpm", "--eval", fmt.Sprintf(`%%{lua: print(rpm.vercmp("%s", "%s"))}`, last, next)).Output()
		if err != nil || strings.TrimSpace(string(out)) != "-1" {
			t.Errorf("%s before %s: %v %s", last, next, err, out)
		}
		last = next
	}
}

// TestAPK: no Alpine is reached, so the form is all that is held: what is in it, its
// version, and scripts that a plain shell takes.
func TestAPK(t *testing.T) {
	dir := unpack(t, file(t, "natless_*_x86_64.apk"))
	info, err := os.ReadFile(dir + "/.PKGINFO")
	if err != nil || !strings.Contains(string(info), "pkgver = "+written("apk")(t, version(t))+"\n") || !strings.Contains(string(info), "arch = x86_64\n") {
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
