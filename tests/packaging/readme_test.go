//go:build linux

package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// systemctl stands in for systemd, which a namespace has not: it runs the
// command line of the installed unit and waits until the daemon answers.
const systemctl = `#!/bin/sh
[ "$1 $2" = "restart natlessd" ] || exit 0 # of the package's own scripts
command=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/natlessd.service)
$command >/tmp/natlessd.log 2>&1 &
echo $! >/tmp/natlessd.pid
for i in $(seq 200); do
	natless status 2>/dev/null | grep -q '^natlessd *ready' && exit 0
	sleep 0.1
done
cat /tmp/natlessd.log
exit 1
`

// The README's commands are run as they stand there, but for make deb, which
// the test has done; then a workload reaches IPv4.
func TestQuickStart(t *testing.T) {
	netns.Require(t, netns.Root, "dpkg", "apt", "chroot", "ping")
	if _, err := os.Stat("/etc/natless"); err == nil {
		t.Skip("natless is installed on this machine: purge it to run this test")
	}
	commands, done := strings.CutPrefix(quickStart(t), "make deb\n")
	if !done {
		t.Fatalf("the quick start does not begin with make deb:\n%s", commands)
	}
	workload, host, server := netns.New(t, "workload"), netns.New(t, "host"), netns.New(t, "server")
	netns.Veth(t, workload, "eth0", host, "workload")
	netns.Veth(t, host, "eth0", server, "eth0")
	workload.IP("addr add 2001:db8:6::2/64 dev eth0")
	host.IP("addr add 2001:db8:6::1/64 dev workload")
	host.IP("addr add 192.0.2.9/24 dev eth0")
	server.IP("addr add 192.0.2.2/24 dev eth0")
	workload.IP("route add default via 2001:db8:6::1")
	server.IP("route add default via 192.0.2.9")
	// The well-known prefix is for global addresses (RFC 6052 3.1).
	server.IP("addr add 9.9.9.9/32 dev lo")
	host.IP("route add 9.9.9.9 via 192.0.2.2")

	r := newRoot(t)
	dist := filepath.Join(r.dir, "tmp/dist")
	if err := os.Mkdir(dist, 0o755); err != nil {
		t.Fatal(err)
	}
	r.put(build(t, "0.0.1", "none"))
	packages, _ := filepath.Glob(filepath.Join(r.dir, "tmp/natless_*.deb"))
	for _, p := range packages {
		if err := os.Rename(p, filepath.Join(dist, filepath.Base(p))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir, "usr/local/sbin/systemctl"), []byte(systemctl), 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(r.dir, "tmp/quickstart")
	if err := os.WriteFile(script, []byte(commands), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := host.Command("chroot", r.dir, "bash", "-eux", "-c", "cd /tmp && . ./quickstart")
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	t.Cleanup(func() {
		if pid, err := os.ReadFile(filepath.Join(r.dir, "tmp/natlessd.pid")); err == nil {
			exec.Command("kill", strings.TrimSpace(string(pid))).Run()
		}
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "nothing wrong") || !strings.Contains(string(out), "ready") {
		t.Errorf("natlessd --check and natless status say\n%s", out)
	}
	workload.Run("ping", "-n", "-c", "2", "-W", "2", "64:ff9b::9.9.9.9")
	server.Run("ping", "-n", "-c", "2", "-W", "2", "-I", "9.9.9.9", "198.51.100.2")
}

// quickStart is the block of commands in the README that has make deb in it.
func quickStart(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(string(readme), "\n\n") {
		if !strings.HasPrefix(block, "    make deb\n") {
			continue
		}
		var commands strings.Builder
		for line := range strings.Lines(block) {
			fmt.Fprintln(&commands, strings.TrimSuffix(strings.TrimPrefix(line, "    "), "\n"))
		}
		return commands.String()
	}
	t.Fatal("README.md has no block that begins with make deb")
	return ""
}
