//go:build linux

package cni

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
)

// TestHostInterface: the daemon hears at which end of the host each container's
// packets come in, also where a bridge joins them.
func TestHostInterface(t *testing.T) {
	daemon.OnePath(t, "what is heard is the same, and the fast path has to find it")
	for name, first := range map[string]string{
		"ptp": `{"type": "ptp", %s}`, "bridge": `{"type": "bridge", "bridge": "cni0", "isGateway": true, %s}`,
	} {
		t.Run(name, func(t *testing.T) {
			n, bin := newNode(t), tools(t)
			d := daemon.Start(t, n.NS, sharedPool)
			conf := networkConfig(t, "1.1.0", fmt.Sprintf(first, ipam(t.TempDir())), fmt.Sprintf(`{"type": "natless-cni", "socket": %q}`, d.Socket))
			pods := n.pods(t, 2, conf, bin)
			for _, p := range pods {
				w, err := p.workload(d.Client())
				if err != nil {
					t.Fatal(err)
				}
				link := n.Run("ip", "-o", "link", "show", "dev", w.Request.HostInterface)
				own := p.Run("bash", "-c", `ip -o link show dev eth0 | sed 's/.*eth0@if\([0-9]*\):.*/\1/'`)
				if err := n.download(p.NS, p.Name); err != nil {
					t.Error(err)
				}
				if w.Request.HostInterface == "" || !strings.HasPrefix(link, own+": ") {
					t.Errorf("%s: its peer is interface %s, natlessd heard %q: %s", p.Name, own, w.Request.HostInterface, link)
				}
			}
			// The interface is found, and the program attached, a moment after the
			// workload has its assignment.
			for deadline := time.Now().Add(10 * time.Second); ; {
				s, err := d.Client().Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				o := s.FastPath
				if o.Translated["forward4"].Packets >= 20 && o.Translated["forward6"].Packets >= 20 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the kernel translated next to nothing: %+v", o)
				}
				if err := n.download(pods[0].NS, pods[0].Name); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
