//go:build linux

package relays

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// speaker is a routing daemon that announces a relay, by the example for operators.
type speaker struct {
	name, example string
	starts        func(n *network, ns *netns.NS, config string)
}

// speakers has a test done with each routing daemon.
func speakers(t *testing.T, test func(*testing.T, *network)) {
	t.Helper()
	for _, s := range []speaker{{"BIRD", "bird.conf", (*network).bird}, {"FRR", "frr.conf", (*network).frr}} {
		t.Run(s.name, func(t *testing.T) {
			if s.name == "FRR" {
				requireFRR(t)
			}
			test(t, newNetwork(t, s))
		})
	}
}

// announces has the routing daemon of a relay run. The example is the first relay's as it stands.
func (s speaker) announces(n *network, i int) {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join("../../config/deploy/relay", s.example))
	if err != nil {
		n.t.Fatal(err)
	}
	s.starts(n, n.relays[i], strings.NewReplacer("10.0.0.", fmt.Sprintf("10.0.%d.", i), "2001:db8:f0:", fmt.Sprintf("2001:db8:f%d:", i),
		"10.9.0.1", fmt.Sprintf("10.9.0.%d", i+1)).Replace(string(b)))
}

// routerBIRD goes by what relays announce, by all that are as good.
func routerBIRD(family, here, there string) string {
	text := "router id 10.9.0.9;\nprotocol device { }\nprotocol kernel { merge paths yes; " + family + " { import none; export all; }; }\n"
	for i := range 2 {
		text += fmt.Sprintf("protocol bgp relay%d { local "+here+" as 65100; neighbor "+there+" as 65001; connect retry time 1; connect delay time 1;\n"+
			"  error wait time 1,2; %s { import all; export none; }; }\n", i, i, i, family)
	}
	return text
}

// bird runs BIRD until the test ends.
func (n *network) bird(ns *netns.NS, config string) {
	n.t.Helper()
	dir := n.t.TempDir()
	n.write(dir, "bird.conf", config)
	n.speaks(ns, config, "bird", "-f", "-c", filepath.Join(dir, "bird.conf"), "-s", filepath.Join(dir, "ctl"))
}

// runFRR runs the daemons of FRR as Debian's service does, with sockets, configuration and
// what they note of their own: it has a mount and a process namespace. They end with it.
const runFRR = `set -e
mount --make-rprivate /
mount --bind $1/run /var/run/frr
mount --bind $1/etc /etc/frr
mount --bind $1/tmp /var/tmp/frr
$2/mgmtd &
until [ -S /var/run/frr/mgmtd.vty ]; do sleep 0.1; done
$2/zebra -s 90000000 &
until [ -S /var/run/frr/zserv.api ] && [ -S /var/run/frr/zebra.vty ]; do sleep 0.1; done
$2/bgpd -A 127.0.0.1 &
until [ -S /var/run/frr/bgpd.vty ]; do sleep 0.1; done
$3 -b
wait
`

// frrDir is where the daemons of FRR are; NATLESS_FRR names another folder, with vtysh.
func frrDir() (dir, vtysh string) {
	if dir := os.Getenv("NATLESS_FRR"); dir != "" {
		return dir, filepath.Join(dir, "vtysh")
	}
	return "/usr/lib/frr", "vtysh"
}

// requireFRR skips where there is no FRR that reads the IPv6 routes of a table.
func requireFRR(t *testing.T) {
	t.Helper()
	netns.Require(t, netns.Root, "unshare", "mount")
	dir, _ := frrDir()
	if _, err := user.Lookup("frr"); err != nil {
		t.Skipf("no FRR (Debian's package frr): %v", err)
	}
	out, err := exec.Command(filepath.Join(dir, "zebra"), "--version").Output()
	if err != nil {
		t.Skipf("no FRR in %s (Debian's package frr; NATLESS_FRR names another folder): %v", dir, err)
	}
	version, _, _ := strings.Cut(string(out), "\n") // zebra version 10.3
	number, _, _ := strings.Cut(strings.TrimPrefix(version, "zebra version "), ".")
	if major, err := strconv.Atoi(number); err != nil || major < 10 {
		t.Skipf("FRR 10 or later is needed, as Debian 13 has it, for table-direct of IPv6: this is %q", version)
	}
}

// frr runs FRR until the test ends.
func (n *network) frr(ns *netns.NS, config string) {
	n.t.Helper()
	dir := n.t.TempDir()
	who, err := user.Lookup("frr")
	if err != nil {
		n.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	for _, name := range []string{"run", "etc", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			n.t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, name), uid, gid); err != nil {
			n.t.Fatal(err)
		}
	}
	n.write(dir, "etc/frr.conf", config)
	n.write(dir, "etc/vtysh.conf", "")
	daemons, vtysh := frrDir()
	n.speaks(ns, config, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", runFRR, "frr", dir, daemons, vtysh)
}

func (n *network) write(dir, name, text string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// speaks runs a routing daemon until the test ends.
func (n *network) speaks(ns *netns.NS, config, name string, args ...string) {
	n.t.Helper()
	cmd := ns.Command(name, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := netns.Start(cmd); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if n.t.Failed() {
			tail := log.Bytes()
			n.t.Logf("%s of %s:\n%s%s", name, ns.Name, config, tail[max(0, len(tail)-8000):])
		}
	})
}
