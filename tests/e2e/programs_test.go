//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

func TestPing(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "ping")
	n := newTopology(t)
	for _, way := range []struct {
		from *netns.NS
		args string
	}{
		{n.w1, serverv6},
		{n.w1, farv6 + " -s 3000"}, // fragments of echo messages cannot be translated, and
		{n.w1, "2001:db8:64::c633:6403"},
		{n.server, workload1v4},
		{n.server, workload2v4 + " -s 1300"},
	} {
		out, err := way.from.Command("ping", strings.Fields("-n -c 5 -i 0.05 -W 1 "+way.args)...).CombinedOutput()
		got := strings.Contains(string(out), "5 received, 0% packet loss")
		if want := !strings.Contains(way.args, "3000"); got != want {
			t.Errorf("ping %s: answered %v, want %v: %v\n%s", way.args, got, want, err, out)
		}
	}
}

// The translator is a hop in both directions, and hops of the other family
// have addresses that tell which they are. Where the kernel translates, the host
// is one hop, where the way through the daemon has three.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "traceroute")
	n := newTopology(t)
	for _, test := range []struct {
		from *netns.NS
		to   string
		want []string
	}{
		{n.w1, farv6, []string{"2001:db8:6::1", own6, "2001:db8:64::c000:201", serverv6, "2001:db8:64::c000:302", farv6}},
		{n.far, workload2v4, []string{"203.0.113.1", "192.0.3.1", "192.0.2.1", own4, own4, own4, workload2v4}}, // the host's IPv6 side and gate have no IPv4 address (RFC 6791)
	} {
		if daemon.FastPath() != "off" {
			hop := slices.IndexFunc(test.want, func(hop string) bool { return hop == own4 || hop == own6 })
			test.want = slices.Delete(test.want, hop, hop+2)
		}
		for _, probe := range []string{"-U", "-I", "-T"} {
			out := test.from.Run("traceroute", "-n", probe, "-q", "1", "-w", "1", "-N", "1", test.to)
			var hops []string
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); len(f) > 1 && f[0] != "traceroute" {
					hops = append(hops, f[1])
				}
			}
			if strings.Join(hops, " ") != strings.Join(test.want, " ") {
				t.Errorf("traceroute %s %s: got %v, want %v\n%s", probe, test.to, hops, test.want, out)
			}
		}
	}
}

func TestIperf(t *testing.T) {
	netns.Require(t, netns.Root, "iperf3")
	n := newTopology(t)
	for name, way := range map[string]struct {
		from, to *netns.NS
		address  string
	}{
		"6→4": {n.w1, n.server, serverv6},
		"4→6": {n.server, n.w1, workload1v4},
	} {
		start(t, way.to.Command("iperf3", "-s", "--forceflush"), "Server listening")
		for _, args := range []string{"-n 32M", "-n 32M -P 4", "-n 32M -R", "-u -b 40M -n 2M -l 1200", "-u -b 40M -n 2M -l 1200 -R", "-u -b 40M -n 2M -l 8000", "-u -b 40M -n 2M -l 8000 -R"} {
			// The receiver loses what it is not given a processor for: the best try counts.
			var got iperfSum
			for range 5 {
				if got = iperf(t, name, way.from, "-J -c "+way.address+" "+args); got.LostPercent <= 20 {
					break
				}
			}
			if got.Bytes < 1<<20 || got.LostPercent > 20 {
				t.Errorf("%s iperf3 %s: %+v", name, args, got)
			}
		}
	}
}

// iperf runs the client and gives what its server received.
func iperf(t *testing.T, name string, from *netns.NS, args string) iperfSum {
	t.Helper()
	out, err := from.Command("iperf3", strings.Fields(args)...).Output() // warnings go to stderr
	if err != nil {
		t.Fatalf("%s iperf3 %s: %v\n%s", name, args, err, out)
	}
	var r struct {
		End struct {
			Sum         iperfSum
			SumReceived iperfSum `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	s := r.End.SumReceived
	if strings.Contains(args, "-u") {
		s = r.End.Sum
	}
	t.Logf("%s iperf3 %s: %.0f Mb/s, %.2f %% lost", name, args, s.BitsPerSecond/1e6, s.LostPercent)
	return s
}

type iperfSum struct {
	Bytes         float64
	BitsPerSecond float64 `json:"bits_per_second"`
	LostPercent   float64 `json:"lost_percent"`
}

// start runs a server until the test ends; it returns when ready is in its
// output.
func start(t testing.TB, cmd *exec.Cmd, ready string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	output := func() string { out, _ := os.ReadFile(log.Name()); return string(out) }
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%v:\n%s", cmd.Args, output())
		}
	})
	within(t, 10*time.Second, fmt.Sprint(cmd.Args), func() bool {
		select {
		case <-exited:
			t.Fatalf("%v ended:\n%s", cmd.Args, output())
		default:
		}
		return strings.Contains(output(), ready)
	})
}

// A DNS answer of 3.4 kB over UDP comes in fragments, both ways.
func TestDNSWithFragments(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "unbound", "dig")
	n := newTopology(t)
	long := strings.TrimSpace(strings.Repeat(`"`+strings.Repeat("x", 200)+`" `, 16))
	for _, way := range []struct {
		from, to *netns.NS
		address  string
	}{
		{n.w1, n.server, serverv6},
		{n.server, n.w1, workload1v4},
		{n.w1, n.far, farv6},
		{n.far, n.w2, workload2v4},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/unbound.conf", []byte(fmt.Sprintf(`
server:
  directory: %q
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  interface: 0.0.0.0
  interface: ::0
  access-control: 0.0.0.0/0 allow
  access-control: ::0/0 allow
  max-udp-size: 4096
  edns-buffer-size: 4096
  local-zone: "example." static
  local-data: 'long.example. TXT %s'
remote-control:
  control-enable: no
`, dir, long)), 0o600); err != nil {
			t.Fatal(err)
		}
		start(t, way.to.Command("unbound", "-d", "-c", dir+"/unbound.conf"), "start of service")
		out := way.from.Run("dig", "+notcp", "+ignore", "+tries=3", "+time=2", "+bufsize=4096", "@"+way.address, "long.example.", "TXT")
		if !regexp.MustCompile(`MSG SIZE +rcvd: 3[0-9]{3}`).MatchString(out) || strings.Count(out, strings.Repeat("x", 200)) != 16 || !strings.Contains(out, "(UDP)") {
			t.Errorf("dig @%s:\n%s", way.address, out)
		}
	}
}

func TestSSH(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "sshd", "ssh", "scp", "ssh-keygen")
	n := newTopology(t)
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	os.MkdirAll("/run/sshd", 0o755) // sshd wants it even when it does not use it
	sshd, _ := exec.LookPath("sshd")
	payload := filepath.Join(dir, "payload")
	if out, err := exec.Command("dd", "if=/dev/urandom", "of="+payload, "bs=1M", "count=32").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, way := range []struct {
		from, to *netns.NS
		address  string
	}{
		{n.w1, n.server, serverv6},
		{n.server, n.w1, workload1v4},
	} {
		start(t, way.to.Command(sshd, "-D", "-e", "-p", "2222", "-f", "/dev/null", "-h", dir+"/host",
			"-o", "AuthorizedKeysFile="+dir+"/user.pub", "-o", "StrictModes=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes", "-o", "Subsystem=sftp internal-sftp"), "Server listening")
		options := []string{"-F", "/dev/null", "-i", dir + "/user", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"}
		out := way.from.Run("ssh", append(options, "-p", "2222", "root@"+way.address, "echo $SSH_CLIENT")...)
		if !strings.Contains(out, "2222") {
			t.Errorf("ssh %s: %s", way.address, out)
		}
		copied := filepath.Join(dir, "copied")
		address := way.address
		if net.ParseIP(address).To4() == nil {
			address = "[" + address + "]"
		}
		way.from.Run("scp", append(options, "-P", "2222", payload, "root@"+address+":"+copied)...)
		if out, err := exec.Command("cmp", payload, copied).CombinedOutput(); err != nil {
			t.Errorf("scp to %s: %v\n%s", way.address, err, out)
		}
		os.Remove(copied)
	}
}
