//go:build linux

package release

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/natless/natless/config"
)

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(file(t, "natless-*-chart.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// objects are what a chart or a manifest has, by kind and name, each strictly read where
// its type is Kubernetes' own.
type objects map[string]any

func read(t *testing.T, text string) objects {
	t.Helper()
	all := objects{}
	for part := range strings.SplitSeq("\n"+text, "\n---\n") {
		j, err := yaml.YAMLToJSONStrict([]byte(part))
		if err != nil {
			t.Fatalf("%v\n%s", err, part)
		}
		var is struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		if err := json.Unmarshal(j, &is); err != nil || is.Kind == "" {
			continue // a comment
		}
		into := map[string]any{
			"DaemonSet": &appsv1.DaemonSet{}, "ConfigMap": &corev1.ConfigMap{}, "Namespace": &corev1.Namespace{}, "Service": &corev1.Service{},
			"Deployment": &appsv1.Deployment{}, "ServiceAccount": &corev1.ServiceAccount{},
		}[is.Kind]
		if into == nil {
			into = &map[string]any{}
		}
		if unknown, err := kjson.UnmarshalStrict(j, into); err != nil || len(unknown) > 0 {
			t.Errorf("%s %s: %v %v", is.Kind, is.Metadata.Name, err, unknown)
		}
		all[is.Kind+"/"+is.Metadata.Name] = into
	}
	return all
}

// render is what helm template would print, with values as YAML.
func render(t *testing.T, values string) (objects, error) {
	t.Helper()
	c := load(t)
	var given map[string]any
	if err := yaml.Unmarshal([]byte(values), &given); err != nil {
		t.Fatal(err)
	}
	all, err := util.ToRenderValues(c, given, common.ReleaseOptions{Name: "v4", Namespace: "somewhere", IsInstall: true, Revision: 1}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".yaml") {
			fmt.Fprintf(&text, "\n---\n%s\n", files[name])
		}
	}
	return read(t, text.String()), nil
}

func mustRender(t *testing.T, values string) objects {
	t.Helper()
	all, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLint: helm lint has nothing to say, but that there is no icon.
func TestLint(t *testing.T) {
	dir := filepath.Join(unpack(t, file(t, "natless-*-chart.tgz")), "natless")
	for _, m := range lint.RunAll(dir, nil, "somewhere").Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
	c := load(t)
	if c.Metadata.Version != version(t) || c.Metadata.AppVersion != version(t) || c.Validate() != nil {
		t.Errorf("the chart is %s of %s: %v", c.Metadata.Version, c.Metadata.AppVersion, c.Validate())
	}
}

// TestChartIsManifest: with its own values the chart is install.yaml, but for what is
// Helm's: the names of the namespace and of the configuration.
func TestChartIsManifest(t *testing.T) {
	text, err := os.ReadFile(file(t, "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, all := read(t, string(text)), mustRender(t, "")
	want, got := manifest["DaemonSet/natless"].(*appsv1.DaemonSet), all["DaemonSet/natless"].(*appsv1.DaemonSet)
	var configs []string
	for name, o := range manifest {
		kind, _, _ := strings.Cut(name, "/")
		if c, is := o.(*corev1.ConfigMap); is {
			configs = append(configs, c.Name)
			same(t, c.Data["natless.yaml"], all["ConfigMap/natless"].(*corev1.ConfigMap).Data["natless.yaml"])
		} else if kind != "Namespace" && all[name] == nil {
			t.Errorf("install.yaml has %s, the chart has not", name)
		}
	}
	if len(configs) != 1 {
		t.Fatalf("ConfigMaps %v", configs)
	}
	want.Namespace = "somewhere"
	for i, v := range want.Spec.Template.Spec.Volumes {
		if v.ConfigMap != nil {
			want.Spec.Template.Spec.Volumes[i].ConfigMap.Name = "natless"
		}
	}
	if got.Spec.Template.Annotations["checksum/config"] == "" {
		t.Error("another configuration would not roll over the nodes")
	}
	delete(got.Spec.Template.Annotations, "checksum/config")
	for i := range got.Spec.Template.Spec.Containers {
		got.Spec.Template.Spec.Containers[i].ImagePullPolicy = ""
	}
	if !equality.Semantic.DeepEqual(want, got) {
		w, _ := yaml.Marshal(want)
		g, _ := yaml.Marshal(got)
		t.Errorf("install.yaml:\n%s\nthe chart:\n%s", w, g)
	}
	if image := want.Spec.Template.Spec.Containers[0].Image; image != "ghcr.io/natless/natless:"+strings.ReplaceAll(version(t), "+", "_") {
		t.Errorf("the image is %s", image)
	}
}

// same: two configurations say the same, and natlessd takes them.
func same(t *testing.T, one, two string) {
	t.Helper()
	var a, b any
	if err := yaml.Unmarshal([]byte(one), &a); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(two), &b); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(a, b) {
		t.Errorf("one configuration:\n%s\nthe other:\n%s", one, two)
	}
	taken(t, two)
}

// taken: natlessd would start with a configuration.
func taken(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "natless.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

// everything is each value with something in it.
const everything = `
image: {repository: r.example/n, digest: "sha256:0123456789012345678901234567890123456789012345678901234567890123", pullPolicy: Always}
imagePullSecrets: [{name: secret}]
config: {uplink: eth7, metrics: {listen: "[::]:9999"}, dns64: {enabled: true, upstreams: ["192.0.2.53:53"]}}
nodes:
  one: {pools: [{name: shared, ipv4: 198.51.100.4/30, ports_per_workload: 1024}]}
  two: {addresses: {ipv4: 192.0.2.1}}
natlessd: {resources: {limits: {memory: 1Gi}}}
cni: {confDir: /var/lib/rancher/k3s/agent/etc/cni/net.d, binDir: /bin/cni, args: [--pool, shared], resources: {requests: {cpu: 1}}}
podAnnotations: {a: "it's"}
podLabels: {b: "1"}
nodeSelector: {natless: "yes"}
tolerations: [{key: k, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
updateStrategy: {type: OnDelete}
terminationGracePeriodSeconds: 30
podMonitor: {enabled: true, labels: {release: prometheus}, interval: 15s}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true, annotations: {folder: network}}
`

// TestValues: each value arrives where it belongs, and what is made of them is what
// Kubernetes and natlessd take.
func TestValues(t *testing.T) {
	all := mustRender(t, everything)
	d := all["DaemonSet/natless"].(*appsv1.DaemonSet)
	pod := d.Spec.Template.Spec
	natlessd, cni := pod.Containers[0], pod.Containers[1]
	if natlessd.Name != "natlessd" {
		natlessd, cni = cni, natlessd
	}
	text, _ := yaml.Marshal(d)
	for _, want := range []string{
		"image: r.example/n@sha256:0123", "imagePullPolicy: Always", "- name: secret", "/etc/natless/$(NODE_NAME).yaml", "memory: 1Gi",
		"path: /var/lib/rancher/k3s/agent/etc/cni/net.d", "path: /bin/cni", "- --pool\n        - shared", "a: it's", `b: "1"`, `natless: "yes"`, "key: k",
		"nodeAffinity: {}", "priorityClassName: high", "type: OnDelete", "terminationGracePeriodSeconds: 30", "containerPort: 9999",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if len(cni.Args) < 5 || cni.Args[0] != "cni" || cni.Args[1] != "install" || natlessd.Resources.Requests != nil {
		t.Errorf("cni-install has %v, natlessd %v", cni.Args, natlessd.Resources)
	}
	files := all["ConfigMap/natless"].(*corev1.ConfigMap).Data
	if len(files) != 2 {
		t.Errorf("files %v", slices.Sorted(maps.Keys(files)))
	}
	for name, text := range files {
		taken(t, text)
		if !strings.Contains(text, "eth7") || strings.Contains(text, "198.51.100.4/30") != (name == "one.yaml") || strings.Contains(text, "192.0.2.1\n") != (name == "two.yaml") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	monitoring(t, all)
	privileged := mustRender(t, "privileged: true")["DaemonSet/natless"].(*appsv1.DaemonSet).Spec.Template.Spec.Containers[0].SecurityContext
	if privileged.Privileged == nil || !*privileged.Privileged || privileged.AllowPrivilegeEscalation != nil {
		t.Errorf("privileged: %+v", privileged)
	}
}

// monitoring: the rules are those that Prometheus' own tests have seen fire, and the
// dashboard the one beside them.
func monitoring(t *testing.T, all objects) {
	t.Helper()
	m := *all["PodMonitor/natless"].(*map[string]any)
	text, _ := json.Marshal(m)
	for _, want := range []string{`"port":"metrics"`, `"interval":"15s"`, `"release":"prometheus"`, `"jobLabel":"app.kubernetes.io/name"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	rules := *all["PrometheusRule/natless"].(*map[string]any)
	alerts, err := os.ReadFile(root + "/config/deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := yaml.Unmarshal(alerts, &want); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(want, rules["spec"]) {
		t.Error("the PrometheusRule has other alerts than config/deploy/prometheus")
	}
	dashboard, err := os.ReadFile(root + "/config/deploy/grafana/natless.json")
	if err != nil {
		t.Fatal(err)
	}
	c := all["ConfigMap/natless-dashboard"].(*corev1.ConfigMap)
	if c.Data["natless.json"] != string(dashboard) || c.Labels["grafana_dashboard"] != "1" || c.Annotations["folder"] != "network" {
		t.Errorf("the dashboard is another, or %v %v", c.Labels, c.Annotations)
	}
	service := mustRender(t, `{config: {metrics: {listen: ":9464"}}, serviceMonitor: {enabled: true}}`)
	s, is := service["Service/natless"].(*corev1.Service)
	if !is || s.Spec.Ports[0].Port != 9464 || service["ServiceMonitor/natless"] == nil || service["PodMonitor/natless"] != nil {
		t.Errorf("with serviceMonitor there is %v", slices.Sorted(maps.Keys(service)))
	}
}

// TestNonsense: the schema, or the chart, refuses what would not run, and says where.
func TestNonsense(t *testing.T) {
	for values, want := range map[string]string{
		`images: {}`:                       "images",
		`image: {tag: "a b"}`:              "tag",
		`image: {digest: sha1:0}`:          "digest",
		`image: {pullPolicy: sometimes}`:   "pullPolicy",
		`config: {prefix: "64:ff9b::/64"}`: "prefix",
		`config: {pools: [{name: x}]}`:     "pools",
		`config: null`:                     "config",
		`cni: {confDir: etc}`:              "confDir",
		`cni: {args: "--pool x"}`:          "args",
		`natlessd: {resource: {}}`:         "resource",
		`podLabels: {a: 1}`:                "podLabels",
		`tolerations: {}`:                  "tolerations",
		`updateStrategy: {type: Recreate}`: "updateStrategy",
		`podMonitor: {enabled: "yes"}`:     "podMonitor",
		`podMonitor: {enabled: true}`:      "config.metrics.listen is not set",
		`{config: {metrics: {listen: ":1"}}, podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}`: "read twice",
	} {
		if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// TestSchema: each value of the chart is in its schema, and nothing else.
func TestSchema(t *testing.T) {
	c := load(t)
	var schema struct{ Properties map[string]any }
	if err := json.Unmarshal(c.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	delete(schema.Properties, "global") // Helm's own
	if a, b := slices.Sorted(maps.Keys(c.Values)), slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(a, b) {
		t.Errorf("values.yaml has %v\nits schema %v", a, b)
	}
}

// TestFleet: the chart has a fleet's objects where values say so, those of install-fleet.yaml,
// and its resources' definitions in any case.
func TestFleet(t *testing.T) {
	for name := range mustRender(t, "") {
		if strings.Contains(name, "fleet") {
			t.Errorf("%s is there, and nobody wants a fleet", name)
		}
	}
	if crds := load(t).CRDObjects(); len(crds) != 4 {
		t.Errorf("%d definitions", len(crds))
	}
	text, err := os.ReadFile(file(t, "install-fleet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := mustRender(t, "fleet: {enabled: true, relays: {enabled: true, args: [--beat, 5s], nodeSelector: {edge: \"yes\"}}}")
	for name := range read(t, string(text)) {
		if !strings.HasPrefix(name, "CustomResourceDefinition/") && all[name] == nil {
			t.Errorf("install-fleet.yaml has %s, the chart has not", name)
		}
	}
	relay := all["DaemonSet/natless-fleet-relay"].(*appsv1.DaemonSet)
	if args := relay.Spec.Template.Spec.Containers[0].Args; args[0] != "relay" || args[len(args)-1] != "5s" || relay.Spec.Template.Spec.NodeSelector["edge"] != "yes" {
		t.Errorf("%+v", relay.Spec.Template.Spec)
	}
	if some := mustRender(t, "fleet: {enabled: true, controller: {enabled: false}}"); some["Deployment/natless-fleet-controller"] != nil ||
		some["DaemonSet/natless-fleet-agent"] == nil || some["DaemonSet/natless-fleet-relay"] != nil {
		t.Error("parts are there that are off, or the other way round")
	}
}
