package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// chart writes the Helm chart: what stands in kubernetes/chart, and the base's manifests
// with Helm's expressions where an installation may want something else. So there is one
// source for both, and what the base gets the chart has.
func chart(m *made) error {
	from, to := filepath.Join(m.Source, "kubernetes/chart"), filepath.Join(m.Out, "chart/natless")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	for name, path := range map[string]string{"alerts.yaml": "prometheus/alerts.yaml", "dashboard.json": "grafana/natless.json"} {
		data, err := os.ReadFile(filepath.Join(m.Source, path))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(to, "files", name), data); err != nil {
			return err
		}
	}
	if err := fill(filepath.Join(to, "Chart.yaml"), "version: 0.0.0\nappVersion: 0.0.0\n", fmt.Sprintf("version: %q\nappVersion: %q\n", m.Version, m.Version)); err != nil {
		return err
	}
	if err := fill(filepath.Join(to, "values.yaml"), "repository: natless\n", "repository: "+m.Image+"\n"); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(m.Source, "kubernetes/base/natless.yaml"))
	if err != nil {
		return err
	}
	if err := fill(filepath.Join(to, "values.yaml"), "config: {}\n", "config:\n"+indent(string(config))); err != nil {
		return err
	}
	text, err := templates(m)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(to, "templates/natless.yaml"), text); err != nil {
		return err
	}
	return fleet(m, to)
}

// fleet writes what a fleet needs besides: the resources' definitions, which Helm installs
// first, and all else where values say so.
func fleet(m *made, to string) error {
	text, err := render(m, "fleet")
	if err != nil {
		return err
	}
	e := &expressions{}
	out := []byte("# Made of config/deploy/kubernetes/fleet: see config/deploy/release/chart.go.\n{{- if .Values.fleet.enabled }}\n")
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var object map[string]any
		if err := yaml.Unmarshal(part, &object); err != nil {
			return err
		}
		name := object["metadata"].(map[string]any)["name"].(string)
		if object["kind"] == "CustomResourceDefinition" {
			if err := write(filepath.Join(to, "crds", name+".yaml"), append(part, '\n')); err != nil {
				return err
			}
			continue
		}
		when := map[string]string{"natless-fleet-relay": "relays", "natless-fleet-agent": "agents", "natless-fleet-controller": "controller"}[name]
		if spec, ok := object["spec"].(map[string]any); ok && spec["template"] != nil {
			e.fleetPod(spec["template"].(map[string]any)["spec"].(map[string]any), when)
		} else {
			when = ""
		}
		if part, err = yaml.Marshal(object); err != nil {
			return err
		}
		if when != "" {
			part = fmt.Appendf(nil, "{{- if .Values.fleet.%s.enabled }}\n---\n%s{{- end }}\n", when, part)
		} else {
			part = append([]byte("---\n"), part...)
		}
		out = append(out, part...)
	}
	out = append(out, "{{- end }}\n"...)
	out = bytes.ReplaceAll(out, []byte("namespace: natless-system\n"), []byte("namespace: {{ .Release.Namespace }}\n"))
	return write(filepath.Join(to, "templates/fleet.yaml"), e.put(out))
}

// fleetPod puts expressions into a pod of the fleet's.
func (e *expressions) fleetPod(pod map[string]any, values string) {
	e.or(pod, "imagePullSecrets", "imagePullSecrets")
	e.or(pod, "nodeSelector", "fleet."+values+".nodeSelector")
	for _, c := range pod["containers"].([]any) {
		container := c.(map[string]any)
		container["image"] = e.add(`{{ include "natless.image" . | toJson }}`)
		container["imagePullPolicy"] = e.add(`{{ .Values.image.pullPolicy | toJson }}`)
		e.or(container, "resources", "fleet."+values+".resources")
		container["args"] = e.add(`{{ concat ` + parsed(container["args"]) + ` .Values.fleet.` + values + `.args | toJson }}`)
	}
}

// fill replaces what a file has in one place.
func fill(file, from, to string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), from); n != 1 {
		return fmt.Errorf("%s has %q %d times", file, from, n)
	}
	return write(file, []byte(strings.Replace(string(text), from, to, 1)))
}

func indent(text string) string {
	lines := regexp.MustCompile(`(?m)^(.)`)
	return lines.ReplaceAllString(text, "  $1")
}

// templates are the base's objects, less what the chart has of its own: its
// configuration, and the namespace, which is Helm's.
func templates(m *made) ([]byte, error) {
	text, err := render(m, "base")
	if err != nil {
		return nil, err
	}
	out := []byte("# Made of config/deploy/kubernetes/base: see config/deploy/release/chart.go.\n")
	daemons, e := 0, &expressions{}
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var object map[string]any
		if err := yaml.Unmarshal(part, &object); err != nil {
			return nil, err
		}
		switch object["kind"] {
		case "Namespace", "ConfigMap":
			continue
		case "DaemonSet":
			daemons++
			if err := e.daemonSet(object); err != nil {
				return nil, err
			}
		}
		part, err := yaml.Marshal(object)
		if err != nil {
			return nil, err
		}
		out = append(append(out, "---\n"...), part...)
	}
	if daemons != 1 {
		return nil, fmt.Errorf("base: %d DaemonSets", daemons)
	}
	out = bytes.ReplaceAll(out, []byte("namespace: natless-system\n"), []byte("namespace: {{ .Release.Namespace }}\n"))
	return e.put(out), nil
}

// expressions are Helm's. While the manifest is YAML a word stands for each. What they
// give is JSON, which is YAML too, of whatever kind the value is.
type expressions []string

func (e *expressions) add(text string) string {
	*e = append(*e, text)
	return fmt.Sprintf("EXPRESSION%d", len(*e)-1)
}

func (e *expressions) put(text []byte) []byte {
	return regexp.MustCompile(`EXPRESSION\d+`).ReplaceAllFunc(text, func(word []byte) []byte {
		var n int
		fmt.Sscanf(string(word), "EXPRESSION%d", &n)
		return []byte((*e)[n])
	})
}

// daemonSet puts expressions into the DaemonSet. What it has by itself is the default, in
// the expression: values.yaml does not repeat it.
func (e *expressions) daemonSet(object map[string]any) error {
	spec := object["spec"].(map[string]any)
	e.or(spec, "updateStrategy", "updateStrategy")
	template := spec["template"].(map[string]any)
	meta := template["metadata"].(map[string]any)
	e.extend(meta, "annotations", `(dict "checksum/config" (include "natless.config" . | sha256sum)) .Values.podAnnotations`)
	e.extend(meta, "labels", ".Values.podLabels")
	pod := template["spec"].(map[string]any)
	for _, field := range []string{"tolerations", "nodeSelector", "affinity", "priorityClassName", "imagePullSecrets", "terminationGracePeriodSeconds"} {
		e.or(pod, field, field)
	}
	for _, v := range pod["volumes"].([]any) {
		volume := v.(map[string]any)
		switch volume["name"] {
		case "config":
			volume["configMap"] = map[string]any{"name": "natless"}
		case "cni-conf":
			e.or(volume["hostPath"].(map[string]any), "path", "cni.confDir")
		case "cni-bin":
			e.or(volume["hostPath"].(map[string]any), "path", "cni.binDir")
		}
	}
	containers := map[string]map[string]any{}
	for _, c := range pod["containers"].([]any) {
		container := c.(map[string]any)
		containers[container["name"].(string)] = container
		container["image"] = e.add(`{{ include "natless.image" . | toJson }}`)
		container["imagePullPolicy"] = e.add(`{{ .Values.image.pullPolicy | toJson }}`)
	}
	if len(containers) != 2 || containers["natlessd"] == nil || containers["cni-install"] == nil {
		return fmt.Errorf("the chart knows the containers natlessd and cni-install, and the base has %d", len(containers))
	}
	e.natlessd(containers["natlessd"])
	cni := containers["cni-install"]
	e.or(cni, "resources", "cni.resources")
	cni["args"] = e.add(`{{ concat ` + parsed(cni["args"]) + ` .Values.cni.args | toJson }}`)
	return nil
}

func (e *expressions) natlessd(c map[string]any) {
	e.or(c, "resources", "natlessd.resources")
	c["ports"] = e.add(`{{ if dig "metrics" "listen" "" .Values.config }}[{"name":"metrics","containerPort":{{ include "natless.metricsPort" . }},"protocol":"TCP"}]{{ else }}[]{{ end }}`)
	c["args"] = e.add(`{{ if .Values.nodes }}["--config","/etc/natless/$(NODE_NAME).yaml"]{{ else }}` + literal(c["args"]) + `{{ end }}`)
	privileged := map[string]any{"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0, "runAsGroup": 0} // as components/privileged
	c["securityContext"] = e.add(`{{ if .Values.privileged }}` + literal(privileged) + `{{ else }}` + literal(c["securityContext"]) + `{{ end }}`)
}

// or is the value if it is not empty, and what is there otherwise, which may be null.
func (e *expressions) or(at map[string]any, field, value string) {
	at[field] = e.add(`{{ .Values.` + value + ` | default ` + parsed(at[field]) + ` | toJson }}`)
}

// extend adds maps to the map that is there.
func (e *expressions) extend(at map[string]any, field, maps string) {
	at[field] = e.add(`{{ mergeOverwrite ` + parsed(at[field]) + ` ` + maps + ` | toJson }}`)
}

// literal is JSON.
func literal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came out of YAML
	}
	return string(text)
}

// parsed is an expression that gives the value, whatever kind it is.
func parsed(v any) string {
	return "(index (fromJson `" + literal(map[string]any{"v": v}) + "`) \"v\")"
}
