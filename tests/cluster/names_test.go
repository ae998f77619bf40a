//go:build linux

package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// coreDNS: pods whose resolver is the cluster's CoreDNS reach IPv4-only servers by name,
// and services, whichever of the two makes the addresses, or both.
func coreDNS(t *testing.T, l *lab) {
	l.kubectl(t, "apply", "-f", "deploy/coredns.yaml")
	l.kubectl(t, "create", "secret", "generic", "coredns", "--from-file=kubeconfig="+filepath.Join(l.work, "coredns.conf"))
	t.Cleanup(func() {
		l.try("delete", "secret", "coredns")
		l.try("delete", "-f", "deploy/coredns.yaml")
	})
	l.create(t, pod{name: "backend", node: first, args: []string{"serve", "", "8080"}})
	l.service(t, "backend", "backend")
	for _, way := range []string{"dns64", "natless", "both"} {
		t.Run(way, func(t *testing.T) {
			resolver := "coredns-" + way
			l.create(t, pod{name: resolver, node: first, more: coreDNSPod(way)})
			l.runs(t, resolver)
			l.kubectl(t, "wait", "--for=condition=Ready", "pod/"+resolver, "--timeout=180s")
			l.kubectl(t, "create", "service", "clusterip", resolver, "--tcp=53:53")
			t.Cleanup(func() { l.try("delete", "service", resolver) })
			l.kubectl(t, "patch", "service", resolver, "--type=merge", "-p", `{"spec": {"selector": {"app": null, "name": "`+resolver+`"},
				"ports": [{"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53, "protocol": "TCP"}]}}`)
			address := l.kubectl(t, "get", "service", resolver, "-o", "jsonpath={.spec.clusterIP}")
			for _, node := range []string{first, second} {
				for _, kind := range []string{"prefix", "inside"} {
					l.resolves(t, node, kind, way, address)
				}
			}
		})
	}
}

// resolves has a pod with that resolver ask by names.
func (l *lab) resolves(t *testing.T, node, kind, way, resolver string) {
	t.Helper()
	name := kind + "-" + way + "-" + node
	l.create(t, pod{name: name, node: node, annotations: map[string]string{"natless.io/ipv4": kind}, more: map[string]any{
		"dnsPolicy": "None",
		"dnsConfig": map[string]any{"nameservers": []string{resolver}, "searches": []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"},
			"options": []any{map[string]any{"name": "ndots", "value": "5"}}},
	}})
	l.runs(t, name)
	var out string
	within(t, patience, name+" reaches the server by name", func() (err error) {
		out, err = l.try("exec", name, "--", "/bin/probe", "get", "http://v4.lab/")
		return err
	})
	if !strings.HasPrefix(out, address4[node]+":") {
		t.Errorf("%s is seen by the server as %s", name, out)
	}
	for _, service := range []string{"backend", "backend.default.svc.cluster.local"} {
		within(t, patience, name+" reaches the service", func() error {
			out, err := l.try("exec", name, "--", "/bin/probe", "get", "http://"+service+"/")
			if err == nil && !strings.Contains(out, "asked backend") {
				err = fmt.Errorf("%s answers", out)
			}
			return err
		})
	}
	if out, err := l.try("exec", name, "--", "/bin/probe", "get", "http://nobody.lab/"); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("a name that nobody has: %s %v", out, err)
	}
}

// coreDNSPod is what its pod has besides.
func coreDNSPod(way string) map[string]any {
	return map[string]any{
		"volumes": []any{
			map[string]any{"name": "config", "configMap": map[string]any{"name": "coredns"}},
			map[string]any{"name": "identity", "secret": map[string]any{"secretName": "coredns"}},
		},
		"containers": []any{map[string]any{"name": "coredns", "image": "localhost/addons:1", "command": []string{"/bin/coredns", "-conf", "/etc/coredns/" + way},
			"readinessProbe": map[string]any{"httpGet": map[string]any{"path": "/ready", "port": 8181}, "periodSeconds": 1},
			"volumeMounts": []any{
				map[string]any{"name": "config", "mountPath": "/etc/coredns"},
				map[string]any{"name": "identity", "mountPath": "/etc/coredns-identity"},
			}}},
	}
}
