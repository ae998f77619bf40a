//go:build linux

package cluster

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

// list has a node's engine take a list of plugins, by a name that stands before or after
// others', and waits until natless-cni is chained into it.
func (l *lab) list(t *testing.T, node, file, plugins string) {
	t.Helper()
	name := strings.TrimSuffix(file[3:], ".conflist")
	text := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [%s]}`, name, plugins)
	path := "/etc/cni/net.d/" + file
	if out, err := l.node(node, "sh", "-c", "printf '%s' \"$1\" >/etc/cni/net.d/.new && mv /etc/cni/net.d/.new \"$2\"", "sh", text, path); err != nil {
		t.Fatal(out, err)
	}
	within(t, patience, "the plugin is chained into "+file, func() error {
		out, err := l.node(node, "cat", path)
		if err == nil && !strings.Contains(out, "natless-cni") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
}

// publishes is a pod that serves at a port, which is the host's, too.
func publishes(name string, port, hostPort int, annotations map[string]string) pod {
	return pod{name: name, node: first, annotations: annotations, more: map[string]any{"containers": []any{map[string]any{
		"name": "probe", "image": "localhost/probe:1", "args": []string{"serve", "", fmt.Sprint(port)},
		"ports": []any{map[string]any{"containerPort": port, "hostPort": hostPort}}}}}}
}

// atHost waits until a pod answers at a port of the first node's, of either family.
func (l *lab) atHost(t *testing.T, from, address string, port int, want string) {
	t.Helper()
	within(t, patience, fmt.Sprintf("%s answers at port %d of %s", want, port, address), func() error {
		out, err := l.in(from, filepath.Join(l.work, "bin/probe"), "get", fmt.Sprintf("http://%s:%d/", address, port))
		if err == nil && !strings.Contains(out, "asked "+want) {
			err = fmt.Errorf("%s answers", out)
		}
		return err
	})
}

// hostPorts: portmap publishes ports of the node's IPv6 address, natless of its IPv4
// address, the same number of one pod or of two. A port of IPv4 that portmap publishes for a
// pod of another network is refused to a pod that asks for it, which is told why, until
// portmap's is gone.
func hostPorts(t *testing.T, l *lab) {
	const portmap = `{"type": "portmap", "capabilities": {"portMappings": true}}`
	t.Cleanup(func() {
		l.forgetsPort(t)
		l.node(first, "rm", "-f", "/etc/cni/net.d/05-dual.conflist")
		l.script(t, "network", first)
		within(t, patience, "the network is as it was", func() error { return l.chained(first) })
	})
	l.list(t, first, "10-pods.conflist", `{"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "2001:db8:6:1::/64"}]], "routes": [{"dst": "::/0"}]}}, `+portmap)
	at6 := "[" + address6[first] + "]"
	publish := func(port int) map[string]string {
		return map[string]string{"natless.io/publish": fmt.Sprint(port)}
	}
	l.create(t, publishes("hostport-both", 8443, 8443, publish(8443)))
	l.create(t, publishes("hostport-six", 8500, 8500, nil))
	l.create(t, pod{name: "hostport-four", node: first, args: []string{"serve", "", "8500"}, annotations: publish(8500)})
	for _, name := range []string{"hostport-both", "hostport-six", "hostport-four"} {
		l.runs(t, name)
	}
	l.atHost(t, "cp", at6, 8443, "hostport-both")
	l.atHost(t, "srv", address4[first], 8443, "hostport-both")
	l.atHost(t, "cp", at6, 8500, "hostport-six")
	l.atHost(t, "srv", address4[first], 8500, "hostport-four")

	// A network whose pods have IPv4 of their own.
	l.list(t, first, "05-dual.conflist", `{"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "2001:db8:6:1::/64", "rangeStart": "2001:db8:6:1::2000"}],
		[{"subnet": "172.20.0.0/24"}]], "routes": [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}]}}, `+portmap)
	l.create(t, publishes("hostport-dual", 8600, 8600, map[string]string{"natless.io/ipv4": "none"}))
	l.runs(t, "hostport-dual")
	l.atHost(t, "cp", at6, 8600, "hostport-dual")
	if out, err := l.node(first, "rm", "/etc/cni/net.d/05-dual.conflist"); err != nil {
		t.Fatal(out, err)
	}
	within(t, patience, "status names the port", func() error { return l.says(first, "others' nat", "warn", "publishes port 8600") })
	l.create(t, pod{name: "hostport-wants", node: first, args: []string{"serve", "", "8600"}, annotations: publish(8600)})
	l.waits(t, "hostport-wants", "somebody else publishes one of them on "+address4[first])
	l.kubectl(t, "delete", "pod", "hostport-dual", "--timeout=120s")
	l.forgetsPort(t)
	l.runs(t, "hostport-wants")
	l.atHost(t, "srv", address4[first], 8600, "hostport-wants")
	within(t, patience, "status is content", func() error { return l.says(first, "others' nat", "ok", "") })
}

// forgetsPort has portmap take back what it published for the pod of the network that there
// is no more: containerd 2.4 calls DEL of the network that it has now, so that rules of
// another stay, as users of portmap report.
func (l *lab) forgetsPort(t *testing.T) {
	t.Helper()
	out, err := l.node(first, "sh", "-c", `for f in /var/lib/cni/results/dual-*-eth0; do [ -e "$f" ] || continue
		id=${f#*/dual-}; echo '{"cniVersion": "1.0.0", "name": "dual", "type": "portmap",
			"runtimeConfig": {"portMappings": [{"hostPort": 8600, "containerPort": 8600, "protocol": "tcp"}]}}' |
		CNI_COMMAND=DEL CNI_CONTAINERID=${id%-eth0} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/portmap; done`)
	if err != nil {
		t.Fatal(out, err)
	}
}

// says is nil when a check of a node's natlessd is in a state, with words.
func (l *lab) says(node, check, state, words string) error {
	var s api.Status
	if err := l.natless(node, &s, "status"); err != nil {
		return err
	}
	if !slices.ContainsFunc(s.Checks, func(c api.Check) bool {
		return c.Name == check && c.State == state && strings.Contains(c.Detail, words)
	}) {
		return fmt.Errorf("%+v", s.Checks)
	}
	return nil
}
