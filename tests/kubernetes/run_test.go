//go:build linux

package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/natless/natless/tests/netns"
)

const (
	server4 = "9.9.9.9"
	server6 = "64:ff9b::9.9.9.9"
)

// node is a host with the manifest's uplink, and podman for a kubelet.
type node struct {
	*netns.NS
	t   *testing.T
	dir string // where the host's directories are for the containers
	env []string
}

func newNode(t *testing.T) *node {
	t.Helper()
	netns.Require(t, netns.Root, "podman", "runc", "ip", "ping", "sysctl", "nsenter", "nft")
	n, server := netns.New(t, "node"), netns.New(t, "server")
	netns.Veth(t, n, "eth0", server, "eth0")
	n.IP("addr add 192.0.2.1/24 dev eth0")
	server.IP("addr add 192.0.2.2/24 dev eth0")
	server.IP("addr add " + server4 + "/32 dev lo")
	n.IP("route add default via 192.0.2.2")
	dir, err := os.MkdirTemp("", "kub") // podman wants a short path
	if err != nil {
		t.Fatal(err)
	}
	h := &node{NS: n, t: t, dir: dir}
	conf := filepath.Join(dir, "containers.conf")
	settings := "[containers]\ndefault_sysctls=[]\ndefault_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\n[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n"
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	h.env = append(os.Environ(), "CONTAINERS_CONF="+conf)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := h.podman("logs", "natlessd").CombinedOutput()
			t.Logf("natlessd's log:\n%s", out)
		}
		// podman's monitors write a moment longer than their containers live.
		within(t, 20*time.Second, "everything of podman's is gone", func() error {
			h.podman("rm", "--all", "--force", "--time", "0").Run()
			exec.Command("umount", "-R", "-l", filepath.Join(dir, "root/vfs")).Run()
			return os.RemoveAll(dir)
		})
	})
	return h
}

func (n *node) podman(args ...string) *exec.Cmd {
	all := append([]string{"--runtime", "runc", "--root", filepath.Join(n.dir, "root"), "--runroot", filepath.Join(n.dir, "run"),
		"--tmpdir", filepath.Join(n.dir, "tmp"), "--storage-driver", "vfs"}, args...)
	cmd := n.Command("podman", all...)
	cmd.Env = n.env
	return cmd
}

func (n *node) must(args ...string) string {
	n.t.Helper()
	out, err := n.podman(args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// path is where a hostPath is: the kernel's own stay where they are.
func (n *node) path(p *corev1.HostPathVolumeSource) string {
	switch p.Path {
	case "/dev/net/tun", "/proc/sys/net", "/sys/fs/bpf", "/run/netns":
		return p.Path
	}
	own := filepath.Join(n.dir, "host", p.Path)
	if err := os.MkdirAll(own, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return own
}

// run starts a container of a pod as a kubelet does: nothing but what the
// manifest says.
func (n *node) run(image string, pod corev1.PodSpec, c corev1.Container, config string) {
	n.t.Helper()
	s := c.SecurityContext
	args := []string{"run", "-d", "--name", c.Name, "--security-opt", "apparmor=unconfined",
		"--user", fmt.Sprintf("%d:%d", *s.RunAsUser, *s.RunAsGroup), "--entrypoint", c.Command[0]}
	if pod.HostNetwork {
		args = append(args, "--network", "host")
	}
	if pod.HostPID {
		args = append(args, "--pid", "host")
	}
	if *s.ReadOnlyRootFilesystem {
		args = append(args, "--read-only", "--read-only-tmpfs=false")
	}
	if !*s.AllowPrivilegeEscalation {
		args = append(args, "--security-opt", "no-new-privileges")
	}
	if s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeUnconfined {
		args = append(args, "--security-opt", "seccomp=unconfined")
	}
	for _, drop := range s.Capabilities.Drop {
		args = append(args, "--cap-drop", string(drop))
	}
	for _, add := range s.Capabilities.Add {
		args = append(args, "--cap-add", string(add))
	}
	volumes := map[string]string{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = config
		if v.HostPath != nil {
			volumes[v.Name] = n.path(v.HostPath)
		}
	}
	for _, m := range c.VolumeMounts {
		options := []string{"rw"}
		if m.ReadOnly {
			options = []string{"ro"}
		}
		if p := m.MountPropagation; p != nil && *p == corev1.MountPropagationHostToContainer {
			options = append(options, "rslave")
		}
		args = append(args, "--volume", volumes[m.Name]+":"+m.MountPath+":"+strings.Join(options, ","))
	}
	n.must(slices.Concat(args, []string{image}, c.Command[1:], c.Args)...)
}

// probe runs a probe's command as often as the manifest says.
func (n *node) probe(name string, p *corev1.Probe) {
	n.t.Helper()
	var out []byte
	var err error
	for range max(p.FailureThreshold, 1) {
		if out, err = n.podman(append([]string{"exec", name}, p.Exec.Command...)...).CombinedOutput(); err == nil {
			return
		}
		time.Sleep(time.Duration(p.PeriodSeconds) * time.Second)
	}
	n.t.Fatalf("%s: %v: %v\n%s", name, p.Exec.Command, err, out)
}

// attach makes a pod's network and calls the plugin that the installer put
// there, with the configuration that it wrote.
func (n *node) attach(name, address string) *netns.NS {
	n.t.Helper()
	pod := netns.New(n.t, name)
	netns.Veth(n.t, n.NS, name, pod, "eth0")
	n.IP("addr add 2001:db8:6::1/128 dev " + name)
	n.IP("route add " + address + "/128 dev " + name)
	pod.IP("addr add " + address + "/128 dev eth0")
	pod.IP("route add 2001:db8:6::1/128 dev eth0")
	pod.IP("route add default via 2001:db8:6::1")

	var list struct{ Plugins []map[string]any }
	if err := json.Unmarshal([]byte(read(n.t, filepath.Join(n.dir, "host/etc/cni/net.d/10-pods.conflist"))), &list); err != nil {
		n.t.Fatal(err)
	}
	conf := list.Plugins[len(list.Plugins)-1]
	conf["cniVersion"], conf["name"] = "1.0.0", "pods"
	conf["socket"] = filepath.Join(n.dir, "host/run/natless/natless.sock")
	conf["prevResult"] = map[string]any{"cniVersion": "1.0.0", "interfaces": []any{map[string]any{"name": "eth0", "sandbox": pod.Path}},
		"ips": []any{map[string]any{"interface": 0, "address": address + "/128", "gateway": "2001:db8:6::1"}}}
	text, err := json.Marshal(conf)
	if err != nil {
		n.t.Fatal(err)
	}
	plugin := n.Command(filepath.Join(n.dir, "host/opt/cni/bin/natless-cni"))
	plugin.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+name, "CNI_NETNS="+pod.Path, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin")
	plugin.Stdin = strings.NewReader(string(text))
	if out, err := plugin.CombinedOutput(); err != nil {
		n.t.Fatalf("natless-cni for %s: %v\n%s", name, err, out)
	}
	return pod
}

func (n *node) workloads() string {
	n.t.Helper()
	return n.must("exec", "natlessd", "/usr/bin/natless", "workloads")
}

// TestRuns builds the image and runs the DaemonSet's containers with the rights
// and mounts of the manifest, and nothing else; pods behind them ping.
func TestRuns(t *testing.T) {
	n := newNode(t)
	r := mustRender(t, manifest+"base")
	pod := r.daemons["natless"].Spec.Template.Spec
	installer, daemon := container(t, r.daemons["natless"], "cni-install"), container(t, r.daemons["natless"], "natlessd")

	context := t.TempDir()
	if err := os.CopyFS(filepath.Join(context, "bin"), os.DirFS(programs(t))); err != nil {
		t.Fatal(err)
	}
	n.must("build", "--isolation", "chroot", "-t", "natless", "-f", manifest+"Containerfile", context)
	if err := os.MkdirAll(filepath.Join(n.dir, "host/etc/cni/net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "host/etc/cni/net.d/10-pods.conflist"), []byte(podNetwork), 0o644); err != nil {
		t.Fatal(err)
	}
	before := n.Run("sysctl", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.eth0.forwarding")

	n.run("localhost/natless", pod, installer, "")
	n.run("localhost/natless", pod, daemon, write(t, only(t, r)))
	n.probe("natlessd", daemon.StartupProbe)
	n.probe("natlessd", daemon.LivenessProbe)
	within(t, 10*time.Second, "the plugin is installed", func() error {
		_, err := os.Stat(filepath.Join(n.dir, "host/opt/cni/bin/natless-cni"))
		return err
	})

	stays, goes := n.attach("stays", "2001:db8:6::2"), n.attach("goes", "2001:db8:6::3")
	ping := func(p *netns.NS) { t.Helper(); p.Run("ping", "-c", "2", "-i", "0.2", "-W", "5", server6) }
	ping(stays)
	ping(goes)
	if log := n.must("logs", "natlessd"); strings.Contains(log, "more rights than it needs") || !strings.Contains(log, "by_cpu=true") {
		t.Errorf("natlessd could not give up its rights, or not load a program:\n%s", log)
	}

	// One of them vanishes while natlessd is away, and nobody tells.
	stop := func() {
		t.Helper()
		n.must("stop", "--time", fmt.Sprint(*pod.TerminationGracePeriodSeconds), "natlessd")
	}
	stop()
	if rules := n.Run("nft", "list", "ruleset"); !strings.Contains(rules, "not the host's") {
		t.Errorf("the node answers what is for pods, as long as no natlessd is there:\n%s", rules)
	}
	hide(t, goes)
	n.must("start", "natlessd")
	n.probe("natlessd", daemon.StartupProbe)
	within(t, 10*time.Second, "the share of the one that vanished is free", func() error {
		if list := n.workloads(); strings.Contains(list, "2001:db8:6::3") || !strings.Contains(list, "2001:db8:6::2") {
			return fmt.Errorf("workloads:\n%s", list)
		}
		return nil
	})
	ping(stays)

	// Nothing of it is left by the uninstaller.
	uninstall := mustRender(t, manifest+"uninstall")
	cleaner := uninstall.daemons["natless-uninstall"].Spec.Template.Spec
	conf := write(t, only(t, uninstall))
	n.run("localhost/natless", cleaner, cleaner.InitContainers[1], conf)
	if status := n.must("wait", "cleanup"); status == "0" {
		t.Error("cleaned up under a natlessd that runs")
	}
	n.must("rm", "cleanup")
	stop()
	n.run("localhost/natless", cleaner, cleaner.InitContainers[1], conf)
	if status := n.must("wait", "cleanup"); status != "0" {
		t.Errorf("cleanup: %s\n%s", status, n.must("logs", "cleanup"))
	}
	if after := n.Run("sysctl", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.eth0.forwarding"); after != before {
		t.Errorf("sysctls before:\n%s\nand after:\n%s", before, after)
	}
	left := n.IP("-br link") + n.IP("rule") + n.IP("route show table all") + n.IP("-6 route show table all") + n.Run("nft", "list", "ruleset")
	for _, ours := range []string{"natless0", "table ip natless", "table inet natless", "lookup 110", "proto 110"} {
		if strings.Contains(left, ours) {
			t.Errorf("%q is left:\n%s", ours, left)
		}
	}
}

// hide takes a namespace's name away until the test ends.
func hide(t *testing.T, ns *netns.NS) {
	t.Helper()
	if out, err := exec.Command("ip", "netns", "del", ns.Name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "add", ns.Name).Run() }) // for who deletes it again
}
