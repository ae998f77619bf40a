package dns64

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/natless/natless/tests/netns"
)

// unbounds starts three real servers on loopback: an authoritative one with the
// zones of testdata, a recursive one, and a recursive one with unbound's own
// dns64 module for prefix. It gives the addresses of the latter two.
func unbounds(t testing.TB, prefix string) (recursive, oracle netip.AddrPort) {
	t.Helper()
	netns.Require(t, "unbound")
	zones, err := filepath.Glob("testdata/*.zone")
	if err != nil || len(zones) == 0 {
		t.Fatal("no zones in testdata")
	}
	authority := freePort(t)
	var auth, stub strings.Builder
	for _, file := range zones {
		origin := strings.TrimSuffix(filepath.Base(file), "zone")
		path, _ := filepath.Abs(file)
		fmt.Fprintf(&auth, "auth-zone:\n name: %q\n zonefile: %q\n for-downstream: yes\n for-upstream: no\n fallback-enabled: no\n", origin, path)
		fmt.Fprintf(&stub, "stub-zone:\n name: %q\n stub-addr: 127.0.0.1@%d\n stub-prime: no\n", origin, authority.Port())
	}
	// A zone whose server is not there.
	fmt.Fprintf(&stub, "stub-zone:\n name: \"dead.test.\"\n stub-addr: 127.0.0.1@%d\n", freePort(t).Port())
	startUnbound(t, authority, "", auth.String())
	recursive, oracle = freePort(t), freePort(t)
	startUnbound(t, recursive, "module-config: \"iterator\"", stub.String())
	startUnbound(t, oracle, "module-config: \"dns64 iterator\"\n dns64-ignore-aaaa: mapped.natless.test.\n dns64-prefix: "+prefix, stub.String())
	return recursive, oracle
}

func startUnbound(t testing.TB, at netip.AddrPort, server, rest string) {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf(`server:
 interface: %s@%d
 port: %d
 username: ""
 chroot: ""
 directory: %q
 pidfile: ""
 use-syslog: no
 logfile: "log"
 do-ip6: no
 num-threads: 1
 do-not-query-localhost: no
 minimal-responses: no
 rrset-roundrobin: no
 max-udp-size: 4096
 outgoing-range: 512
 num-queries-per-thread: 512
 local-zone: "test." nodefault
 local-zone: "2.0.192.in-addr.arpa." nodefault
 local-zone: "100.51.198.in-addr.arpa." nodefault
 local-zone: "8.b.d.0.1.0.0.2.ip6.arpa." nodefault
 %s
remote-control:
 control-enable: no
%s`, at.Addr(), at.Port(), at.Port(), dir, server, rest)
	file := filepath.Join(dir, "unbound.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unbound", "-d", "-c", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("unbound %s:\n%s", at, log)
		}
	})
	query := new(dns.Msg).SetQuestion("natless.test.", dns.TypeSOA)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if _, _, err := (&dns.Client{Timeout: time.Second}).Exchange(query, at.String()); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Fatalf("unbound does not answer at %s:\n%s", at, log)
}

// given are the ports that freePort gave: tests run beside each other, and what a
// port is for may open it late.
var given sync.Map

// freePort finds a loopback port that is free for UDP and TCP, below those that the
// kernel gives by itself.
func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	for range 1000 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(10000+rand.IntN(22000)))
		if _, taken := given.LoadOrStore(at, true); taken {
			continue
		}
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			continue
		}
		ln.Close()
		pc, err := net.ListenPacket("udp", at.String())
		if err != nil {
			continue
		}
		pc.Close()
		return at
	}
	t.Fatal("no port is free")
	return netip.AddrPort{}
}
