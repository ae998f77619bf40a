//go:build linux

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// helm installs the chart over what the manifests left in the kernel, upgrades it, rolls
// back, and uninstalls, as README says: pods keep their assignments, connections go on,
// and in the end nothing is left but what README names.
func helm(t *testing.T, l *lab) {
	chart, values := l.chart(t)
	before := l.serials(t)
	l.kubectl(t, "delete", "-k", "deploy", "--timeout=120s")
	t.Cleanup(func() { l.deploy(t) })
	run := func(args ...string) string {
		t.Helper()
		out, err := l.in("cp", append([]string{"env", "HOME=" + t.TempDir(), filepath.Join(l.work, "bin/helm"),
			"--kubeconfig", filepath.Join(l.work, "admin.conf"), "--namespace", "natless-system"}, args...)...)
		if err != nil {
			t.Fatal(out, err)
		}
		return out
	}
	tag := func(n string) []string {
		return []string{"natless", chart, "--values", values, "--set-string", "image.repository=localhost/natless,image.tag=" + n, "--wait", "--timeout", "3m"}
	}
	run(append([]string{"install", "--create-namespace"}, tag("1")...)...)
	l.version(t, "0.0.1")
	l.hold(t, first, func() {
		l.hold(t, second, func() {
			run(append([]string{"upgrade"}, tag("2")...)...)
			l.version(t, "0.0.2")
			run("rollback", "natless", "1", "--wait", "--timeout", "3m")
			l.version(t, "0.0.1")
		})
	})
	if after := l.serials(t); !slices.Equal(before, after) {
		t.Errorf("the pods' assignments were %v, and are %v", before, after)
	}
	for _, n := range []string{first, second} {
		for _, p := range l.web(t, n) {
			if seen, err := l.asks(p); err != nil || seen.Addr().String() != address4[n] {
				t.Errorf("%s is seen as %s: %v", p, seen, err)
			}
		}
	}
	run("uninstall", "natless", "--wait", "--timeout", "3m")
	within(t, patience, "Helm leaves nothing in the namespace", func() error {
		out, err := l.try("-n", "natless-system", "get", "daemonsets,controllerrevisions,pods,configmaps,secrets,services", "-o", "name")
		if out != "configmap/kube-root-ca.crt" && err == nil { // every namespace has that
			err = errors.New(out)
		}
		return err
	})
	l.uninstalled(t)
}

// uninstalled takes natless from the nodes as README says, and looks whether it is gone.
func (l *lab) uninstalled(t *testing.T) {
	t.Helper()
	l.kubectl(t, "apply", "-k", "deploy/uninstall")
	l.rollout(t, "-n", "natless-system", "daemonset/natless-uninstall")
	for _, n := range []string{first, second} {
		out, err := l.node(n, "sh", "-c", left)
		if err != nil || out != "" {
			t.Errorf("left on %s:\n%s %v", n, out, err)
		}
		l.nodeReady(t, n)
	}
	l.kubectl(t, "delete", "namespace", "natless-system", "--timeout=120s")
}

// left tells what natless has left on a node that it should not have. What is in
// /opt/cni/bin and /var/lib/natless stays: README says why. So does what pods give back while
// there is no natlessd.
const left = `
nft list tables | grep natless
ip link show | grep natless
ip rule | grep -w 110; ip -6 rule | grep -w 110
ip route show table all | grep 'proto 110'; ip -6 route show table all | grep 'proto 110'
grep -l natless /etc/cni/net.d/*
ls -A /etc/cni/net.d | grep natless
ls -A /sys/fs/bpf | grep natless
ls -A /opt/cni/bin | grep 'natless.*[0-9]'
find /run/natless -mindepth 1 | grep -v '/released'
for l in $(ls /sys/class/net); do tc filter show dev $l ingress 2>/dev/null | grep natless; done
true`

// chart makes the chart of this tree, and values of the configuration that the manifests
// have.
func (l *lab) chart(t *testing.T) (folder, values string) {
	t.Helper()
	dir := t.TempDir()
	if out, err := run("env", "-C", root, "go", "-C", "config/deploy/release", "build", "-o", filepath.Join(dir, "release"), "."); err != nil {
		t.Fatal(out, err)
	}
	if out, err := run("env", "-C", root, filepath.Join(dir, "release"), "-only", "chart", "-version", "0.0.1", "-image", "localhost/natless", "-out", dir); err != nil {
		t.Fatal(out, err)
	}
	text, err := os.ReadFile("deploy/natless.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = append([]byte("cni: {args: [\"--annotations=ipv4,pool,ports,publish\"]}\nconfig:\n  "), bytes.ReplaceAll(text, []byte("\n"), []byte("\n  "))...)
	values = filepath.Join(dir, "values.yaml")
	if err := os.WriteFile(values, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "chart/natless"), values
}

// version waits until natlessd and the plugin of both nodes are of a version.
func (l *lab) version(t *testing.T, want string) {
	t.Helper()
	l.natlessReady(t)
	for _, n := range []string{first, second} {
		within(t, patience, "the plugin of "+n+" is "+want, func() error {
			out, err := l.node(n, "/opt/cni/bin/natless-cni", "--version")
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("it is %s", out)
			}
			return err
		})
	}
}
