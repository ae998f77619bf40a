//go:build linux

package e2e

import (
	"bytes"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// launch starts a daemon that may never be ready.
func (n *topology) launch(config string) (log func() string) {
	n.t.Helper()
	n.daemon = daemon.New(n.t, n.host, config)
	cmd := n.host.Command(filepath.Join(daemon.Build(n.t), "natlessd"), "--config", n.daemon.Config)
	var mu sync.Mutex
	var b bytes.Buffer
	w := writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	})
	cmd.Stdout, cmd.Stderr = w, w
	if err := netns.Start(cmd); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// ready reports whether the daemon is, and how a thing that it watches is; "" while
// it does not answer.
func (n *topology) ready(check string) (bool, string) {
	s, err := n.daemon.Client().Status(n.t.Context())
	if err != nil {
		return false, ""
	}
	for _, c := range s.Checks {
		if c.Name == check {
			return s.Ready, c.State + ": " + c.Detail
		}
	}
	return s.Ready, "none"
}

// TestGuardBeforeUplink: where the uplink is missing the daemon is not ready, and
// nobody can use another's address meanwhile.
func TestGuardBeforeUplink(t *testing.T) {
	daemon.OnePath(t, "its configuration says fast_path: off")
	t.Parallel()
	n := newNamespaces(t)
	n.host.IP("link set uplink name away")
	n.launch(baseConfig + "uplink: uplink\nfast_path: off\n")
	within(t, 5*time.Second, "packets come to the device", func() bool {
		out, _ := n.host.Command("ip", "-6", "route", "get", serverv6).CombinedOutput()
		return strings.Contains(string(out), "dev natless0")
	})
	got := receive(t, n.server, "5000")
	n.w1.IP("addr add " + workload2 + "/128 dev eth0")
	sendUDP(t, n.w1, "["+workload2+"]:4000", "["+serverv6+"]:5000")
	within(t, 3*time.Second, "a datagram from another's address is dropped", func() bool {
		_, spoofing := n.ready("anti-spoofing")
		return strings.Contains(spoofing, "reverse-path 1")
	})
	if s := next(got, 100*time.Millisecond); s != "" {
		t.Errorf("it arrived: %s", s)
	}
	if ready, _ := n.ready("device"); ready {
		t.Error("it is ready without its uplink")
	}
	n.host.IP("link set away name uplink")
	within(t, 35*time.Second, "ready when the uplink is there", func() bool { ready, _ := n.ready("device"); return ready })
}

// TestRequiredIsNotReady: where the fast path is required and the uplink cannot
// have it, the daemon goes on, is not ready, and says why.
func TestRequiredIsNotReady(t *testing.T) {
	daemon.OnePath(t, "its configuration says fast_path: required")
	for name, c := range map[string]struct {
		spoil, mend []string // commands of ip
		why         string
	}{
		"an uplink that is not there": {[]string{"link set uplink name away"}, []string{"link set away name uplink"}, "uplink"},
		"a TUN device": {[]string{"link set uplink name away", "tuntap add uplink mode tun", "addr add 192.0.9.1/24 dev uplink", "link set uplink up"},
			[]string{"link del uplink", "link set away name uplink"}, "no Ethernet interface uplink"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNamespaces(t)
			for _, c := range c.spoil {
				n.host.IP(c)
			}
			log := n.launch(baseConfig + "uplink: uplink\nfast_path: required\n")
			within(t, 5*time.Second, "it says why it is not ready", func() bool {
				ready, insisted := n.ready("fast path")
				return !ready && strings.HasPrefix(insisted, "fail: fast_path: required, but") && strings.Contains(insisted, c.why)
			})
			_, wrong, report := n.examine()
			if !strings.Contains(strings.Join(wrong, ","), "fail fast path") {
				t.Errorf("the doctor does not say so: %q\n%s", wrong, report)
			}
			for _, c := range c.mend {
				n.host.IP(c)
			}
			within(t, 35*time.Second, "ready when it can be had", func() bool {
				ready, insisted := n.ready("fast path")
				return ready && insisted == "ok: "
			})
			if t.Failed() {
				t.Log(log())
			}
		})
	}
}

// TestUplinkInBridge: an uplink that is a port of a bridge means the bridge.
func TestUplinkInBridge(t *testing.T) {
	t.Parallel()
	n := newNamespaces(t)
	n.host.IP("link add br9 type bridge")
	n.host.IP("link set br9 up")
	n.host.IP("addr flush dev uplink")
	n.host.IP("addr add 192.0.2.1/24 dev br9")
	n.host.IP("link set uplink master br9")
	n.host.IP("route add 203.0.113.0/24 via 192.0.2.2")
	n.server.IP("route del default")
	n.server.IP("route add 198.51.100.0/24 dev eth0") // only who answers for the address is reached
	n.daemon = daemon.Start(t, n.host, poolsConfig+"mappings: [{ipv6: \"2001:db8:6::2\", ipv4: 198.51.100.2}]\nuplink: uplink\n")
	if err := n.server.Command("ping", "-n", "-c", "1", "-W", "3", workload1v4).Run(); err != nil {
		t.Errorf("the server does not reach the workload: %v", err)
	}
	if _, uplink := n.ready("uplink"); uplink != "ok: uplink is a port of bridge br9, which is used" {
		t.Errorf("status says %q", uplink)
	}
	n.diagnosed("an uplink in a bridge", 0)
	n.put("one", workload2, n.w2, api.Request{Name: "ns/one"})
	n.host.IP("link set uplink nomaster")
	n.host.IP("addr flush dev br9")
}
