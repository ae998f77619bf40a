//go:build linux

package cluster

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// What users of other networks of Kubernetes have reported.

// sameName: a pod is deleted by force, and there is one of its name at once, as a
// StatefulSet makes it. It has an assignment of its own, and the published port when the
// first has given it back.
func sameName(t *testing.T, l *lab) {
	p := pod{name: "same", node: first, args: []string{"serve", "", "8650"}, annotations: map[string]string{"natless.io/publish": "8650"}}
	var serial uint64
	for range 3 {
		l.create(t, p)
		l.runs(t, p.name)
		w, found := l.of(t, first, "default/"+p.name)
		if !found || w.Serial <= serial {
			t.Errorf("assignment %d, before %d: %t", w.Serial, serial, found)
		}
		serial = w.Serial
		within(t, patience, "the server reaches it", func() error {
			out, err := l.in("srv", filepath.Join(l.work, "bin/probe"), "get", "http://"+address4[first]+":8650/")
			if err == nil && !strings.Contains(out, "asked "+p.name) {
				err = fmt.Errorf("%s answers", out)
			}
			return err
		})
		l.kubectl(t, "delete", "pod", p.name, "--force", "--grace-period=0")
	}
	l.settled(t, first)
}

// pluginRemoved: somebody cleans up /opt/cni/bin. The program is put back.
func pluginRemoved(t *testing.T, l *lab) {
	if out, err := l.node(second, "rm", "/opt/cni/bin/natless-cni"); err != nil {
		t.Fatal(out, err)
	}
	l.create(t, pod{name: "removed", node: second})
	l.runs(t, "removed")
	if seen, err := l.asks("removed"); err != nil || seen.Addr().String() != address4[second] {
		t.Errorf("it is seen as %s: %v", seen, err)
	}
}

// secondNetwork: a configuration appears that the engine takes before the one that there
// was. The plugin is chained into it too; pods of either have IPv4, and give it back, the
// configuration gone or not.
func secondNetwork(t *testing.T, l *lab) {
	const other = "/etc/cni/net.d/05-other.conflist"
	out, err := l.node(second, "cat", "/etc/cni/net.d/10-pods.conflist")
	if err != nil {
		t.Fatal(out, err)
	}
	var list struct {
		Version string           `json:"cniVersion"`
		Name    string           `json:"name"`
		Plugins []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	list.Name, list.Plugins = "other", list.Plugins[:1] // without us
	r := list.Plugins[0]["ipam"].(map[string]any)["ranges"].([]any)[0].([]any)[0].(map[string]any)
	r["rangeStart"] = strings.TrimSuffix(r["subnet"].(string), "/64") + "1000"
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	remove := func() {
		if out, err := l.node(second, "rm", "-f", other); err != nil {
			t.Error(out, err)
		}
	}
	t.Cleanup(remove)
	l.create(t, pod{name: "earlier", node: second})
	l.runs(t, "earlier")
	if out, err := l.node(second, "sh", "-c", "printf '%s' \"$1\" >/etc/cni/net.d/.other && mv /etc/cni/net.d/.other "+other, "sh", string(text)); err != nil {
		t.Fatal(out, err)
	}
	within(t, patience, "the plugin is chained into the other, too", func() error {
		out, err := l.node(second, "cat", other)
		if err == nil && !strings.Contains(out, "natless-cni") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	l.create(t, pod{name: "later", node: second})
	l.runs(t, "later")
	for _, p := range []string{"earlier", "later"} {
		if seen, err := l.asks(p); err != nil || seen.Addr().String() != address4[second] {
			t.Errorf("%s is seen as %s: %v", p, seen, err)
		}
	}
	if w, _ := l.of(t, second, "default/later"); w.Request.Network != "other" {
		t.Errorf("it is of the network %s", w.Request.Network)
	}
	l.kubectl(t, "delete", "pod", "earlier", "--timeout=120s")
	remove()
	l.kubectl(t, "delete", "pod", "later", "--timeout=120s")
	l.settled(t, second)
}
