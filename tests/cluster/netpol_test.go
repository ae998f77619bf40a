//go:build linux

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

// networkPolicies: what kube-router enforces holds for what natless translates. The fast
// path, which would pass its rules by, is left as long as they are there; and where IPv4 is
// inside, which they do not see, status says so.
func networkPolicies(t *testing.T, l *lab) {
	if _, err := os.Stat(filepath.Join(l.work, "bin/kube-router")); err != nil {
		t.Skip(err) // it is built where its many modules can be had
	}
	publish := map[string]string{"natless.io/publish": "8700,8701"}
	for _, n := range []string{first, second} {
		for _, p := range []pod{
			{name: "judged-" + n, node: n, args: []string{"serve", "", "8700"}, annotations: publish},
			{name: "free-" + n, node: n},
			{name: "insider-" + n, node: n, annotations: map[string]string{"natless.io/ipv4": "inside"}},
		} {
			l.create(t, p)
			l.runs(t, p.name)
		}
	}
	for _, n := range []string{first, second} {
		l.path(t, n, api.FastPathOn)
		l.connects(t, "judged-"+n, "v4.lab:7777", true)
		l.reached(t, n, true)
	}
	l.kubectl(t, "apply", "-f", "deploy/netpol.yaml")
	t.Cleanup(func() { l.try("delete", "-f", "deploy/netpol.yaml") })
	l.kubeRouter(t)
	for _, n := range []string{first, second} {
		l.path(t, n, api.FastPathOff)
		l.connects(t, "judged-"+n, "v4.lab:7777", false)
		l.connects(t, "judged-"+n, "v4.lab:80", true)
		l.connects(t, "free-"+n, "v4.lab:7777", true)
		l.reached(t, n, true)
		within(t, patience, "status says what the policies do not see", func() error {
			var s api.Status
			err := l.natless(n, &s, "status")
			if err == nil && !slices.ContainsFunc(s.Checks, func(c api.Check) bool {
				return c.Name == "inside" && c.State == "warn" && strings.Contains(c.Detail, "kube-router")
			}) {
				err = fmt.Errorf("%+v", s.Checks)
			}
			return err
		})
		out, _ := l.try("exec", "insider-"+n, "--", "/bin/probe", "get", "tcp4", "http://"+server+"/")
		t.Logf("what is inside of a pod on %s goes its way: %s", n, out)
	}
	l.kubectl(t, "patch", "networkpolicy", "judged", "--type=merge", "-p", `{"spec": {"ingress": []}}`)
	for _, n := range []string{first, second} {
		l.reached(t, n, false)
		l.connects(t, "judged-"+n, "v4.lab:80", true)
	}
	l.kubectl(t, "delete", "networkpolicy", "judged")
	for _, n := range []string{first, second} {
		l.connects(t, "judged-"+n, "v4.lab:7777", true)
		l.reached(t, n, true)
	}
	l.noKubeRouter(t)
	for _, n := range []string{first, second} {
		l.path(t, n, api.FastPathOn)
		l.connects(t, "judged-"+n, "v4.lab:7777", true)
	}
}

// path waits until the fast path is in a state; off, for rules that it would pass by.
func (l *lab) path(t *testing.T, node, state string) {
	t.Helper()
	within(t, patience, "the fast path of "+node+" is "+state, func() error {
		var s api.Status
		err := l.natless(node, &s, "status")
		if err == nil && (s.FastPath.State != state || state == api.FastPathOff && !strings.Contains(s.FastPath.Detail, "packets would bypass")) {
			err = fmt.Errorf("%s: %s", s.FastPath.State, s.FastPath.Detail)
		}
		return err
	})
}

// connects waits until a pod can connect, or cannot. The echo server's answer is none of
// HTTP.
func (l *lab) connects(t *testing.T, pod, to string, can bool) {
	t.Helper()
	within(t, patience, fmt.Sprintf("%s connects to %s: %t", pod, to, can), func() error {
		out, err := l.try("exec", pod, "--", "/bin/probe", "get", "http://"+to+"/")
		if did := err == nil || strings.Contains(err.Error(), "malformed HTTP"); did != can {
			return fmt.Errorf("%t: %s %w", did, out, err)
		}
		return nil
	})
}

// reached waits until the server reaches the judged pod of a node by its published port, or
// does not.
func (l *lab) reached(t *testing.T, node string, can bool) {
	t.Helper()
	within(t, patience, fmt.Sprintf("the server reaches the pod on %s: %t", node, can), func() error {
		out, err := l.in("srv", filepath.Join(l.work, "bin/probe"), "get", "http://"+address4[node]+":8700/")
		if did := err == nil && strings.Contains(out, "asked judged-"+node); did != can {
			return fmt.Errorf("%t: %s %w", did, out, err)
		}
		return nil
	})
}

// kubeRouter starts it on both nodes, for policies alone. What 2.1.0 does wrong with IPv6
// is put right on the way to the kernel: its rules name sets as those of IPv4 are named, and
// refuse the neighbour discovery of pods that a policy selects.
func (l *lab) kubeRouter(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { l.noKubeRouter(t) })
	const restore = "#!/bin/sh\nsed -e 's/--match-set KUBE-/--match-set inet6:KUBE-/g' -e '/^COMMIT/i -I KUBE-ROUTER-INPUT 1 -p ipv6-icmp -j ACCEPT' |\n" +
		"\t/usr/sbin/ip6tables-restore \"$@\"\n"
	for _, n := range []string{first, second} {
		log := filepath.Join(l.work, n, "log/kube-router")
		if out, err := l.node(n, "sh", "-c", "mkdir -p /run/kube-router && printf '%s' \"$1\" >/run/kube-router/ip6tables-restore && "+
			"chmod +x /run/kube-router/ip6tables-restore", "sh", restore); err != nil {
			t.Fatal(out, err)
		}
		if out, err := l.node(n, "sh", "-c", "PATH=/run/kube-router:$PATH kube-router --run-firewall --run-router=false --run-service-proxy=false --enable-ipv4=false --enable-ipv6 "+
			"--kubeconfig="+filepath.Join(l.work, "kube-router.conf")+" --hostname-override="+n+" --service-cluster-ip-range=2001:db8:5::/112 "+
			"--health-port=0 >>"+log+" 2>&1 </dev/null & echo $! >/run/kube-router.pid"); err != nil {
			t.Fatal(out, err)
		}
	}
}

// noKubeRouter ends it, and takes its rules away.
func (l *lab) noKubeRouter(t *testing.T) {
	for _, n := range []string{first, second} {
		if out, err := l.node(n, "sh", "-c", `[ ! -e /run/kube-router.pid ] || { kill $(cat /run/kube-router.pid); rm /run/kube-router.pid; sleep 1; }
			ip6tables-save | grep -v KUBE-ROUTER | grep -v KUBE-POD-FW | grep -v KUBE-NWPLCY | ip6tables-restore; ipset destroy 2>/dev/null || true`); err != nil {
			t.Error(out, err)
		}
	}
}
