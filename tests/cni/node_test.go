//go:build linux

// Package cni tests the CNI plugin and the daemon together, with the reference
// plugins and a real container engine around them and real programs inside.
package cni

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

var apiAll api.Filter

func TestMain(m *testing.M) {
	code := m.Run()
	daemon.Remove()
	os.Exit(code)
}

const plugins = "github.com/containernetworking/plugins/plugins/"

// tools is a CNI_PATH: one folder with cnitool, the reference plugins and our own.
func tools(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, from := range []string{daemon.Build(t), daemon.Tools(t, "github.com/containernetworking/cni/cnitool",
		plugins+"main/ptp", plugins+"main/bridge", plugins+"main/loopback", plugins+"ipam/host-local",
		plugins+"meta/portmap", plugins+"meta/bandwidth", plugins+"meta/firewall", plugins+"meta/tuning")} {
		found, _ := filepath.Glob(from + "/*")
		for _, path := range found {
			if err := os.Symlink(path, filepath.Join(dir, filepath.Base(path))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

const (
	hostIPv4   = "192.0.2.1"
	serverIPv4 = "192.0.2.2"
	prefix     = "2001:db8:64::/96"
	server6    = "2001:db8:64::192.0.2.2"
	baseConfig = `
prefix: 2001:db8:64::/96
uplink: uplink
addresses: {ipv4: 192.0.0.10, ipv6: "2001:db8:64::c000:a"}
`
	sharedPool = baseConfig + `
pools:
  - {name: default, ipv4: 198.51.100.1/32, ports_per_workload: 1024, cooldown: 1s}
`
	uplinkPool = baseConfig + `
pools:
  - {name: host, ipv4: uplink, ports: 32768-65535, ports_per_workload: 512, cooldown: 1s}
`
)

// node is a container host with an IPv4-only server on its uplink.
type node struct {
	*netns.NS
	server *netns.NS
	web    *webServer
}

func newNode(t testing.TB) *node {
	t.Helper()
	netns.Require(t, netns.Root, "ip", "curl", "ping", "nft")
	n := &node{NS: netns.New(t, "node"), server: netns.New(t, "server")}
	netns.Veth(t, n.NS, "uplink", n.server, "eth0")
	n.IP("addr add " + hostIPv4 + "/24 dev uplink")
	n.server.IP("addr add " + serverIPv4 + "/24 dev eth0")
	n.server.IP("route add default via " + hostIPv4)
	n.web = startWeb(t, n.server, serverIPv4+":80")
	return n
}

// webServer serves one file and remembers from where it was asked.
type webServer struct {
	sum  string
	mu   sync.Mutex
	from map[netip.AddrPort]string // the query's "who"
}

const fileSize = 4 << 20

func startWeb(t testing.TB, ns *netns.NS, address string) *webServer {
	t.Helper()
	file := make([]byte, fileSize)
	rand.Read(file)
	sum := sha256.Sum256(file)
	w := &webServer{sum: hex.EncodeToString(sum[:]), from: make(map[netip.AddrPort]string)}
	l := listen(t, ns, address)
	server := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.from[netip.MustParseAddrPort(r.RemoteAddr)] = r.URL.Query().Get("who")
		w.mu.Unlock()
		out.Write(file)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return w
}

// observed is every connection that the server saw.
func (w *webServer) observed() map[netip.AddrPort]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := make(map[netip.AddrPort]string, len(w.from))
	for a, who := range w.from {
		seen[a] = who
	}
	return seen
}

func listen(t testing.TB, ns *netns.NS, address string) net.Listener {
	t.Helper()
	var (
		l   net.Listener
		err error
	)
	ns.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// download fetches the server's file inside ns with curl and compares hashes.
func (n *node) download(ns *netns.NS, who string) error {
	cmd := ns.Command("sh", "-c", fmt.Sprintf("curl -sS --max-time 60 'http://[%s]/?who=%s' | sha256sum", server6, who))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("curl in %s: %w\n%s", who, err, out)
	}
	if got := strings.Fields(string(out))[0]; got != n.web.sum {
		return fmt.Errorf("curl in %s: sha256 %s, want %s\n%s%s", who, got, n.web.sum, out, n.waysOut(ns))
	}
	return nil
}

// waysOut is what tells why a workload does not reach the server: a connection
// attempt with its error's name, and the IPv6 routes of both ends of its veth.
func (n *node) waysOut(ns *netns.NS) string {
	var told strings.Builder
	for _, in := range []*netns.NS{ns, n.NS} {
		for _, command := range []string{
			"curl -vsS --max-time 5 -o /dev/null 'http://[" + server6 + "]/'", "ip -6 route get " + server6, "ip -6 rule", "ip -6 route show table all",
			"ip address", "sysctl net.ipv4.ip_local_port_range net.ipv6.conf.all.forwarding", "nft list ruleset",
		} {
			out, err := in.Command("sh", "-c", command).CombinedOutput()
			fmt.Fprintf(&told, "%s# %s (%v)\n%s", in.Name, command, err, out)
		}
	}
	return told.String()
}

// networkConfig writes a conflist named "pods" and returns its folder.
func networkConfig(t testing.TB, version, first, plugin string) string {
	t.Helper()
	dir := t.TempDir()
	list := fmt.Sprintf(`{"cniVersion": %q, "name": "pods", "plugins": [%s, %s]}`, version, first, plugin)
	if err := os.WriteFile(filepath.Join(dir, "10-pods.conflist"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ipam(dir string) string {
	return fmt.Sprintf(`"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "2001:db8:6::/64"}]], "routes": [{"dst": "::/0"}]}`, dir)
}

// parallel runs f for 0 to n-1 at once and reports every error.
func parallel(t testing.TB, n, atOnce int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// eventually tries f until it gives nil, for at most limit, which is said for a
// machine that does nothing else: others have six times as long.
func eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(6 * limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after six times %v: %v", limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
