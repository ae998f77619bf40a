//go:build linux

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// eviction is how long lab/up has pods left on a node that is not ready. In other
// clusters it is five minutes.
const eviction = 30 * time.Second

// statusOfNode: containerd 2.x calls STATUS when kubelet asks whether the network is
// ready. It calls neither CHECK nor GC (2.4.2).
func statusOfNode(t *testing.T, l *lab) {
	if c := l.condition(t, second); c != "True" {
		t.Fatalf("with natless the node is Ready: %s", c)
	}
	l.away(t, second)
	l.forgets(t, second)
	message := func() string {
		return l.kubectl(t, "get", "node", second, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`)
	}
	within(t, patience, "the node is not ready", func() error {
		if c := l.condition(t, second); c != "False" || !strings.Contains(message(), "natless.sock") {
			return fmt.Errorf("Ready: %s, %s", c, message())
		}
		return nil
	})
	// A pod that would be there all the same does not run without IPv4.
	l.create(t, pod{name: "unready", node: second, tolerates: true})
	l.waits(t, "unready", "natless.sock")
	within(t, patience, "what has no IPv4 is evicted", func() error {
		if left := l.web(t, second); len(left) > 0 {
			return fmt.Errorf("%v are there", left)
		}
		return nil
	})
	l.back(t, second)
	l.runs(t, "unready")
	if seen, err := l.asks("unready"); err != nil || seen.Addr().String() != address4[second] {
		t.Errorf("it is seen as %s: %v", seen, err)
	}
	l.spread(t)
}

// spread has the deployment's pods on both nodes again.
func (l *lab) spread(t *testing.T) {
	t.Helper()
	// A rollout would count those that go.
	l.kubectl(t, "scale", "deployment/web", "--replicas=0")
	within(t, patience, "no pod is left", func() error {
		out, err := l.try("get", "pods", "-l", "app=web", "-o", "name")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
	l.kubectl(t, "scale", "deployment/web", "--replicas=4")
	l.rollout(t, "deployment/web")
	within(t, patience, "the pods are on both nodes", func() error {
		if a, b := l.web(t, first), l.web(t, second); len(a) != 2 || len(b) != 2 {
			return fmt.Errorf("%v and %v", a, b)
		}
		return nil
	})
}

// attachment is what libcni keeps of an ADD of containerd's, to call CHECK and DEL with.
type attachment struct {
	Config      []byte            `json:"config"`
	ContainerID string            `json:"containerId"`
	IfName      string            `json:"ifName"`
	NetNS       string            `json:"netns"`
	CNIArgs     [][2]string       `json:"cniArgs"`
	Capability  map[string]any    `json:"capabilityArgs"`
	Result      json.RawMessage   `json:"result"`
	list        map[string]any    // the network's configuration
	plugin      map[string]any    // our part of it
	arguments   map[string]string // CNIArgs
}

// attachments are all of a node.
func (l *lab) attachments(t *testing.T, node string) (all []attachment) {
	t.Helper()
	out, err := l.node(node, "sh", "-c", "cat /var/lib/cni/results/pods-*")
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		a := attachment{arguments: map[string]string{}}
		if err := d.Decode(&a); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := json.Unmarshal(a.Config, &a.list); err != nil {
			t.Fatal(err)
		}
		for _, p := range a.list["plugins"].([]any) {
			if p := p.(map[string]any); p["type"] == "natless-cni" {
				a.plugin = p
			}
		}
		for _, pair := range a.CNIArgs {
			a.arguments[pair[0]] = pair[1]
		}
		all = append(all, a)
	}
	return all
}

// call calls the plugin on a node as libcni does, with more keys in its configuration.
func (l *lab) call(node, command string, a attachment, more map[string]any) (string, error) {
	conf := map[string]any{"cniVersion": a.list["cniVersion"], "name": a.list["name"]}
	for _, keys := range []map[string]any{a.plugin, more} {
		for k, v := range keys {
			conf[k] = v
		}
	}
	runtime := map[string]any{}
	for name := range a.plugin["capabilities"].(map[string]any) {
		if v, ok := a.Capability[name]; ok {
			runtime[name] = v
		}
	}
	conf["runtimeConfig"] = runtime
	text, err := json.Marshal(conf)
	if err != nil {
		return "", err
	}
	file := filepath.Join(l.work, node, "plugin.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return "", err
	}
	var arguments []string
	for k, v := range a.arguments {
		arguments = append(arguments, k+"="+v)
	}
	return l.node(node, "CNI_COMMAND="+command, "CNI_CONTAINERID="+a.ContainerID, "CNI_NETNS="+a.NetNS, "CNI_IFNAME="+a.IfName,
		"CNI_ARGS="+strings.Join(arguments, ";"), "CNI_PATH=/opt/cni/bin", "sh", "-c", "exec /opt/cni/bin/natless-cni <"+file)
}

// attached is what containerd has attached for a pod.
func (l *lab) attached(t *testing.T, node, name string) (a attachment, all []attachment) {
	t.Helper()
	all = l.attachments(t, node)
	for _, one := range all {
		if one.arguments["K8S_POD_NAME"] == name {
			a = one
		}
	}
	if a.plugin == nil {
		t.Fatalf("containerd has nothing of %s attached through natless-cni", name)
	}
	return a, all
}

func checkCNI(t *testing.T, l *lab) {
	for name, annotations := range map[string]map[string]string{
		"check-prefix": nil, "check-inside": {"natless.io/ipv4": "inside"}, "check-none": {"natless.io/ipv4": "none"},
		"check-ports": {"natless.io/publish": "8600", "natless.io/ports": "64"},
	} {
		l.create(t, pod{name: name, node: second, annotations: annotations})
		l.runs(t, name)
		a, _ := l.attached(t, second, name)
		if out, err := l.call(second, "CHECK", a, map[string]any{"prevResult": a.Result}); err != nil {
			t.Errorf("CHECK of %s: %s %v", name, out, err)
		}
		if name == "check-none" {
			continue
		}
		// Somebody changes the container's range of ports.
		if out, err := l.node(second, "nsenter", "--net="+a.NetNS, "sysctl", "-qw", "net.ipv4.ip_local_port_range=61000 61999"); err != nil {
			t.Fatal(out, err)
		}
		if out, err := l.call(second, "CHECK", a, map[string]any{"prevResult": a.Result}); err == nil || !strings.Contains(out, `"code": 108`) {
			t.Errorf("CHECK of %s with another range: %s %v", name, out, err)
		}
	}
}

func gcCNI(t *testing.T, l *lab) {
	l.create(t, pod{name: "garbage", node: second})
	l.runs(t, "garbage")
	garbage, all := l.attached(t, second, "garbage")
	before := l.serials(t)
	valid := func(but string) (list []map[string]string) {
		for _, a := range all {
			if a.ContainerID != but {
				list = append(list, map[string]string{"containerID": a.ContainerID, "ifname": a.IfName})
			}
		}
		return list
	}
	for _, c := range []struct {
		but   string
		there bool
	}{{"", true}, {garbage.ContainerID, false}} {
		if out, err := l.call(second, "GC", garbage, map[string]any{"cni.dev/valid-attachments": valid(c.but)}); err != nil {
			t.Fatalf("%s %v", out, err)
		}
		if _, found := l.of(t, second, "default/garbage"); found != c.there {
			t.Errorf("after GC without %q: there %t, want %t", c.but, found, c.there)
		}
	}
	if after := l.serials(t); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("others' assignments were %v, and are %v", before, after)
	}
}
