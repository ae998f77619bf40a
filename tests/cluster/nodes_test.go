//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// held are the assignments that natless of a node has.
func (l *lab) held(t *testing.T, node string) []api.Workload {
	t.Helper()
	list, err := l.workloads(node)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// settled waits until a node's assignments are those of its pods that run, one each, of
// ports that nobody else has.
func (l *lab) settled(t *testing.T, node string) {
	t.Helper()
	within(t, patience, "the assignments of "+node+" are those of its pods", func() error {
		want := map[string]bool{}
		names, err := l.try("get", "pods", "--field-selector", "spec.nodeName="+node, "-o", "jsonpath={.items[*].metadata.name}")
		for _, name := range strings.Fields(names) {
			want["default/"+name] = true
		}
		if err != nil {
			return err
		}
		list, err := l.workloads(node)
		if err != nil {
			return err
		}
		taken := map[string]ports.Set{}
		for _, w := range list {
			if !want[w.Request.Name] {
				return fmt.Errorf("%s of %s has ports %s, and is no pod, or has them twice", w.Request.Name, w.Key, w.Ports)
			}
			delete(want, w.Request.Name)
			a := w.Address.String()
			if taken[a].Overlaps(w.Ports) {
				return fmt.Errorf("%s has ports of others: %s", w.Request.Name, w.Ports)
			}
			taken[a] = taken[a].Union(w.Ports)
		}
		if len(want) > 0 {
			return fmt.Errorf("%v have none", want)
		}
		return nil
	})
}

// freed says of each assignment that natlessd of the node gave it back, by its log, once,
// and that it is nobody's, or somebody's by a later number.
func (l *lab) freed(t *testing.T, node string, before []api.Workload) {
	t.Helper()
	out, err := l.node(node, "sh", "-c", "cat /var/log/pods/natless-system_natless-*/natlessd/*.log")
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "gave its assignment back") && !strings.Contains(line, "its assignment is free") {
			continue
		}
		for _, w := range before {
			if strings.Contains(line, w.ContainerID) {
				count[w.ContainerID]++
			}
		}
	}
	now := map[string]uint64{}
	for _, w := range l.held(t, node) {
		now[w.Request.Name] = w.Serial
	}
	for _, w := range before {
		if count[w.ContainerID] != 1 {
			t.Errorf("%s (%s) was freed %d times", w.Request.Name, w.ContainerID, count[w.ContainerID])
		}
		if serial, there := now[w.Request.Name]; there && serial <= w.Serial {
			t.Errorf("%s had assignment %d, and has %d", w.Request.Name, w.Serial, serial)
		}
	}
}

func drained(t *testing.T, l *lab) {
	l.settled(t, second)
	before := l.held(t, second)
	if len(before) < 2 {
		t.Fatalf("%s has %v", second, before)
	}
	l.hold(t, first, func() {
		l.kubectl(t, "drain", second, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
		l.rollout(t, "deployment/web")
		l.settled(t, second)
		l.settled(t, first)
		if left := l.held(t, second); len(left) > 0 {
			t.Errorf("%s has %v", second, left)
		}
		l.freed(t, second, before)
		if got := len(l.web(t, first)); got != 4 {
			t.Errorf("%s has %d pods", first, got)
		}
	})
	l.kubectl(t, "uncordon", second)
	l.spread(t)
}

// rebooted: everything that ran on the node is gone, and its network, at one moment.
func rebooted(t *testing.T, l *lab) {
	l.settled(t, second)
	before := l.held(t, second)
	l.hold(t, first, func() {
		l.script(t, "reboot", second)
		within(t, patience, "natlessd is ready", func() error { _, err := l.pid(second); return err })
		l.nodeReady(t, second)
		l.natlessReady(t)
		l.rollout(t, "deployment/web")
		l.settled(t, second)
		l.freed(t, second, before)
	})
	for _, p := range l.web(t, second) {
		within(t, patience, p+" reaches the server", func() error {
			seen, err := l.asks(p)
			if err == nil && seen.Addr().String() != address4[second] {
				err = fmt.Errorf("it is seen as %s", seen)
			}
			return err
		})
	}
	if len(before) < 2 {
		t.Errorf("%s had %v", second, before)
	}
}

// nodeDeleted: its pods are deleted with it, while it runs. It registers again when
// kubelet is restarted.
func nodeDeleted(t *testing.T, l *lab) {
	l.settled(t, second)
	before := l.held(t, second)
	l.hold(t, first, func() {
		l.kubectl(t, "delete", "node", second)
		l.registers(t, second)
		within(t, patience, "natlessd is ready", func() error { _, err := l.pid(second); return err })
		l.natlessReady(t)
		l.spread(t)
		l.settled(t, second)
		l.freed(t, second, before)
	})
}

// registers has kubelet make its node again. One that is slow to stays as it is (CSINode:
// node not found), until it is restarted once more.
func (l *lab) registers(t *testing.T, node string) {
	t.Helper()
	for range 4 {
		pid, err := l.node(node, "cat", "/run/kubelet.pid")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.node(node, "kill", pid); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if _, err := l.try("wait", "--for=condition=Ready", "node/"+node, "--timeout=1s"); err == nil {
				return
			}
		}
	}
	t.Fatalf("%s does not register", node)
}

// newNode: on a node that never had natless the network is as it was until natlessd is
// ready; then pods get IPv4.
func newNode(t *testing.T, l *lab) {
	l.away(t, second)
	l.forgets(t, second)
	if out, err := l.node(second, "rm", "/opt/cni/bin/natless-cni"); err != nil {
		t.Fatal(out, err)
	}
	l.script(t, "network", second)
	l.nodeReady(t, second) // as any node that has a network
	// natlessd cannot start: its socket's folder is a file.
	if out, err := l.node(second, "sh", "-c", "rm -rf /run/natless && mkdir -p /run/natless/natless.sock/x"); err != nil {
		t.Fatal(out, err)
	}
	mend := func() { l.node(second, "rmdir", "/run/natless/natless.sock/x", "/run/natless/natless.sock") }
	t.Cleanup(mend)
	if out, err := l.try("label", "node", second, "natless-"); err != nil {
		t.Fatal(out, err)
	}
	within(t, patience, "the installer waits", func() error {
		out, err := l.try("-n", "natless-system", "logs", l.agent(t, second), "-c", "cni-install")
		if err == nil && !strings.Contains(out, "waiting for natlessd") {
			err = errors.New(out)
		}
		return err
	})
	if l.chained(second) == nil {
		t.Error("it is chained, and natlessd cannot start")
	}
	l.create(t, pod{name: "early", node: second})
	l.runs(t, "early")
	mend()
	l.back(t, second)
	within(t, patience, "it is chained", func() error { return l.chained(second) })
	l.create(t, pod{name: "late", node: second})
	l.runs(t, "late")
	if seen, err := l.asks("late"); err != nil || seen.Addr().String() != address4[second] {
		t.Errorf("it is seen as %s: %v", seen, err)
	}
	if left, err := l.node(second, "sh", "-c", "ls -A /etc/cni/net.d /opt/cni/bin | grep natless-[0-9] || true"); err != nil || left != "" {
		t.Errorf("left: %s %v", left, err)
	}
	l.spread(t)
}
