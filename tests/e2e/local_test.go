//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const localKeys = `
dns64: {enabled: true, upstreams: ["192.0.2.2:53"]}
health: {port: 8080}
`

// resolver runs unbound as the recursive server of the IPv4 world.
func resolver(t *testing.T, ns *netns.NS) {
	t.Helper()
	dir := t.TempDir()
	big := ""
	for i := range 100 {
		big += fmt.Sprintf(" local-data: \"big.test. 300 A 203.0.113.%d\"\n", i)
	}
	config := fmt.Sprintf(`server:
 interface: 0.0.0.0
 access-control: 0.0.0.0/0 allow
 username: ""
 chroot: ""
 directory: %q
 pidfile: ""
 use-syslog: no
 logfile: "log"
 do-ip6: no
 local-zone: "test." static
 local-data: "test. 300 SOA ns.test. h.test. 1 1 1 1 300"
 local-data: "four.test. 300 A 192.0.2.2"
 local-data: "far.test. 300 A 203.0.113.2"
 local-data: "six.test. 300 AAAA 2001:db8:6::1"
 local-zone: "2.0.192.in-addr.arpa." static
 local-data-ptr: "192.0.2.2 four.test"
%sremote-control:
 control-enable: no
`, dir, big)
	file := filepath.Join(dir, "unbound.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command("unbound", "-d", "-c", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	within(t, 5*time.Second, "unbound", func() bool {
		out, err := ns.Command("dig", "+short", "+time=1", "+tries=1", "@192.0.2.2", "four.test", "A").Output()
		return err == nil && strings.TrimSpace(string(out)) == "192.0.2.2"
	})
}

// resolving runs a program in ns with the translator as its only resolver.
func resolving(t *testing.T, ns *netns.NS, command string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver "+own6+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := ns.Command("unshare", "-m", "bash", "-c",
		fmt.Sprintf("mount --bind %s $(readlink -f /etc/resolv.conf) && %s", file, command)).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// TestNames: a workload that knows no resolver but the translator downloads
// from servers that have only IPv4, by their names.
func TestNames(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "what is for the translator itself is always answered by the daemon")
	netns.Require(t, netns.Root, "curl", "unbound", "dig", "unshare")
	n := newTopology(t, localKeys)
	resolver(t, n.server)
	const size = 1 << 20
	for name, ns := range map[string]*netns.NS{"four.test": n.server, "far.test": n.far} {
		port := serveHTTP(t, ns)
		out, err := resolving(t, n.w1, fmt.Sprintf("curl -sS --fail --max-time 20 http://%s:%s/%d | sha256sum", name, port, size))
		if err != nil || !strings.Contains(out, patternSum(size)) {
			t.Errorf("curl %s: %v\n%s", name, err, out)
		}
	}
	for _, c := range []struct{ command, want string }{
		{"getent ahosts four.test | cut -d' ' -f1 | uniq", "2001:db8:64::c000:202"},
		{"getent hosts 2001:db8:64::192.0.2.2", "2001:db8:64::c000:202 four.test"},
		{"dig +short +tcp six.test AAAA", "2001:db8:6::1"},
		{"dig +short ipv4only.arpa AAAA", "2001:db8:64::c000:aa\n2001:db8:64::c000:ab"},
		{"dig +short big.test AAAA | wc -l", "100"}, // cut, and asked again over TCP
		{"dig nothing.test AAAA | grep -o NXDOMAIN", "NXDOMAIN"},
	} {
		out, err := resolving(t, n.w1, c.command)
		if got := strings.Join(strings.Fields(out), " "); err != nil || got != strings.Join(strings.Fields(c.want), " ") {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.command, err, out, c.want)
		}
	}
	if out := n.host.Run("ss", "-Hlntu"); strings.Contains(out, ":53 ") || strings.Contains(out, ":8080 ") {
		t.Errorf("the host's own ports are taken:\n%s", out)
	}
}

// TestNamesAreForWorkloads: DNS64 answers workloads by their mapped addresses,
// and the host it runs on by whichever of its addresses the kernel chooses, with
// doctor; others are told that they may not ask, and the operator that they did.
func TestNamesAreForWorkloads(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "what is for the translator itself is always answered by the daemon")
	netns.Require(t, netns.Root, "unbound", "dig", "unshare", "getent")
	n := newTopology(t, localKeys)
	resolver(t, n.server)
	ask := "dig +noall +answer +comments +tries=1 +time=3 @" + own6 + " four.test AAAA"
	n.w1.IP("addr add 2001:db8:6::99/64 dev eth0 nodad preferred_lft 0")
	for _, c := range []struct {
		who, command, want string
		ns                 *netns.NS
	}{
		{"workload", ask, "2001:db8:64::c000:202", n.w1},
		{"workload, TCP", ask + " +tcp", "2001:db8:64::c000:202", n.w1},
		{"workload behind a router", ask, "2001:db8:64::c000:202", n.w2},
		{"host", ask, "2001:db8:64::c000:202", n.host},
		{"host, TCP", ask + " +tcp", "2001:db8:64::c000:202", n.host},
		{"host, another address", ask + " -b 2001:db8:8::1", "2001:db8:64::c000:202", n.host},
		{"host's resolv.conf", "getent ahosts four.test", "2001:db8:64::c000:202", n.host},
		{"router", ask, "REFUSED", n.gate},
		{"router, TCP", ask + " +tcp", "EDE: 18 (Prohibited)", n.gate},
		{"a workload's other address", ask + " -b 2001:db8:6::99", "EDE: 18 (Prohibited)", n.w1},
	} {
		if out, err := resolving(t, c.ns, c.command); err != nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%s\nwant %s", c.who, err, out, c.want)
		}
	}
	if _, wrong, report := n.examine(); slices.ContainsFunc(wrong, func(w string) bool { return strings.HasSuffix(w, " dns64") }) || !strings.Contains(report, "puts ipv4only.arpa into") {
		t.Errorf("doctor: %v\n%s", wrong, report)
	}
	status, err := n.daemon.Client().Status(t.Context())
	if err != nil || !slices.ContainsFunc(status.Checks, func(c api.Check) bool {
		return c.Name == "dns64" && c.State == "ok" && strings.Contains(c.Detail, "3 queries refused, the last from 2001:db8:6::99")
	}) {
		t.Errorf("status: %v %v", status.Checks, err)
	}
}

// TestOwnAddresses: the translator is a host in both families. It answers
// pings and health checks, refuses the rest, and shows up in traceroutes.
func TestOwnAddresses(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "curl", "ping", "traceroute")
	n := newTopology(t, localKeys)
	own4in6 := "2001:db8:64::c633:6401"
	for _, from := range []struct {
		ns      *netns.NS
		address string
	}{{n.w1, own6}, {n.w1, own4in6}, {n.server, own4}, {n.host, own6}, {n.host, own4}} {
		t.Run(from.ns.Name+" "+from.address, func(t *testing.T) {
			sizes := []string{"56", "1400", "4000"}
			if from.address == own4in6 {
				sizes = sizes[:2] // fragments of ICMP are not translated
			}
			for _, size := range sizes {
				from.ns.Run("ping", "-n", "-c", "1", "-W", "3", "-s", size, from.address)
			}
			for path, want := range map[string]string{"healthz": "ok", "readyz": "ready"} {
				url := "http://" + net.JoinHostPort(from.address, "8080") + "/" + path
				if got := from.ns.Run("curl", "-sS", "--fail", "--max-time", "5", url); got != want {
					t.Errorf("%s: %q", url, got)
				}
			}
			url := "http://" + net.JoinHostPort(from.address, "81") + "/"
			out, _ := from.ns.Command("curl", "-sS", "--max-time", "3", url).CombinedOutput()
			if !strings.Contains(string(out), "Couldn't connect") || strings.Contains(string(out), "timed out") {
				t.Errorf("%s: %s", url, out)
			}
		})
	}
	kernel := daemon.FastPath() != "off" // then the host is one hop
	if out := n.w1.Run("traceroute", "-n", "-6", "-q", "1", "-w", "2", serverv6); strings.Contains(out, own6) == kernel || !strings.Contains(out, serverv6) {
		t.Errorf("traceroute from the workload:\n%s", out)
	}
	if out := n.server.Run("traceroute", "-n", "-4", "-q", "1", "-w", "2", workload1v4); strings.Contains(out, own4) == kernel || strings.Count(out, workload1v4) < 2 {
		t.Errorf("traceroute to the workload:\n%s", out)
	}
}

// TestLocalFlood: whatever is thrown at the translator's own address, packets
// that pass through it do, and the services answer again afterwards.
func TestLocalFlood(t *testing.T) {
	daemon.OnePath(t, "what is for the translator itself is always answered by the daemon")
	netns.Require(t, netns.Root, "curl")
	n := newTopology(t, localKeys)
	var conn net.Conn
	var err error
	n.w2.Do(func() { conn, err = net.Dial("udp", net.JoinHostPort(own6, "53")) })
	if err != nil {
		t.Fatal(err)
	}
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		count, junk := 0, make([]byte, 600)
		for {
			select {
			case <-stop:
				sent <- count
				return
			default:
			}
			if _, err := conn.Write(junk); err == nil {
				count++
			}
		}
	}()
	peer := curl(t, n.w1, serverv6, serveHTTP(t, n.server), 20<<20)
	close(stop)
	count := <-sent
	conn.Close()
	if peer != workload1v4 {
		t.Error(peer)
	}
	t.Logf("20 MB went through beside %d datagrams to port 53", count)
	within(t, 5*time.Second, "health after the flood", func() bool {
		return n.w1.Command("curl", "-sS", "--fail", "--max-time", "1", "http://["+own6+"]:8080/healthz").Run() == nil
	})
}

// TestLocalIdle: the stack and its services cost little while nobody asks.
func TestLocalIdle(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "what is for the translator itself is always answered by the daemon")
	netns.Require(t, netns.Root)
	n := newTopology(t, localKeys)
	time.Sleep(time.Second)
	const seconds = 3
	woken := 1 << 30
	for range 5 { // what the kernel tells of other tests' doings wakes it, too: the quietest span counts
		before := switches(t, n.daemon.PID())
		time.Sleep(seconds * time.Second)
		if woken = min(woken, switches(t, n.daemon.PID())-before); woken <= 2*seconds {
			break
		}
	}
	status := proc(t, n.daemon.PID(), "status")
	anon := field(t, status, "RssAnon:") // the rest is pages of the program, of which the kernel keeps as many as it likes
	t.Logf("with DNS64 and health, idle: %d kB resident (%d kB of them of the process alone), %d wake-ups in %d s", field(t, status, "VmRSS:"), anon, woken, seconds)
	if anon >= 16<<10 {
		t.Errorf("%d kB of its own\n%s", anon, status)
	}
	if woken > 2*seconds {
		t.Errorf("%d wake-ups in %d s", woken, seconds)
	}
}

func proc(t *testing.T, pid int, file string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func field(t *testing.T, status, name string) (n int) {
	t.Helper()
	_, rest, _ := strings.Cut(status, "\n"+name)
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// switches counts how often the process's threads went to sleep of themselves.
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		n += field(t, proc(t, pid, "task/"+thread.Name()+"/status"), "voluntary_ctxt_switches:")
	}
	return n
}
