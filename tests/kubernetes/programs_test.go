package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var (
	buildOnce sync.Once
	binDir    string
	buildErr  error
)

func TestMain(m *testing.M) {
	code := m.Run()
	if binDir != "" && os.Getenv("NATLESS_BIN") == "" {
		os.RemoveAll(binDir)
	}
	os.Exit(code)
}

// programs is a folder with the real ones: static, as the image needs them.
// NATLESS_BIN names one that is there already.
func programs(t *testing.T) string {
	t.Helper()
	buildOnce.Do(func() {
		if binDir = os.Getenv("NATLESS_BIN"); binDir != "" {
			return
		}
		if binDir, buildErr = os.MkdirTemp("", "natless-kubernetes-"); buildErr != nil {
			return
		}
		build := exec.Command("go", "build", "-C", root, "-o", binDir+"/", "./cmd/natlessd", "./cmd/natless", "./cmd/natless-cni")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return binDir
}

// write makes a file for every key, as a mounted ConfigMap has them.
func write(t *testing.T, c *corev1.ConfigMap) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range c.Data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// only is the one ConfigMap that there is.
func only(t *testing.T, r *rendered) *corev1.ConfigMap {
	t.Helper()
	if len(r.configs) != 1 {
		t.Fatalf("%d ConfigMaps", len(r.configs))
	}
	for _, c := range r.configs {
		return c
	}
	return nil
}

// TestConfigurations: what the ConfigMaps hold, natlessd takes, with the very
// arguments that it gets on a node, and there is nothing that no node takes.
func TestConfigurations(t *testing.T) {
	for name, nodes := range map[string][]string{"base": {"any"}, "overlays/per-node": {"worker-1", "worker-2"}, "../../../tests/cluster/deploy": {"n1"}} {
		r := mustRender(t, manifest+name)
		c := only(t, r)
		dir := write(t, c)
		taken := map[string]bool{}
		for _, node := range nodes {
			var args []string
			for _, a := range container(t, r.daemons["natless"], "natlessd").Args {
				a = strings.ReplaceAll(a, "$(NODE_NAME)", node)
				if file, found := strings.CutPrefix(a, "/etc/natless/"); found {
					a, taken[file] = filepath.Join(dir, file), true
				}
				args = append(args, a)
			}
			out, err := exec.Command(filepath.Join(programs(t), "natlessd"), append(args, "--check")...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "nothing wrong") {
				t.Errorf("%s, node %s: natlessd %v: %v\n%s", name, node, args, err, out)
			}
		}
		if len(taken) != len(c.Data) {
			t.Errorf("%s: of %d files %d are taken", name, len(c.Data), len(taken))
		}
	}
}

// moved gives a container's arguments with its mounts somewhere else.
func moved(c corev1.Container, to string) (args []string) {
	for _, a := range c.Args {
		for _, m := range c.VolumeMounts {
			if a == m.MountPath {
				a = filepath.Join(to, a)
			}
		}
		args = append(args, a)
	}
	return args
}

const podNetwork = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}`

// TestInstaller runs what the DaemonSet runs beside natlessd, and then what the
// uninstaller runs, on a node of which only two folders are there.
func TestInstaller(t *testing.T) {
	node := t.TempDir()
	install := container(t, mustRender(t, manifest+"overlays/per-node").daemons["natless"], "cni-install")
	for _, m := range install.VolumeMounts {
		if err := os.MkdirAll(filepath.Join(node, m.MountPath), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(node, "host/etc/cni/net.d/10-pods.conflist")
	if err := os.WriteFile(list, []byte(podNetwork), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	socket := filepath.Join(node, "natless.sock")
	cmd := exec.CommandContext(ctx, filepath.Join(programs(t), filepath.Base(install.Command[0])), append(moved(install, node), "--socket", socket)...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A node that never had natless keeps the network that it has until natlessd is ready.
	time.Sleep(100 * time.Millisecond)
	if got := read(t, list); got != podNetwork {
		t.Errorf("chained before natlessd is there:\n%s", got)
	}
	answer(t, socket)
	within(t, 10*time.Second, "the plugin is chained", func() error {
		if got := plugins(t, list); !slices.Equal(got, []string{"ptp", "natless-cni"}) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if text := read(t, list); !strings.Contains(text, `"shared"`) {
		t.Errorf("the overlay's pool is not in\n%s", text)
	}
	if info, err := os.Stat(filepath.Join(node, "host/opt/cni/bin/natless-cni")); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf("the plugin: %v %v", info, err)
	}
	cancel()
	_ = cmd.Wait()
	if t.Failed() {
		t.Log(said.String())
	}

	// What the component adds is known to the program, and to the plugin.
	install = container(t, mustRender(t, withComponent(t, "annotations")).daemons["natless"], "cni-install")
	once := slices.DeleteFunc(append(moved(install, node), "--socket", socket), func(a string) bool { return a == "--watch" })
	out, err := exec.Command(filepath.Join(programs(t), filepath.Base(install.Command[0])), once...).CombinedOutput()
	if text := read(t, list); err != nil || !strings.Contains(text, `"publish"`) || !strings.Contains(text, `"io.kubernetes.cri.pod-annotations": true`) {
		t.Errorf("annotations: %v\n%s\n%s", err, out, text)
	}

	remove := mustRender(t, manifest+"uninstall").daemons["natless-uninstall"].Spec.Template.Spec.InitContainers[0]
	out, err = exec.Command(filepath.Join(programs(t), filepath.Base(remove.Command[0])), moved(remove, node)...).CombinedOutput()
	if got := plugins(t, list); err != nil || !slices.Equal(got, []string{"ptp"}) {
		t.Errorf("uninstall: %v\n%s\nleft: %v", err, out, got)
	}
}

// answer is a natlessd that is ready.
func answer(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"ready":true}`) })}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

// plugins gives the types in a configuration list.
func plugins(t *testing.T, file string) (types []string) {
	t.Helper()
	var list struct{ Plugins []struct{ Type string } }
	if err := json.Unmarshal([]byte(read(t, file)), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Plugins {
		types = append(types, p.Type)
	}
	return types
}

// within polls. d is said for a machine that does nothing else: others have six times
// as long.
func within(t *testing.T, d time.Duration, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(6 * d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within six times %v: %v", what, d, err)
}

// TestProbes are commands that the real program knows: without a natlessd they
// fail for that reason and no other.
func TestProbes(t *testing.T) {
	c := container(t, mustRender(t, manifest+"base").daemons["natless"], "natlessd")
	for name, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if p == nil || p.Exec == nil {
			t.Errorf("%s: no command", name)
			continue
		}
		args := append(slices.Clone(p.Exec.Command[1:]), "--socket", filepath.Join(t.TempDir(), "none"))
		out, err := exec.Command(filepath.Join(programs(t), filepath.Base(p.Exec.Command[0])), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "natlessd does not answer") {
			t.Errorf("%s: natless %v: %v\n%s", name, args, err, out)
		}
	}
}
