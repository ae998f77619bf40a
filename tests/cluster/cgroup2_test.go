//go:build linux

package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// controlGroups2: natlessd in a container of runc, with the DaemonSet's rights, where cgroups
// are those of version 2: there a BPF program judges which devices may be opened. It needs
// no controller, which a machine with the hierarchies of version 1 has not to spare; a
// kubelet would.
func controlGroups2(t *testing.T, l *lab) {
	dir := filepath.Join(l.work, "cgroup2")
	root := filepath.Join(dir, "rootfs")
	t.Cleanup(func() { os.RemoveAll(dir); run("ip", "netns", "del", "cluster-cgroup2") })
	for _, d := range []string{"etc/natless", "run/natless", "var/lib/natless", "dev", "proc", "sys/fs/bpf"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must := func(name string, args ...string) {
		t.Helper()
		if out, err := run(name, args...); err != nil {
			t.Fatal(out, err)
		}
	}
	must("cp", filepath.Join(l.work, "programs/1/natlessd"), filepath.Join(l.work, "programs/1/natless"), root)
	if err := os.WriteFile(filepath.Join(root, "etc/natless/natless.yaml"), []byte("prefix: 64:ff9b::/96\naddresses: {ipv4: 192.0.0.8, ipv6: \"2001:db8:64::1\"}\n"+
		"mappings: [{ipv6: \"2001:db8:6::2\", ipv4: 198.51.100.2}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must("runc", "spec", "--bundle", dir)
	confine(t, filepath.Join(dir, "config.json"))
	must("ip", "netns", "add", "cluster-cgroup2")
	out, err := run("unshare", "--mount", "bash", "-euc", `
		cd "$1"
		umount -R /sys/fs/cgroup
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mount -t bpf bpf /sys/fs/bpf
		trap 'runc --root "$1/state" delete --force natless' EXIT
		timeout --signal=KILL 120 runc --root "$1/state" run natless >log 2>&1 </dev/null &
		for _ in $(seq 200); do
			runc --root "$1/state" exec natless /natless status --ready && break
			sleep 0.3
		done
		grep -q . /sys/fs/cgroup/cluster-cgroup2/cgroup.procs
		runc --root "$1/state" exec natless /natless status
	`, "bash", dir)
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil || !strings.Contains(out, "natless0") || !strings.Contains(string(log), "device is open") {
		t.Errorf("%s %v\n%s", out, err, log)
	}
}

// confine gives the container of a bundle what the DaemonSet's has.
func confine(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	process, linux := c["process"].(map[string]any), c["linux"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/natlessd", "--config", "/etc/natless/natless.yaml"}
	rights := []string{"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_NET_RAW"}
	process["capabilities"] = map[string]any{"bounding": rights, "effective": rights, "permitted": rights}
	c["root"] = map[string]any{"path": "rootfs", "readonly": false}
	mounts := slices.DeleteFunc(c["mounts"].([]any), func(m any) bool { return m.(map[string]any)["destination"] == "/sys/fs/cgroup" })
	for _, path := range []string{"/dev/net/tun", "/sys/fs/bpf"} {
		mounts = append(mounts, map[string]any{"destination": path, "type": "bind", "source": path, "options": []string{"bind", "rw"}})
	}
	c["mounts"], linux["readonlyPaths"], linux["cgroupsPath"] = mounts, []string{}, "/cluster-cgroup2"
	for _, n := range linux["namespaces"].([]any) {
		if n := n.(map[string]any); n["type"] == "network" {
			n["path"] = "/run/netns/cluster-cgroup2"
		}
	}
	if text, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
