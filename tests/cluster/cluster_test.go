//go:build linux

package cluster

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
)

// TestCluster makes the cluster once, and asks it one thing after the other. Each leaves
// it as it was, so that -run TestCluster/name runs that one alone.
func TestCluster(t *testing.T) {
	l := newLab(t)
	l.deploy(t)
	for _, check := range []struct {
		name string
		f    func(*testing.T, *lab)
	}{
		{"pods reach servers by name and share an address", byName},
		{"whois names the pod", whois},
		{"services of kube-proxy beside the fast path", services},
		{"names of CoreDNS with its dns64 and with natless", coreDNS},
		{"network policies of kube-router beside the fast path", networkPolicies},
		{"published ports lead to the pod", published},
		{"host ports of portmap beside published ports", hostPorts},
		{"annotations of nonsense are told in the pod's events", nonsense},
		{"a pod that wants none gets none", none},
		{"an IPv4-only program in a pod that has IPv4 inside", inside},
		{"the ports of a pod that has ended are the next one's", reused},
		{"a pod of the same name at once", sameName},
		{"the plugin's program is removed by somebody else", pluginRemoved},
		{"a second network's configuration", secondNetwork},
		{"the installer's container is killed while it writes", installerKilled},
		{"the directory of network configurations is removed and made anew", directoryRemoved},
		{"natless's pod is deleted under traffic", deleted},
		{"natlessd is killed under traffic", killed},
		{"natless is upgraded and rolled back under traffic", upgraded},
		{"kubelet and containerd are restarted under traffic", restarted},
		{"CNI STATUS as containerd calls it", statusOfNode},
		{"CNI CHECK of what containerd has attached", checkCNI},
		{"CNI GC with what containerd has attached", gcCNI},
		{"a long outage of natlessd evicts nobody", outage},
		{"a node is drained", drained},
		{"a node is restarted", rebooted},
		{"a node is deleted and comes back", nodeDeleted},
		{"the installer's container and pods of a new node", newNode},
		{"least privilege", privilege},
		{"natlessd where cgroups are of version 2", controlGroups2},
		{"Helm installs and upgrades and rolls back and uninstalls", helm},
	} {
		t.Run(check.name, func(t *testing.T) { check.f(t, l) })
	}
}

// deploy installs natless as its README says, and what runs beside it.
func (l *lab) deploy(t *testing.T) {
	t.Helper()
	start := time.Now()
	l.kubectl(t, "apply", "-k", "deploy")
	l.natlessReady(t)
	t.Logf("natless is rolled out after %v", time.Since(start).Round(time.Second))
	for _, n := range []string{first, second} {
		within(t, patience, "the plugin is chained on "+n, func() error {
			return l.chained(n)
		})
	}
	l.kubectl(t, "apply", "-f", "deploy/web.yaml")
	l.rollout(t, "deployment/web")
}

func (l *lab) chained(node string) error {
	out, err := l.node(node, "cat", "/etc/cni/net.d/10-pods.conflist")
	if err == nil && !strings.Contains(out, "natless-cni") {
		err = fmt.Errorf("%s", out)
	}
	return err
}

// asks has a pod ask the server by its name, and gives the address that this sees.
func (l *lab) asks(name string) (seen netip.AddrPort, err error) {
	out, err := l.try("exec", name, "--", "/bin/probe", "get", "http://v4.lab/")
	if err != nil {
		return seen, err
	}
	return netip.ParseAddrPort(strings.Fields(out + " ?")[0])
}

func byName(t *testing.T, l *lab) {
	for _, n := range []string{first, second} {
		names := l.web(t, n)
		if len(names) < 2 {
			t.Fatalf("%s has the pods %v", n, names)
		}
		for _, p := range names {
			if seen, err := l.asks(p); err != nil || seen.Addr().String() != address4[n] {
				t.Errorf("%s on %s is seen as %v, want %s: %v", p, n, seen, address4[n], err)
			}
			if w, found := l.of(t, n, "default/"+p); !found || w.Address.String() != address4[n] {
				t.Errorf("%s has %+v", p, w)
			}
		}
	}
}

func whois(t *testing.T, l *lab) {
	for _, n := range []string{first, second} {
		for _, p := range l.web(t, n) {
			seen, err := l.asks(p)
			if err != nil {
				t.Fatal(err)
			}
			var owner api.Owner
			if err := l.natless(n, &owner, "whois", seen.String()); err != nil || owner.Name != "default/"+p {
				t.Errorf("%s is %s's: %v, want default/%s's", seen, owner.Name, err, p)
			}
		}
	}
}

// published: what comes from outside to the node's address and this port is the pod's,
// and others of the pool are not.
func published(t *testing.T, l *lab) {
	for i, n := range []string{first, second} {
		name := fmt.Sprint("published", i)
		l.create(t, pod{name: name, node: n, args: []string{"serve", "", "8443"},
			annotations: map[string]string{"natless.io/publish": "8443,8500-8501", "natless.io/ports": "512"}})
		l.runs(t, name)
		w, found := l.of(t, n, "default/"+name)
		if want := []uint16{8443, 8500, 8501}; !found || w.Request.Ports != 512 || !slices.Equal(w.Request.ExtraPorts, want) || w.Ports.Size() != 515 {
			t.Errorf("%s has %+v", name, w)
		}
		get := func(port int) (string, error) {
			return l.in("srv", filepath.Join(l.work, "bin/probe"), "get", fmt.Sprintf("http://%s:%d/", address4[n], port))
		}
		within(t, patience, "the server reaches the published port", func() error {
			out, err := get(8443)
			if err == nil && !strings.Contains(out, "asked "+name) {
				err = fmt.Errorf("%s answers", out)
			}
			return err
		})
		if out, err := get(8444); err == nil {
			t.Errorf("a port that nobody published answers: %s", out)
		}
		// It is this pod's alone.
		other := name + "-other"
		l.create(t, pod{name: other, node: n, annotations: map[string]string{"natless.io/publish": "8443"}})
		l.waits(t, other, "default/"+name)
	}
}

func nonsense(t *testing.T, l *lab) {
	before, err := l.workloads(first)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ key, value, says string }{
		"nonsense-ports":   {"natless.io/ports", "many", `natless.io/ports: "many" is not a number of ports`},
		"nonsense-publish": {"natless.io/publish", "http", "natless.io/publish: ports"},
		"nonsense-closed":  {"natless.io/publish", "22", "22 is not among the ports that pool"},
		"nonsense-pool":    {"natless.io/pool", "nowhere", "nowhere"},
		"nonsense-key":     {"natless.io/prots", "512", "natless.io/prots: there is no such annotation"},
		"nonsense-way":     {"natless.io/ipv4", "outside", "none of inside, prefix, none"},
	} {
		t.Run(name, func(t *testing.T) {
			l.create(t, pod{name: name, node: first, annotations: map[string]string{c.key: c.value}})
			l.waits(t, name, c.says)
		})
	}
	// They have ended, and left nothing.
	after, err := l.workloads(first)
	if err != nil || len(after) != len(before) {
		t.Errorf("before %d workloads, after %d: %v", len(before), len(after), err)
	}
}

func none(t *testing.T, l *lab) {
	l.create(t, pod{name: "none", node: first, annotations: map[string]string{"natless.io/ipv4": "none"}})
	l.runs(t, "none")
	if w, found := l.of(t, first, "default/none"); found {
		t.Errorf("it has %+v", w)
	}
	if seen, err := l.asks("none"); err == nil {
		t.Errorf("it reaches the server as %s", seen)
	}
}

// inside: what knows IPv4 alone, and a literal address, works as it is, seen from the
// node's address, and whois knows it.
func inside(t *testing.T, l *lab) {
	for i, n := range []string{first, second} {
		name := fmt.Sprint("inside", i)
		l.create(t, pod{name: name, node: n, annotations: map[string]string{"natless.io/ipv4": "inside"}})
		l.runs(t, name)
		w, found := l.of(t, n, "default/"+name)
		if !found || w.Inside == nil || w.Inside.Address.String() != address4[n] {
			t.Errorf("%s has %+v", name, w)
		}
		out, err := l.try("exec", name, "--", "/bin/probe", "get", "tcp4", "http://"+server+"/")
		if err != nil {
			t.Errorf("%s on %s, IPv4 alone: %v", name, n, err)
			continue
		}
		seen, err := netip.ParseAddrPort(strings.Fields(out)[0])
		if err != nil || seen.Addr().String() != address4[n] || !w.Ports.Contains(seen.Port()) {
			t.Errorf("%s is seen as %s %v", name, out, err)
		}
	}
}

// reused: the pool has room for one. The next pod waits until the one before it has
// ended, and gets its very ports.
func reused(t *testing.T, l *lab) {
	tight := map[string]string{"natless.io/pool": "tight"}
	l.create(t, pod{name: "tight1", node: first, annotations: tight})
	l.runs(t, "tight1")
	before, _ := l.of(t, first, "default/tight1")
	l.create(t, pod{name: "tight2", node: first, annotations: tight})
	l.waits(t, "tight2", "is exhausted")
	l.kubectl(t, "delete", "pod", "tight1", "--timeout=60s")
	l.runs(t, "tight2")
	after, found := l.of(t, first, "default/tight2")
	if !found || after.Address != before.Address || !after.Ports.Equal(before.Ports) || after.Serial <= before.Serial {
		t.Errorf("before %+v, after %+v", before, after)
	}
	seen, err := l.asks("tight2")
	if err != nil || seen.Addr() != after.Address || !after.Ports.Contains(seen.Port()) {
		t.Errorf("it is seen as %s: %v", seen, err)
	}
}
