//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

// services: pods of either kind reach services, on their own node and the other, by the
// service's address and by ports of nodes, whichever way kube-proxy has its rules, and the
// IPv4-only server as before. Connections outlive a change of the way.
func services(t *testing.T, l *lab) {
	kinds := map[string]string{first: "inside-first", second: "inside-second"}
	for n, name := range kinds {
		l.create(t, pod{name: name, node: n, annotations: map[string]string{"natless.io/ipv4": "inside"}, args: []string{"serve", "", "8080"}})
		l.runs(t, name)
	}
	l.create(t, pod{name: "backend", node: first, args: []string{"serve", "", "8080"}})
	l.runs(t, "backend")
	var ask []asked
	for service, backend := range map[string]string{"prefix-backend": "backend", "inside-backend": kinds[second]} {
		ask = append(ask, l.service(t, service, backend))
	}
	t.Cleanup(func() { l.proxy(t, "") })
	l.hold(t, first, func() {
		l.holdTo(t, second, server+":7777", map[string]string{"natless.io/ipv4": "inside"}, func() {
			for _, c := range []struct{ name, options, state string }{
				{"nftables", "", api.FastPathOn},
				{"iptables liberal", "--proxy-mode=iptables --conntrack-tcp-be-liberal", api.FastPathOn},
				{"iptables", "--proxy-mode=iptables", api.FastPathOff}, // it drops what connection tracking has not seen
				{"nftables again", "", api.FastPathOn},
			} {
				t.Run(c.name, func(t *testing.T) {
					l.proxy(t, c.options)
					for _, n := range []string{first, second} {
						l.asksServices(t, n, c.state, append(l.web(t, n), kinds[n]), ask)
						within(t, patience, "status finds the usual rules harmless", func() error { return l.says(n, "others' nat", "ok", "kube-proxy's usual rule") })
					}
					l.fromOutside(t, ask)
				})
			}
		})
	})
}

// asked is a service, and which pod answers.
type asked struct {
	backend string
	address string // of the service
	port    string // of every node
}

// service makes a service of one pod.
func (l *lab) service(t *testing.T, name, backend string) asked {
	t.Helper()
	l.kubectl(t, "create", "service", "nodeport", name, "--tcp=80:8080")
	t.Cleanup(func() { l.try("delete", "service", name) })
	l.kubectl(t, "patch", "service", name, "--type=merge", "-p", `{"spec": {"selector": {"app": null, "name": "`+backend+`"}}}`)
	f := strings.Fields(l.kubectl(t, "get", "service", name, "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}"))
	return asked{backend: backend, address: f[0], port: f[1]}
}

// proxy starts kube-proxy of both nodes with options, and waits until the rules are its.
func (l *lab) proxy(t *testing.T, options string) {
	t.Helper()
	for _, n := range []string{first, second} {
		script := "rm -f /run/proxy"
		if options != "" {
			script = "echo '" + options + "' >/run/proxy"
		}
		// What --conntrack-tcp-be-liberal sets outlives kube-proxy.
		if out, err := l.node(n, "sh", "-c", script+"; sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=0; kill $(cat /run/kube-proxy.pid)"); err != nil {
			t.Fatal(out, err)
		}
		within(t, patience, "kube-proxy's rules on "+n+" with "+options, func() error {
			nft, err := l.node(n, "nft", "list", "tables", "ip6")
			if err != nil {
				return err
			}
			old, err := l.node(n, "ip6tables-save")
			if has := strings.Contains(nft, "kube-proxy"); err == nil && (has != (options == "") || strings.Contains(old, "KUBE-SVC") == has ||
				strings.Contains(old, "--ctstate INVALID") != (options != "" && !strings.Contains(options, "liberal"))) {
				err = errors.New(nft + "\n" + old)
			}
			return err
		})
	}
}

// asksServices has pods of a node ask services and the server, and looks at which way the
// packets took.
func (l *lab) asksServices(t *testing.T, node, state string, pods []string, ask []asked) {
	t.Helper()
	within(t, patience, "the fast path of "+node+" is "+state, func() error {
		var s api.Status
		err := l.natless(node, &s, "status")
		if err == nil && s.FastPath.State != state {
			err = fmt.Errorf("%+v", s.FastPath)
		}
		return err
	})
	before := l.translated(t, node)
	for _, p := range pods {
		for _, a := range ask {
			if a.backend == p {
				continue // a bridge sends nothing back where it came from (hairpinMode)
			}
			for _, to := range []string{a.address, address6[first] + "]:" + a.port, address6[second] + "]:" + a.port} {
				l.answers(t, p, a.backend, to)
			}
		}
		seen, err := l.asksServer(p)
		if err != nil || !strings.HasPrefix(seen, address4[node]+":") {
			t.Errorf("%s is seen by the server as %s: %v", p, seen, err)
		}
	}
	if after := l.translated(t, node); (after > before) != (state == api.FastPathOn) {
		t.Errorf("the fast path of %s is %s, and has translated %d packets", node, state, after-before)
	}
}

// asksServer has a pod ask the server by IPv4 where that is inside, by name else.
func (l *lab) asksServer(name string) (string, error) {
	if strings.HasPrefix(name, "inside") {
		return l.try("exec", name, "--", "/bin/probe", "get", "tcp4", "http://"+server+"/")
	}
	return l.try("exec", name, "--", "/bin/probe", "get", "http://v4.lab/")
}

// answers says that a pod gets an answer of another by an address, or one and a port.
func (l *lab) answers(t *testing.T, from, backend, to string) {
	t.Helper()
	if !strings.Contains(to, "]") {
		to += "]"
	}
	within(t, patience, from+" reaches "+backend+" by "+to, func() error {
		out, err := l.try("exec", from, "--", "/bin/probe", "get", "http://["+to+"/")
		if err == nil && !strings.Contains(out, "asked "+backend) {
			err = fmt.Errorf("%s answers", out)
		}
		return err
	})
}

// fromOutside asks ports of nodes from a host that is none.
func (l *lab) fromOutside(t *testing.T, ask []asked) {
	t.Helper()
	for _, a := range ask {
		for _, n := range []string{first, second} {
			out, err := l.in("cp", l.work+"/bin/probe", "get", "http://["+address6[n]+"]:"+a.port+"/")
			if err != nil || !strings.Contains(out, "asked "+a.backend) {
				t.Errorf("port %s of %s: %s %v", a.port, n, out, err)
			}
		}
	}
}

// translated is how many packets the kernel has translated on a node.
func (l *lab) translated(t *testing.T, node string) (n uint64) {
	t.Helper()
	var s api.Status
	if err := l.natless(node, &s, "status"); err != nil {
		t.Fatal(err)
	}
	for _, c := range s.FastPath.Translated {
		n += c.Packets
	}
	return n
}
