//go:build linux

package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/natless/natless/tests/netns"
)

// TestReadme: what README says of the image does what it says, to the letter, for somebody
// who has nothing but the release and podman. Of the packages TestPackages shows it;
// helm install needs a cluster (tests/cluster): here natlessd takes the configuration that
// comes of the command.
func TestReadme(t *testing.T) {
	netns.Require(t, netns.Root, "podman", "runc", "ip", "nsenter")
	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"apt install ./natless_*_amd64.deb",
		"natlessd --check && systemctl restart natlessd",
		"podman load -i natless-*-image.tar",
		"podman run --rm --entrypoint natless ghcr.io/natless/natless:VERSION demo",
		"helm install natless natless-*-chart.tgz --namespace natless-system --create-namespace --set config.uplink=eth0",
		"kubectl -n natless-system rollout status daemonset/natless",
	} {
		if !strings.Contains(string(text), "\n    "+line) {
			t.Errorf("README has no command %q any more: run the one that it has", line)
		}
	}
	conf := mustRender(t, "config: {uplink: eth0}")["ConfigMap/natless"].(*corev1.ConfigMap).Data["natless.yaml"]
	if taken(t, conf); !strings.Contains(conf, "uplink: eth0") {
		t.Errorf("the chart's configuration is\n%s", conf)
	}
	base := t.TempDir()
	mount(t, "tmpfs", base, "tmpfs", "")
	limits := base + "/containers.conf" // a machine may have limits that podman would raise
	if err := os.WriteFile(limits, []byte("[containers]\ndefault_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	away := netns.New(t, "readme")
	podman := func(command string) string {
		t.Helper()
		_, rest, _ := strings.Cut(strings.ReplaceAll(command, "VERSION", strings.ReplaceAll(version(t), "+", "_")), "podman ")
		cmd := away.Command("sh", "-c", "exec podman --root "+base+"/root --runroot "+base+"/run --tmpdir "+base+"/tmp --runtime runc --cgroup-manager cgroupfs "+rest)
		cmd.Dir, cmd.Env = filepath.Clean(dist(t)), append(os.Environ(), "CONTAINERS_CONF="+limits)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	if out := podman("podman load -i natless-*-image.tar"); !strings.Contains(out, "ghcr.io/natless/natless:"+strings.ReplaceAll(version(t), "+", "_")) {
		t.Errorf("podman load: %s", out)
	}
	if out := podman("podman run --rm --entrypoint natless ghcr.io/natless/natless:VERSION demo"); !strings.Contains(out, "198.51.100") {
		t.Errorf("the demo in the image: %s", out)
	}
}
