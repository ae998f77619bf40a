//go:build linux

package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// TestOthersMasquerade: the reference bridge plugin masquerades IPv4 containers
// to the host's address, which workloads share: status says so, with either of
// its backends, and no more when it is gone or kept off the pool's ports; both
// kinds of containers are served meanwhile.
func TestOthersMasquerade(t *testing.T) {
	netns.Require(t, "iptables-nft", "nft")
	n, bin := newNode(t), tools(t)
	n.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	d := daemon.Start(t, n.NS, baseConfig+`
pools:
  - {name: host, ipv4: uplink, ports: 12288-28671, ports_per_workload: 1024, cooldown: 1s}
`)
	workload := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	says := func(when, want string) {
		t.Helper()
		eventually(t, 5*time.Second, func() error {
			s, err := d.Client().Status(t.Context())
			if err != nil {
				return err
			}
			for _, c := range s.Checks {
				if c.Name == "others' nat" {
					if got := strings.TrimSpace(c.State + " " + c.Detail); got != want && (want == "ok" || !strings.Contains(got, want)) {
						return fmt.Errorf("%s: status says %q, want %q", when, got, want)
					}
					return nil
				}
			}
			return fmt.Errorf("%s: status says nothing", when)
		})
	}
	says("nobody else", "ok")
	for _, backend := range []string{"iptables", "nftables"} {
		conf := t.TempDir()
		list := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "v4", "plugins": [{"type": "bridge", "bridge": "v4br", "isGateway": true, "ipMasq": true, "ipMasqBackend": %q,
			"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "172.17.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, backend, t.TempDir())
		if err := os.WriteFile(filepath.Join(conf, "v4.conflist"), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		other := &pod{NS: netns.New(t, backend), node: n, conf: conf, cniPath: bin}
		if _, err := other.attach("add", "v4", "eth0"); err != nil {
			t.Fatal(err)
		}
		says(backend, "warn somebody else's rules may take ports that workloads own")
		out, err := other.Command("curl", "-sS", "--max-time", "20", "-o", "/dev/null", "http://"+serverIPv4+"/?who=host").CombinedOutput()
		if err != nil {
			t.Errorf("%s: the other engine's container: %v %s", backend, err, out)
		}
		if err := n.download(workload.NS, workload.Name); err != nil {
			t.Errorf("%s: %v", backend, err)
		}
		if _, err := other.attach("del", "v4", "eth0"); err != nil {
			t.Error(err)
		}
		says(backend+" gone", "ok")
	}
	n.Run("nft", "add table ip mine; add chain ip mine post { type nat hook postrouting priority 100; }; "+
		"add rule ip mine post ip saddr 172.18.0.0/16 oifname uplink masquerade")
	says("by hand", "chain ip mine post to uplink; give the rule ports outside of the pool (meta l4proto { tcp, udp } masquerade to :28672-65535)")
	n.Run("nft", "flush chain ip mine post; add rule ip mine post ip saddr 172.18.0.0/16 oifname uplink meta l4proto { tcp, udp } masquerade to :28672-65535")
	says("with the remedy", "ok")
	checkWhois(t, n, d.Client(), 1)
}
