//go:build linux

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

var (
	folder = flag.String("cluster", "", "`folder` of the cluster, in which tests/cluster/lab/build has built; without it nothing of a cluster is tested")
	keep   = flag.Bool("keep", false, "leave the cluster as it is in the end, and take one that is there")
)

const (
	root   = "../.." // of the repository
	first  = "n1"    // has its pods behind ptp
	second = "n2"    // has them behind a bridge
	server = "198.51.100.10"
)

// address4 is a node's own, which its pods share.
var address4 = map[string]string{first: "192.0.2.11", second: "192.0.2.12"}

var address6 = map[string]string{first: "2001:db8:1::11", second: "2001:db8:1::12"}

// lab is the cluster.
type lab struct {
	work  string
	holds int
}

// run runs a command, bounded.
func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &problem, time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err, &out, &problem)
	}
	return strings.TrimSpace(out.String()), nil
}

// script runs one of lab/.
func (l *lab) script(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := run("env", append([]string{"WORK=" + l.work, filepath.Join("lab", name)}, args...)...); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
}

// in runs a command in a network of the cluster.
func (l *lab) in(network string, args ...string) (string, error) {
	return run("nsenter", append([]string{"--net=/run/netns/cluster-" + network}, args...)...)
}

// node runs a command in a node: in its mounts, processes and network.
func (l *lab) node(node string, args ...string) (string, error) {
	pid, err := os.ReadFile(filepath.Join(l.work, node, "init"))
	if err != nil {
		return "", err
	}
	path := "PATH=" + filepath.Join(l.work, "bin") + ":" + os.Getenv("PATH")
	return run("nsenter", append([]string{"-t", strings.TrimSpace(string(pid)), "-m", "-p", "-n", "-u", "env", path}, args...)...)
}

func (l *lab) try(args ...string) (string, error) {
	return l.in("cp", append([]string{filepath.Join(l.work, "bin/kubectl"), "--kubeconfig=" + filepath.Join(l.work, "admin.conf")}, args...)...)
}

func (l *lab) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.try(args...)
	for end := time.Now().Add(patience); err != nil && busy(err) && time.Now().Before(end); time.Sleep(time.Second) {
		out, err = l.try(args...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// busy says that the API server had no time to answer. What was asked was not done, or can
// be asked again.
func busy(err error) bool {
	return slices.ContainsFunc([]string{"TLS handshake timeout", "Client.Timeout exceeded", "connection refused", "etcdserver: request timed out"},
		func(words string) bool { return strings.Contains(err.Error(), words) })
}

// natless runs the operator's command on a node, and reads its answer into v.
func (l *lab) natless(node string, v any, args ...string) error {
	out, err := l.node(node, append([]string{filepath.Join(l.work, "programs/1/natless"), "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), v)
}

// workloads are what natless has on a node.
func (l *lab) workloads(node string) (list []api.Workload, err error) {
	return list, l.natless(node, &list, "workloads")
}

// of gives the workload of a pod, and whether there is one.
func (l *lab) of(t *testing.T, node, pod string) (w api.Workload, found bool) {
	t.Helper()
	list, err := l.workloads(node)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range list {
		if one.Request.Name == pod {
			if found {
				t.Errorf("%s has two assignments on %s", pod, node)
			}
			w, found = one, true
		}
	}
	return w, found
}

// within polls until f has no error.
func within(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}

// patience is how long something may take on a machine that does much besides.
const patience = 3 * time.Minute

func (l *lab) rollout(t *testing.T, what ...string) {
	t.Helper()
	l.kubectl(t, append([]string{"rollout", "status", "--timeout=180s"}, what...)...)
}

// natlessReady waits for the DaemonSet.
func (l *lab) natlessReady(t *testing.T) {
	t.Helper()
	l.rollout(t, "-n", "natless-system", "daemonset/natless")
}

// agent is natless's own pod on a node; "": none runs.
func (l *lab) agent(t *testing.T, node string) string {
	t.Helper()
	all := strings.Fields(l.kubectl(t, "-n", "natless-system", "get", "pods", "-l", "app.kubernetes.io/name=natless",
		"--field-selector", "spec.nodeName="+node+",status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

func (l *lab) nodeReady(t *testing.T, node string) {
	t.Helper()
	l.kubectl(t, "wait", "--for=condition=Ready", "node/"+node, "--timeout=180s")
}

// condition is whether a node is Ready: True, False or Unknown.
func (l *lab) condition(t *testing.T, node string) string {
	t.Helper()
	return l.kubectl(t, "get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
}

// web are the names of the deployment's pods that run on a node.
func (l *lab) web(t *testing.T, node string) []string {
	t.Helper()
	return strings.Fields(l.kubectl(t, "get", "pods", "-l", "app=web", "--field-selector", "spec.nodeName="+node+",status.phase=Running",
		"-o", "jsonpath={.items[*].metadata.name}"))
}

// pod is one that a test creates.
type pod struct {
	name        string
	node        string
	annotations map[string]string
	args        []string       // of probe
	tolerates   bool           // a node that is not ready, or drained
	more        map[string]any // of its specification, instead
}

// create creates it, and removes it when the test ends.
func (l *lab) create(t *testing.T, p pod) {
	t.Helper()
	spec := map[string]any{
		"nodeSelector": map[string]string{"kubernetes.io/hostname": p.node}, "restartPolicy": "Never", "automountServiceAccountToken": false,
		"terminationGracePeriodSeconds": 1,
		"containers":                    []any{map[string]any{"name": "probe", "image": "localhost/probe:1", "args": p.args}},
	}
	if p.tolerates {
		spec["tolerations"] = []any{map[string]any{"operator": "Exists"}}
	}
	maps.Copy(spec, p.more)
	object := map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": spec,
		"metadata": map[string]any{"name": p.name, "annotations": p.annotations, "labels": map[string]string{"name": p.name}}}
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pod.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, patience, "pod "+p.name+" is created", func() error { // a busy API server is asked again
		_, err := l.try("create", "--validate=false", "-f", file)
		if err != nil && strings.Contains(err.Error(), "AlreadyExists") {
			return nil
		}
		return err
	})
	t.Cleanup(func() { l.try("delete", "pod", p.name, "--ignore-not-found", "--wait=true", "--timeout=60s") })
}

func (l *lab) phase(name string) (string, error) {
	return l.try("get", "pod", name, "-o", "jsonpath={.status.phase}")
}

// runs waits for a pod to run.
func (l *lab) runs(t *testing.T, name string) {
	t.Helper()
	within(t, patience, "pod "+name+" runs", func() error {
		phase, err := l.phase(name)
		if err == nil && phase != "Running" {
			events, _ := l.try("events", "--for", "pod/"+name)
			err = fmt.Errorf("it is %s\n%s", phase, events)
		}
		return err
	})
}

// waits says that a pod does not start, and that its events say why.
func (l *lab) waits(t *testing.T, name, why string) {
	t.Helper()
	within(t, patience, "pod "+name+" waits, and its events say why", func() error {
		phase, err := l.phase(name)
		events, _ := l.try("events", "--for", "pod/"+name)
		if err == nil && (phase != "Pending" || !strings.Contains(events, why)) {
			err = fmt.Errorf("it is %s, %q is wanted\n%s", phase, why, events)
		}
		return err
	})
}

// hold has a pod keep one connection busy, through DNS64, over what is done to its node
// meanwhile. A pod, not kubectl exec, whose stream would end with kubelet.
func (l *lab) hold(t *testing.T, node string, done func()) {
	t.Helper()
	l.holdTo(t, node, "v4.lab:7777", nil, done)
}

// holdTo is the same, to an address, from a pod with annotations.
func (l *lab) holdTo(t *testing.T, node, to string, annotations map[string]string, done func()) {
	t.Helper()
	l.holds++
	name := fmt.Sprint("hold", l.holds)
	l.create(t, pod{name: name, node: node, args: []string{"hold", to}, annotations: annotations, tolerates: true})
	said := func(want string) func() error {
		return func() error {
			if out, err := l.try("logs", name); err != nil || !strings.Contains(out, want) {
				events, _ := l.try("events", "--for", "pod/"+name)
				return fmt.Errorf("it said %q, %v\n%s", out, err, events)
			}
			return nil
		}
	}
	within(t, patience, "a connection to the server", said("connected"))
	done()
	// The pod's own process is asked to end, and tells.
	if out, err := l.try("exec", name, "--", "/bin/probe", "end"); err != nil {
		t.Logf("%s %v", out, err)
	}
	within(t, time.Minute, "the connection was kept", said("kept"))
	out, _ := l.try("logs", name)
	t.Log(out[strings.Index(out, "kept"):])
}

// newLab makes the cluster, with natless's own image in it, or takes the one that is there.
func newLab(t *testing.T) *lab {
	t.Helper()
	if *folder == "" {
		t.Skip("make test-cluster runs it")
	}
	netns.Require(t, netns.Root, "ip", "nsenter", "unshare", "sysctl", "openssl", "dnsmasq", "runc", "ip6tables-nft", "ipset")
	work, err := filepath.Abs(*folder)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{work: work}
	if !*keep {
		l.script(t, "down") // what one before left that was killed
		t.Cleanup(func() { l.script(t, "down") })
	}
	if _, err := l.try("get", "nodes"); *keep && err == nil {
		return l
	}
	l.images(t)
	start := time.Now()
	l.script(t, "up")
	t.Logf("two nodes are Ready after %v", time.Since(start).Round(time.Second))
	return l
}

// images builds the programs, in two versions, and makes images of them.
func (l *lab) images(t *testing.T) {
	t.Helper()
	must := func(name string, args ...string) {
		t.Helper()
		if out, err := run(name, args...); err != nil {
			t.Fatalf("%s %v", out, err)
		}
	}
	conf := "prefix: 64:ff9b::/96\naddresses: {ipv4: 192.0.0.8, ipv6: \"2001:db8:64::1\"}\ninside: {device: natless4}\n"
	if err := os.WriteFile(filepath.Join(l.work, "cleanup.yaml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	must("rm", "-rf", filepath.Join(l.work, "images"), filepath.Join(l.work, "image"))
	for _, dir := range []string{"images", "image/probe/bin", "image/addons/bin", "image/natless/usr/bin", "programs"} {
		must("mkdir", "-p", filepath.Join(l.work, dir))
	}
	build := func(to string, args ...string) {
		t.Helper()
		must("env", append([]string{"CGO_ENABLED=0", "go", "build", "-C", root, "-buildvcs=false", "-trimpath", "-o", to}, args...)...)
	}
	image := func(name, dir string, entry ...string) {
		t.Helper()
		file := filepath.Join(l.work, "images", strings.NewReplacer("/", "-", ":", "-").Replace(name)+".tar")
		must("lab/image", append([]string{name, file, filepath.Join(l.work, "image", dir)}, entry...)...)
	}
	build(filepath.Join(l.work, "bin/probe"), "./tests/cluster/probe")
	must("cp", filepath.Join(l.work, "bin/probe"), filepath.Join(l.work, "image/probe/bin"))
	must("cp", filepath.Join(l.work, "bin/addons"), filepath.Join(l.work, "image/addons/bin/coredns"))
	image("localhost/addons:1", "addons", "/bin/coredns")
	image("localhost/probe:1", "probe", "/bin/probe")
	image("registry.k8s.io/pause:3.10", "probe", "/bin/probe", "pause")
	for _, version := range []string{"1", "2"} {
		programs := filepath.Join(l.work, "programs", version)
		must("make", "-C", root, "build", "BIN="+programs, "VERSION=v0.0."+version)
		must("cp", "-r", programs+"/.", filepath.Join(l.work, "image/natless/usr/bin"))
		image("localhost/natless:"+version, "natless", "/usr/bin/natlessd")
	}
}
