//go:build linux

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
)

// without is what natlessd lacks when one thing is taken from its container: either it
// does not start, or something that the test names is not as it was.
type without struct {
	capability string
	volume     string
	other      string
	change     func(pod, container map[string]any)
	lacks      func(s api.Status, log string) bool // nil: it does not get ready
}

func notOn(s api.Status, _ string) bool { return s.FastPath.State != api.FastPathOn }

// warns says that natless status names what is lacking.
func warns(check, words string) func(api.Status, string) bool {
	return func(s api.Status, _ string) bool {
		return slices.ContainsFunc(s.Checks, func(c api.Check) bool { return c.Name == check && c.State != "ok" && strings.Contains(c.Detail, words) })
	}
}

// privilege takes each right and each mount from natlessd, one by one, on a node of its
// own, and sees what it was for. What is left out: where the socket and the assignments
// are, and the pods' namespaces, which the other checks need. That the API server is asked
// nothing needs no test: the pods have no token.
func privilege(t *testing.T, l *lab) {
	l.away(t, second)
	// With everything, as a pod of its own: what fails below fails for what is taken.
	l.trial(t, without{}, func(s api.Status, log string) bool { return s.Ready && s.FastPath.State == api.FastPathOn })
	for _, w := range []without{
		{capability: "NET_ADMIN"},
		{capability: "BPF", lacks: notOn},
		{capability: "PERFMON", lacks: notOn},
		{capability: "NET_RAW", lacks: warns("announcements", "CAP_NET_RAW")},
		{volume: "tun"},
		{volume: "config"},
		{volume: "sysctls"},
		{volume: "bpf", lacks: notOn},
		{other: "the node's network", change: func(pod, _ map[string]any) { delete(pod, "hostNetwork") }},
		{other: "the root user", change: func(_, c map[string]any) {
			c["securityContext"].(map[string]any)["runAsUser"], c["securityContext"].(map[string]any)["runAsGroup"] = 65534, 65534
		}},
		{other: "freedom of system calls", lacks: func(_ api.Status, log string) bool { return strings.Contains(log, "io=plain") },
			change: func(_, c map[string]any) {
				c["securityContext"].(map[string]any)["seccompProfile"] = map[string]any{"type": "RuntimeDefault"}
			}},
	} {
		t.Run(w.capability+w.volume+w.other, func(t *testing.T) { l.trial(t, w, w.lacks) })
	}
	l.installerTrials(t)
}

// installerTrials takes the mounts of the container that installs the plugin from it: it
// says what it lacks, and the pod network stays as it is.
func (l *lab) installerTrials(t *testing.T) {
	before, err := l.node(second, "cat", "/etc/cni/net.d/10-pods.conflist")
	if err != nil {
		t.Fatal(err)
	}
	for volume, says := range map[string]string{"cni-conf": "--conf-dir /host/etc/cni/net.d", "cni-bin": "--bin-dir /host/opt/cni/bin"} {
		t.Run(volume, func(t *testing.T) {
			const name = "trial-installer"
			l.createTrial(t, l.trialPod(t, name, 1, without{volume: volume}))
			defer l.kubectl(t, "-n", "natless-system", "delete", "pod", name, "--grace-period=1", "--timeout=120s")
			within(t, patience, "it says that it lacks "+volume, func() error {
				out, err := l.try("-n", "natless-system", "logs", name)
				if err == nil && !strings.Contains(out, says) {
					err = errors.New(out)
				}
				return err
			})
			if after, err := l.node(second, "cat", "/etc/cni/net.d/10-pods.conflist"); err != nil || after != before {
				t.Errorf("the pod network was\n%s\nand is\n%s %v", before, after, err)
			}
		})
	}
}

func (l *lab) createTrial(t *testing.T, pod map[string]any) {
	t.Helper()
	text, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.work, "trial.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l.kubectl(t, "-n", "natless-system", "create", "-f", file)
}

// trial runs natlessd without something.
func (l *lab) trial(t *testing.T, w without, want func(api.Status, string) bool) {
	t.Helper()
	l.forgets(t, second)
	const name = "trial"
	l.createTrial(t, l.trialPod(t, name, 0, w))
	defer l.kubectl(t, "-n", "natless-system", "delete", "pod", name, "--grace-period=5", "--timeout=120s")
	var log string
	var s api.Status
	seen := func() error {
		log, _ = l.try("-n", "natless-system", "logs", name, "-c", "natlessd")
		previous, _ := l.try("-n", "natless-system", "logs", name, "-c", "natlessd", "--previous")
		log += previous
		s = api.Status{}
		err := l.natless(second, &s, "status")
		if want == nil { // it ends before it is ready, and is started again; or it waits for what is not there
			restarts, _ := l.try("-n", "natless-system", "get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
			if err == nil && s.Ready {
				return fmt.Errorf("natlessd is ready without it")
			}
			events, _ := l.try("-n", "natless-system", "events", "--for", "pod/"+name)
			if (restarts == "" || restarts == "0") && log == "" && (strings.Contains(events, "network is not ready") || strings.Contains(events, "natless.sock")) {
				return nil // it waits for itself
			}
			if (restarts == "" || restarts == "0") && strings.Count(log, "natlessd is not ready yet") < 2 {
				return fmt.Errorf("it has neither been started again nor said that it waits: %q", log)
			}
			return nil
		}
		if err == nil && (!s.Ready || !want(s, log)) {
			return fmt.Errorf("ready: %t, and nothing is lacking: fast path %s, %+v", s.Ready, s.FastPath.State, s.Checks)
		}
		return err
	}
	within(t, time.Minute, fmt.Sprintf("without %s%s%s natlessd lacks something", w.capability, w.volume, w.other), seen)
	t.Logf("without %s%s%s: ready %t, fast path %s\n%s", w.capability, w.volume, w.other, s.Ready, s.FastPath.State, lastLines(log, 4))
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// trialPod is the DaemonSet's pod, of one of its containers alone, less what is taken.
func (l *lab) trialPod(t *testing.T, name string, container int, w without) map[string]any {
	t.Helper()
	var d struct {
		Spec struct {
			Template struct {
				Spec map[string]any `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(l.kubectl(t, "-n", "natless-system", "get", "daemonset", "natless", "-o", "json")), &d); err != nil {
		t.Fatal(err)
	}
	spec := d.Spec.Template.Spec
	c := spec["containers"].([]any)[container].(map[string]any)
	spec["containers"] = []any{c}
	spec["nodeName"] = second
	delete(spec, "affinity")
	for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
		delete(c, probe)
	}
	rights := c["securityContext"].(map[string]any)["capabilities"].(map[string]any)
	if add, ok := rights["add"].([]any); ok {
		rights["add"] = slices.DeleteFunc(add, func(v any) bool { return v == w.capability })
	}
	if w.change != nil {
		w.change(spec, c)
	}
	is := func(key string) func(any) bool {
		return func(v any) bool { return v.(map[string]any)[key] == w.volume }
	}
	c["volumeMounts"] = slices.DeleteFunc(c["volumeMounts"].([]any), is("name"))
	spec["volumes"] = slices.DeleteFunc(spec["volumes"].([]any), is("name"))
	return map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "namespace": "natless-system"}, "spec": spec}
}
