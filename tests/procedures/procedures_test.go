//go:build linux

package procedures

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// act is what the operator, or somebody else, does before a block or after the last.
type act func(h *host, out string)

// played are the acts of a section: the n-th before its n-th block, the last after all.
type played struct {
	hosts []string // where there are several
	acts  []act
}

// sections are what the page promises.
func sections(t *testing.T) map[string]played {
	var web, more api.Workload
	return map[string]played{
		"Back up": {acts: []act{nil, func(h *host, out string) {
			if !strings.Contains(out, "1 assignment") {
				t.Errorf("the backup has something else than one assignment:\n%s", out)
			}
		}}},
		"Restore": {acts: []act{func(h *host, _ string) {
			web = h.put("web", workload6, "w0")
			h.sh("natless registry backup /var/backups/natless.db")
			h.put("later", "2001:db8:6::3", "w0")
		}, func(h *host, out string) {
			if got := h.put("web", workload6, "w0"); got.Serial != web.Serial || got.Address != web.Address {
				t.Errorf("%+v became %+v", web, got)
			}
			if _, err := h.client.Get(t.Context(), api.Key{ContainerID: "later", Interface: "eth0"}); !errors.Is(err, api.ErrNotFound) {
				t.Errorf("a workload of after the backup: %v", err)
			}
			h.lives(h.connect(web), "after the restore")
		}}},
		"Upgrade": {acts: []act{connected, survived}},
		"Roll back": {acts: []act{func(h *host, out string) {
			h.sh("natless registry backup /var/backups/natless-before-upgrade.db")
			connected(h, out)
		}, func(h *host, out string) { survived(h, out) }, func(h *host, _ string) {
			h.lives(h.connect(h.put("web", workload6, "w0")), "with the backup of before")
		}}},
		"Drain a host": {acts: []act{connected, func(h *host, out string) {
			survived(h, out)
			if !strings.Contains(out, "drained") || !strings.Contains(out, "1 workload left") {
				t.Errorf("natless status does not say so:\n%s", out)
			}
			if _, err := h.client.Put(t.Context(), api.Key{ContainerID: "new", Interface: "eth0"}, request("new", "2001:db8:6::9")); !errors.Is(err, api.ErrDrained) {
				t.Errorf("a new workload: %v", err)
			}
			time.AfterFunc(500*time.Millisecond, func() { h.delete("web") })
		}, func(h *host, out string) {
			if !strings.Contains(out, "1 workload left: shop/web") {
				t.Errorf("who is left is not said:\n%s", out)
			}
			if links := h.ns.IP("link show"); strings.Contains(links, "natless0") {
				t.Error("natless0 is still there")
			}
		}, func(h *host, _ string) {
			h.lives(h.connect(h.put("web", workload6, "w0")), "after the maintenance")
		}}},
		"Renumber a pool": {acts: []act{func(h *host, _ string) {
			web = h.put("web", workload6, "w0")
			more = h.put("more", "2001:db8:6::3", "w0")
			connected(h, "")
		}, func(h *host, out string) {
			survived(h, out)
			if again := h.put("more", "2001:db8:6::3", "w0"); again.Address != more.Address {
				t.Errorf("it moved from %v to %v by itself", more.Address, again.Address)
			}
			for _, name := range []string{"web", "more"} {
				h.delete(name)
			}
			if w := h.put("web", workload6, "w0"); w.Pool != "new" || !netip.MustParsePrefix("203.0.113.8/30").Contains(w.Address) {
				t.Errorf("it got %v of pool %s", w.Address, w.Pool)
			}
		}, func(h *host, out string) {
			if !strings.Contains(out, "new: 1024 ports each, 1 workload") || strings.Contains(out, "\ndefault: ") {
				t.Errorf("natless pools:\n%s", out)
			}
			h.lives(h.connect(h.put("web", workload6, "w0")), "with the new address")
			if had, err := h.client.Owners(t.Context(), web.Address, int(web.Run().First), time.Time{}); err != nil || len(had.Before) == 0 || had.Before[0].Name != "shop/web" {
				t.Errorf("who had the old address: %+v, %v", had, err)
			}
		}}},
		"Move to another host": {hosts: []string{"old", "new"}, acts: []act{func(h *host, _ string) {
			q := request("web", workload6)
			q.Netns = "/run/netns/natless-no-such" // of a container of the old host
			os.WriteFile(netnsOf(h, q.Netns), nil, 0o600)
			var err error
			if web, err = h.client.Put(t.Context(), api.Key{ContainerID: "web", Interface: "eth0"}, q); err != nil {
				t.Fatal(err)
			}
		}, nil, func(h *host, _ string) {
			if strings.Contains(h.sh("natless status"), "drained") {
				t.Error("the drain has moved")
			}
			key := api.Key{ContainerID: "web", Interface: "eth0"}
			for end := time.Now().Add(45 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				if _, err := h.client.Get(t.Context(), key); errors.Is(err, api.ErrNotFound) {
					break
				}
			}
			time.Sleep(1500 * time.Millisecond) // the cooldown
			w, err := h.client.Put(t.Context(), api.Key{ContainerID: "another", Interface: "eth0"}, request("web", workload6))
			if err != nil || w.Address != web.Address || !w.Ports.Equal(web.Ports) {
				t.Errorf("it had %v %v, and has %v %v: %v", web.Address, web.Ports, w.Address, w.Ports, err)
			}
			h.lives(h.connect(w), "on the new host")
		}}},
	}
}

func request(name, ipv6 string) api.Request {
	return api.Request{Name: "shop/" + name, HostInterface: "w0", IPv6: []netip.Addr{netip.MustParseAddr(ipv6)}}
}

// netnsOf is where a file of the host is, seen from here.
func netnsOf(h *host, path string) string { return filepath.Join(h.root(), path) }

func connected(h *host, _ string) { h.connection = h.connect(h.put("web", workload6, "w0")) }

func survived(h *host, _ string) {
	h.t.Helper()
	h.lives(h.connection, "the connection of before")
}

// TestProcedures runs each section on hosts of its own, and each block as it stands.
func TestProcedures(t *testing.T) {
	netns.Require(t, netns.Root, "nft", "unshare", "nsenter", "setsid")
	daemon.Build(t)
	page := read(t, "../../config/deploy/procedures.md")
	known := sections(t)
	if len(page) != len(known) {
		t.Errorf("the page has %d sections, the test %d", len(page), len(known))
	}
	for _, s := range page {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			plays, is := sections(t)[s.name]
			if !is || len(plays.acts) != len(s.blocks)+1 {
				t.Fatalf("%d blocks, and %d acts", len(s.blocks), len(plays.acts))
			}
			run(t, s, plays)
		})
	}
}

func run(t *testing.T, s section, plays played) {
	hosts := map[string]*host{}
	if plays.hosts == nil {
		plays.hosts = []string{""}
	}
	for _, name := range plays.hosts {
		hosts[name] = newHost(t, "host"+name)
		if name != "new" {
			hosts[name].configure()
		}
	}
	h, out := hosts[plays.hosts[0]], ""
	for i, b := range s.blocks {
		if next := hosts[b.host]; next != h {
			next.receive(h)
			h = next
		}
		if plays.acts[i] != nil {
			plays.acts[i](h, out)
		}
		out = h.sh(b.text)
	}
	if last := plays.acts[len(s.blocks)]; last != nil {
		last(h, out)
	}
}
