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
	return strings.Fields(string(out))[0] // behind it stands the one of natless-fleet
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

var apt = []string{"apt-get", "--yes", "--quiet"}

// dnf is asked for nothing that a repository has: none of a distribution with rpm is
// reached.
var dnf = []string{"dnf", "--assumeyes", "--disablerepo=*"}

// managers are those that run in a Debian. rpm and dnf are Debian's own builds, with a
// database of their own, and a package that stands for what a distribution has (see
// distribution): what is proven is the package and its scripts, not SELinux.
var managers = []manager{
	{format: "deb", newer: "natless_*_amd64.deb", install: append(apt, "install"), back: append(apt, "install", "--allow-downgrades"), remove: append(apt, "remove", "natless"),
		purge: append(apt, "purge", "natless"), plugin: "/usr/lib/cni/natless-cni", written: written("deb"),
		query: []string{"dpkg-query", "-W", "-f", "${Version}", "natless"}},
	{format: "rpm", newer: "natless-[0-9]*.x86_64.rpm", install: append(dnf, "install"), back: append(dnf, "downgrade"), remove: append(dnf, "remove", "natless"),
		plugin: "/usr/libexec/cni/natless-cni", written: written("rpm"), query: []string{"rpm", "-q", "--qf", "%{VERSION}", "natless"}},
}

// distribution installs what a distribution with rpm has of what the package needs, and
// sees that it is needed.
func distribution(t *testing.T, m *machine, natless string) {
	t.Helper()
	out, err := m.command("dnf", append(dnf[1:], "install", natless)...).CombinedOutput()
	for _, needed := range []string{"/bin/sh", "shadow-utils"} {
		if err == nil || !strings.Contains(string(out), "nothing provides "+needed) {
			t.Errorf("without %s: %v\n%s", needed, err, out)
		}
	}
	to := t.TempDir()
	config := to + "/nfpm.yaml"
	text := "{name: distribution, arch: all, platform: linux, version: 1.0.0, provides: [/bin/sh, shadow-utils], description: stands for what a distribution has}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "tool", "-modfile=tests/tools/go.mod", "nfpm", "package", "--config", config, "--packager", "rpm", "--target", to+"/distribution.rpm")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m.run("rpm", "--force-debian", "--install", m.put(to+"/distribution.rpm"))
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
	if p.format == "rpm" {
		distribution(t, m, old)
	}
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
