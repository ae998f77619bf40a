//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
)

func deleted(t *testing.T, l *lab) {
	l.hold(t, first, func() {
		old := l.agent(t, first)
		l.kubectl(t, "-n", "natless-system", "delete", "pod", old, "--timeout=60s")
		l.natlessReady(t)
		if l.agent(t, first) == old {
			t.Errorf("%s is there as before", old)
		}
	})
}

// pid is the process of natlessd on a node, as the node counts them, when it is ready.
func (l *lab) pid(node string) (int, error) {
	var s api.Status
	if err := l.natless(node, &s, "status"); err != nil {
		return 0, err
	}
	if !s.Ready {
		return 0, errors.New("natlessd is not ready")
	}
	out, err := l.node(node, "pgrep", "-x", "natlessd")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out) // of one: two are an error
}

func killed(t *testing.T, l *lab) {
	l.hold(t, first, func() {
		pid, err := l.pid(first)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.node(first, "kill", "-9", fmt.Sprint(pid)); err != nil {
			t.Fatal(err)
		}
		within(t, patience, "there is another natlessd", func() error {
			now, err := l.pid(first)
			if err == nil && now == pid {
				err = errors.New("it is the same")
			}
			return err
		})
	})
	l.natlessReady(t)
}

// upgraded rolls to the next version and back, with a connection on each node.
func upgraded(t *testing.T, l *lab) {
	version := func(want string) {
		t.Helper()
		l.natlessReady(t)
		for _, n := range []string{first, second} {
			var s api.Status
			if err := l.natless(n, &s, "status"); err != nil || !strings.HasSuffix(s.Version, want) {
				t.Errorf("natlessd of %s is %s, want %s: %v", n, s.Version, want, err)
			}
			within(t, patience, "the plugin of "+n+" is "+want, func() error {
				out, err := l.node(n, "/opt/cni/bin/natless-cni", "--version")
				if err == nil && !strings.Contains(out, want) {
					err = errors.New(out)
				}
				return err
			})
		}
	}
	before := l.serials(t)
	l.hold(t, first, func() {
		l.hold(t, second, func() {
			l.kubectl(t, "-n", "natless-system", "set", "image", "daemonset/natless", "natlessd=localhost/natless:2", "cni-install=localhost/natless:2")
			version("0.0.2")
			l.kubectl(t, "-n", "natless-system", "rollout", "undo", "daemonset/natless")
			version("0.0.1")
		})
	})
	if after := l.serials(t); !slices.Equal(before, after) {
		t.Errorf("the pods' assignments were %v, and are %v", before, after)
	}
}

// serials are the assignments of the deployment's pods.
func (l *lab) serials(t *testing.T) (all []string) {
	t.Helper()
	for _, n := range []string{first, second} {
		list, err := l.workloads(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range list {
			if strings.HasPrefix(w.Request.Name, "default/web-") {
				all = append(all, fmt.Sprint(n, " ", w.Request.Name, " ", w.Serial, " ", w.Ports))
			}
		}
	}
	slices.Sort(all)
	return all
}

func restarted(t *testing.T, l *lab) {
	for _, program := range []string{"kubelet", "containerd"} {
		t.Run(program, func(t *testing.T) {
			before := l.serials(t)
			l.hold(t, first, func() {
				pid := func() string { out, _ := l.node(first, "cat", "/run/"+program+".pid"); return out }
				old := pid()
				if _, err := l.node(first, "kill", old); err != nil {
					t.Fatal(err)
				}
				within(t, patience, "there is another "+program, func() error {
					if now := pid(); now == old || now == "" {
						return fmt.Errorf("process %s", now)
					}
					return nil
				})
				// What it says of itself is of before for a while: a pod is proof.
				l.nodeReady(t, first)
				l.create(t, pod{name: "after-" + program, node: first})
				l.runs(t, "after-"+program)
			})
			if after := l.serials(t); !slices.Equal(before, after) {
				t.Errorf("the pods' assignments were %v, and are %v", before, after)
			}
		})
	}
}

// away takes natless from a node. What it made in the kernel stays.
func (l *lab) away(t *testing.T, node string) {
	t.Helper()
	l.kubectl(t, "label", "--overwrite", "node", node, "natless=off")
	t.Cleanup(func() { l.back(t, node) })
	within(t, patience, "natless is away from "+node, func() error {
		out, err := l.try("-n", "natless-system", "get", "pods", "--field-selector", "spec.nodeName="+node, "-o", "name")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}

func (l *lab) back(t *testing.T, node string) {
	t.Helper()
	if out, err := l.try("label", "node", node, "natless-"); err != nil {
		t.Fatal(out, err)
	}
	l.natlessReady(t)
	within(t, patience, "natlessd of "+node+" is ready", func() error { _, err := l.pid(node); return err })
	l.nodeReady(t, node)
}

// forgets takes out of a node's kernel what natlessd left there.
func (l *lab) forgets(t *testing.T, node string) {
	t.Helper()
	if out, err := l.node(node, l.work+"/programs/1/natlessd", "--config", l.work+"/cleanup.yaml", "--cleanup"); err != nil {
		t.Fatal(out, err)
	}
}

// outage: longer than pods are left on a node that is not ready. A pod that ends meanwhile
// has given back what it had when natlessd is there again.
func outage(t *testing.T, l *lab) {
	before := l.serials(t)
	l.create(t, pod{name: "leaves", node: first, annotations: map[string]string{"natless.io/publish": "8660"}})
	l.runs(t, "leaves")
	leaves, _ := l.of(t, first, "default/leaves")
	l.hold(t, first, func() {
		l.away(t, first)
		// Who ends meanwhile does, and nobody has to be there for that.
		l.kubectl(t, "delete", "pod", "leaves", "--timeout=60s")
		l.create(t, pod{name: "meanwhile", node: first})
		l.waits(t, "meanwhile", "natlessd")
		for end := time.Now().Add(2 * eviction); time.Now().Before(end); time.Sleep(time.Second) {
			if c := l.condition(t, first); c != "True" {
				t.Fatalf("the node is Ready: %s", c)
			}
		}
		for _, p := range l.web(t, first) {
			// A new connection, by the kernel alone; DNS64 is natlessd's.
			if out, err := l.try("exec", p, "--", "/bin/probe", "get", "http://[64:ff9b::"+server+"]/"); err != nil || !strings.HasPrefix(out, address4[first]) {
				t.Errorf("%s: %s %v", p, out, err)
			}
		}
		l.back(t, first)
		l.runs(t, "meanwhile")
		l.freed(t, first, []api.Workload{leaves})
	})
	if after := l.serials(t); !slices.Equal(before, after) {
		t.Errorf("the pods' assignments were %v, and are %v", before, after)
	}
}
