package kubernetes

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	root     = "../.." // of the repository
	manifest = root + "/config/deploy/kubernetes/"
)

// rendered is what kubectl would send.
type rendered struct {
	namespaces []*corev1.Namespace
	configs    map[string]*corev1.ConfigMap
	daemons    map[string]*appsv1.DaemonSet

	// Of a fleet.
	deployments []*appsv1.Deployment
	accounts    map[string]*corev1.ServiceAccount
	roles       map[string]*rbacv1.ClusterRole
	bindings    []*rbacv1.ClusterRoleBinding
}

// render builds a folder and reads each object strictly as what it says it is.
func render(dir string) (*rendered, error) {
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", dir, err)
	}
	out := &rendered{configs: map[string]*corev1.ConfigMap{}, daemons: map[string]*appsv1.DaemonSet{},
		accounts: map[string]*corev1.ServiceAccount{}, roles: map[string]*rbacv1.ClusterRole{}}
	for _, o := range objects.Resources() {
		text, err := o.AsYAML()
		if err != nil {
			return nil, err
		}
		var into any
		switch kind := o.GetApiVersion() + " " + o.GetKind(); kind {
		case "v1 Namespace":
			n := &corev1.Namespace{}
			into, out.namespaces = n, append(out.namespaces, n)
		case "v1 ConfigMap":
			c := &corev1.ConfigMap{}
			into, out.configs[o.GetName()] = c, c
		case "apps/v1 Deployment":
			d := &appsv1.Deployment{}
			into = d
			out.deployments = append(out.deployments, d)
		case "v1 ServiceAccount":
			a := &corev1.ServiceAccount{}
			into, out.accounts[o.GetName()] = a, a
		case "rbac.authorization.k8s.io/v1 ClusterRole":
			r := &rbacv1.ClusterRole{}
			into, out.roles[o.GetName()] = r, r
		case "rbac.authorization.k8s.io/v1 ClusterRoleBinding":
			b := &rbacv1.ClusterRoleBinding{}
			into = b
			out.bindings = append(out.bindings, b)
		case "rbac.authorization.k8s.io/v1 Role":
			into = &rbacv1.Role{}
		case "rbac.authorization.k8s.io/v1 RoleBinding":
			into = &rbacv1.RoleBinding{}
		case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy":
			into = &admissionv1.ValidatingAdmissionPolicy{}
		case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding":
			into = &admissionv1.ValidatingAdmissionPolicyBinding{}
		case "apiextensions.k8s.io/v1 CustomResourceDefinition":
			into = &map[string]any{} // of the usual generator; the API server has taken it
		case "apps/v1 DaemonSet":
			d := &appsv1.DaemonSet{}
			into, out.daemons[o.GetName()] = d, d
		default:
			return nil, fmt.Errorf("%s: nobody expects a %s", dir, kind)
		}
		if err := decode(text, into); err != nil {
			return nil, fmt.Errorf("%s: %s %s: %w", dir, o.GetKind(), o.GetName(), err)
		}
	}
	return out, nil
}

// decode is the API server's: unknown fields are errors, and so is another case.
func decode(text []byte, into any) error {
	j, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	unknown, err := json.UnmarshalStrict(j, into)
	return errors.Join(append(unknown, err)...)
}

func mustRender(t *testing.T, dir string) *rendered {
	t.Helper()
	r, err := render(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// withComponent is a folder that adds a component to the base.
func withComponent(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(manifest, ".test-") // kustomize wants a path relative to it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text := "resources: [../base]\ncomponents: [../components/" + name + "]\n"
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRenders holds everything that is shipped against the API's types, and
// against what the API server says about pods that no type says.
func TestRenders(t *testing.T) {
	for name, dir := range map[string]string{
		"base": manifest + "base", "per-node": manifest + "overlays/per-node", "uninstall": manifest + "uninstall",
		"of the tests in a cluster": root + "/tests/cluster/deploy",
		"privileged":                withComponent(t, "privileged"), "annotations": withComponent(t, "annotations"),
	} {
		r := mustRender(t, dir)
		if len(r.daemons) != 1 {
			t.Errorf("%s: %d DaemonSets", name, len(r.daemons))
		}
		for _, d := range r.daemons {
			for _, problem := range problems(r, d) {
				t.Errorf("%s: %s: %s", name, d.Name, problem)
			}
		}
	}
}

// TestFleet: a fleet's agents and controller have what they need and no more: accounts that
// are there and that somebody binds, one token each in the pod that is theirs, no
// capability, nothing of the node but natlessd's socket and the machine's name.
func TestFleet(t *testing.T) {
	r := mustRender(t, manifest+"overlays/fleet")
	if len(r.daemons) != 3 || len(r.deployments) != 1 || len(r.accounts) != 3 {
		t.Fatalf("%d DaemonSets, %d Deployments, %d accounts", len(r.daemons), len(r.deployments), len(r.accounts))
	}
	if natless := r.daemons["natless"].Spec.Template.Spec; natless.ServiceAccountName != "" || *natless.AutomountServiceAccountToken {
		t.Error("natlessd has a token")
	}
	pods := map[string]corev1.PodSpec{"natless-fleet-controller": r.deployments[0].Spec.Template.Spec}
	for _, name := range []string{"natless-fleet-agent", "natless-fleet-relay"} {
		for _, problem := range problems(r, r.daemons[name]) {
			t.Errorf("%s: %s", name, problem)
		}
		pods[name] = r.daemons[name].Spec.Template.Spec
	}
	for name, pod := range pods {
		c := pod.Containers[0]
		if pod.ServiceAccountName != name || r.accounts[name] == nil || !*pod.AutomountServiceAccountToken || *r.accounts[name].AutomountServiceAccountToken {
			t.Errorf("%s: its account is %s", name, pod.ServiceAccountName)
		}
		if len(c.SecurityContext.Capabilities.Add) > 0 || *c.SecurityContext.AllowPrivilegeEscalation || !slices.Equal(c.SecurityContext.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: %+v", name, c.SecurityContext)
		}
		for _, v := range pod.Volumes {
			if p := v.HostPath.Path; p != "/run/natless" && p != "/etc/machine-id" {
				t.Errorf("%s has %s of the node", name, p)
			}
		}
		for _, m := range c.VolumeMounts {
			if !m.ReadOnly {
				t.Errorf("%s may write to %s", name, m.MountPath)
			}
		}
		bound := slices.ContainsFunc(r.bindings, func(b *rbacv1.ClusterRoleBinding) bool {
			return r.roles[b.RoleRef.Name] != nil && b.Subjects[0].Name == name && b.Subjects[0].Namespace == "natless-system"
		})
		if !bound {
			t.Errorf("%s has no rights", name)
		}
	}
	for name, role := range r.roles {
		for _, rule := range role.Rules {
			if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.Resources, "*") || slices.Contains(rule.Resources, "secrets") {
				t.Errorf("%s: %+v", name, rule)
			}
		}
	}
}

// problems is what is wrong with a DaemonSet though each field is known.
func problems(r *rendered, d *appsv1.DaemonSet) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	pod := d.Spec.Template.Spec
	if d.Namespace != "natless-system" {
		say("namespace %q", d.Namespace)
	}
	if d.Spec.Selector == nil || len(d.Spec.Selector.MatchLabels) == 0 {
		say("selects nothing")
	} else {
		for k, v := range d.Spec.Selector.MatchLabels {
			if d.Spec.Template.Labels[k] != v {
				say("does not select its own pods by %s", k)
			}
		}
	}
	volumes, used := map[string]corev1.Volume{}, map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
		if c := v.ConfigMap; c != nil && r.configs[c.Name] == nil {
			say("volume %s: there is no ConfigMap %s", v.Name, c.Name)
		}
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if c.Image == "" {
			say("%s has no image", c.Name)
		}
		at := map[string]bool{}
		for _, m := range c.VolumeMounts {
			if _, there := volumes[m.Name]; !there {
				say("%s: %s: there is no volume %q", c.Name, m.MountPath, m.Name)
			}
			if at[m.MountPath] || !path.IsAbs(m.MountPath) {
				say("%s: %s: mounted twice, or no absolute path", c.Name, m.MountPath)
			}
			at[m.MountPath], used[m.Name] = true, true
			if p := m.MountPropagation; p != nil && *p == corev1.MountPropagationBidirectional {
				say("%s: %s: only a privileged container may propagate to the host", c.Name, m.MountPath)
			}
		}
		s := c.SecurityContext
		privileged := s != nil && s.Privileged != nil && *s.Privileged
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			say("%s may write to its image", c.Name)
		}
		if !privileged && (s == nil || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"})) {
			say("%s does not drop all capabilities", c.Name)
		}
		if privileged && s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
			say("%s: the API server refuses privileged without allowPrivilegeEscalation", c.Name)
		}
	}
	for name := range volumes {
		if !used[name] {
			say("volume %s is mounted nowhere", name)
		}
	}
	return out
}

// TestMisspelling: what keeps the other tests honest.
func TestMisspelling(t *testing.T) {
	for from, to := range map[string]string{
		"hostNetwork: true":            "hostNetworks: true",
		"mountPath: /dev/net/tun":      "mountpath: /dev/net/tun",
		"maxUnavailable: 10%":          "maxUnavailble: 10%",
		"failureThreshold: 3":          "failureThreshold: three",
		"name: tun, mountPath":         "name: tunnel, mountPath",
		"type: CharDevice":             "typ: CharDevice",
		"configMap: {name: natless}":   "configMap: {name: natles}",
		"readOnlyRootFilesystem: true": "readOnlyRootFilesystem: false",
		"drop: [ALL]":                  "drop: [CHOWN]",
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(manifest+"base")); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "daemonset.yaml")
		text := read(t, file)
		if !strings.Contains(text, from) {
			t.Errorf("%q is not in the DaemonSet any more", from)
			continue
		}
		if err := os.WriteFile(file, []byte(strings.Replace(text, from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := render(dir)
		if err == nil && len(problems(r, r.daemons["natless"])) == 0 {
			t.Errorf("%q for %q: nobody notices", to, from)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func container(t *testing.T, d *appsv1.DaemonSet, name string) corev1.Container {
	t.Helper()
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no container %s", name)
	return corev1.Container{}
}

// TestCapabilities are those of the systemd unit, less what the manifest says.
func TestCapabilities(t *testing.T) {
	var unit []string
	for line := range strings.Lines(read(t, root+"/config/deploy/systemd/natlessd.service")) {
		if list, found := strings.CutPrefix(line, "CapabilityBoundingSet="); found {
			unit = strings.Fields(strings.ReplaceAll(list, "CAP_", ""))
		}
	}
	unit = slices.DeleteFunc(unit, func(c string) bool { return c == "CHOWN" }) // the socket's group is root
	d := mustRender(t, manifest+"base").daemons["natless"]
	var got []string
	for _, c := range container(t, d, "natlessd").SecurityContext.Capabilities.Add {
		got = append(got, string(c))
	}
	slices.Sort(unit)
	slices.Sort(got)
	if len(unit) == 0 || !slices.Equal(unit, got) {
		t.Errorf("the unit has %v, the DaemonSet %v", unit, got)
	}
	if add := container(t, d, "cni-install").SecurityContext.Capabilities.Add; len(add) > 0 {
		t.Errorf("cni-install gets %v", add)
	}
}

// TestHostPaths are those that the README lists, and no others.
func TestHostPaths(t *testing.T) {
	var want, got []string
	for line := range strings.Lines(read(t, manifest+"README.md")) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.HasPrefix(cells[1], " `/") {
			want = append(want, strings.Trim(cells[1], " `"))
		}
	}
	for _, v := range mustRender(t, manifest+"base").daemons["natless"].Spec.Template.Spec.Volumes {
		if v.HostPath != nil {
			got = append(got, v.HostPath.Path)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(want) == 0 || !slices.Equal(want, got) {
		t.Errorf("the README lists %v, the DaemonSet mounts %v", want, got)
	}
}
