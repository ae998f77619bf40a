//go:build linux

package cni

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// podman runs real containers in a node's network, with all of podman's state
// in a folder of the test's own.
type podman struct {
	t    testing.TB
	node *node
	dir  string
	env  []string
}

func newPodman(t testing.TB, n *node, conf, bin string) *podman {
	t.Helper()
	netns.Require(t, "podman", "runc", "busybox")
	dir, err := os.MkdirTemp("", "pod") // podman wants a short path
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{t: t, node: n, dir: dir}
	settings := fmt.Sprintf(`
[containers]
default_sysctls=[]
default_ulimits=["nofile=4096:4096","nproc=4096:4096"]
[network]
network_backend="cni"
network_config_dir=%q
cni_plugin_dirs=[%q]
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
`, conf, bin)
	file := filepath.Join(p.dir, "containers.conf")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(os.Environ(), "CONTAINERS_CONF="+file)
	t.Cleanup(func() {
		p.command("rm", "--all", "--force", "--time", "0").Run()
		exec.Command("umount", "-R", "-l", filepath.Join(p.dir, "root/vfs")).Run()
		// What podman started for each container's end may be writing still.
		err := os.RemoveAll(dir)
		for start := time.Now(); err != nil && time.Since(start) < 20*time.Second; err = os.RemoveAll(dir) {
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *podman) command(args ...string) *exec.Cmd {
	all := append([]string{"--runtime", "runc", "--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"), "--storage-driver", "vfs"}, args...)
	cmd := p.node.Command("podman", all...)
	cmd.Env = p.env
	return cmd
}

func (p *podman) output(args ...string) (string, error) {
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("podman %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// rootFS is a file system with busybox in it.
func rootFS(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "etc", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", path, filepath.Join(root, "bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, applet := range []string{"sh", "wget", "sha256sum", "ping", "httpd", "sleep", "cat", "nc", "echo", "mkdir"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

var containers = flag.Int("containers", 8, "`how many` containers podman runs; make scale says twenty")

// TestPodmanContainersShareAnAddress runs many real containers on one
// address: each downloads, pings and serves.
func TestPodmanContainersShareAnAddress(t *testing.T) {
	daemon.OnePath(t, "the engine is what is new here: containers' packets go both ways in TestContainersShareAnAddress")
	podmanShares(t, sharedPool, *containers)
}

// TestPodmanContainersShareTheHostsAddress does so on the host's own address.
func TestPodmanContainersShareTheHostsAddress(t *testing.T) {
	daemon.OnePath(t, "the engine is what is new here: containers' packets go both ways in TestContainersShareTheHostsAddress")
	podmanShares(t, uplinkPool, *containers)
}

func podmanShares(t *testing.T, config string, count int) {
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, config)
	conf := networkConfig(t, "1.0.0", `{"type": "ptp", `+ipam(t.TempDir())+`}`, fmt.Sprintf(`{"type": "natless-cni", "socket": %q}`, d.Socket))
	p, root := newPodman(t, n, conf, bin), rootFS(t)
	name := func(i int) string { return fmt.Sprint("web", i) }
	parallel(t, count, 4, func(i int) error {
		_, err := p.output("run", "-d", "--name", name(i), "--network", "pods", "--rootfs", root+":O", "sleep", "600")
		return err
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Run("downloads at once", func(t *testing.T) {
		parallel(t, count, count, func(i int) error {
			out, err := p.output("exec", name(i), "sh", "-c", fmt.Sprintf("wget -q -O - 'http://[%s]/?who=%s' | sha256sum", server6, name(i)))
			if err == nil && !strings.HasPrefix(out, n.web.sum) {
				err = fmt.Errorf("download in %s: %s", name(i), out)
			}
			return err
		})
	})
	t.Run("whois", func(t *testing.T) {
		seen := 0
		for from, who := range n.web.observed() {
			owner, err := d.Client().Whois(t.Context(), from, time.Time{})
			if err != nil || owner.Name != who {
				t.Errorf("whois %s says %q %v, the server was asked by %s", from, owner.Name, err, who)
			}
			seen++
		}
		if seen < count {
			t.Errorf("the server saw %d connections", seen)
		}
	})
	t.Run("inbound", func(t *testing.T) {
		parallel(t, count, 4, func(i int) error { _, err := p.inbound(d, name(i)); return err })
	})
	t.Run("ping", func(t *testing.T) {
		if out, err := p.output("exec", name(0), "ping", "-c", "2", "-W", "2", server6); err != nil {
			t.Error(err, out)
		}
	})
	t.Run("the container's own sysctl", func(t *testing.T) { overridingContainer(t, p, root) })
	t.Run("removed", func(t *testing.T) {
		if _, err := p.output("rm", "--all", "--force", "--time", "0"); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, func() error {
			list, err := d.Client().List(t.Context(), apiAll)
			if err == nil && len(list) != 0 {
				err = fmt.Errorf("%d workloads are left", len(list))
			}
			return err
		})
	})
}

// inbound serves with the container's own busybox on the last of its ports that nobody
// there has (a connection that ended has its port for a minute), connects to it from
// outside and says where that is.
func (p *podman) inbound(d *daemon.Daemon, name string) (address netip.AddrPort, err error) {
	list, err := d.Client().List(p.t.Context(), api.Filter{Name: name})
	if err != nil || len(list) != 1 {
		return address, fmt.Errorf("workloads named %s: %v %w", name, list, err)
	}
	script := "mkdir -p /tmp/www; echo $0 >/tmp/www/index.html; for p; do httpd -p [::]:$p -h /tmp/www && echo $p && exit; done; exit 1"
	last := list[0].Run().Last
	out, err := p.output("exec", name, "sh", "-c", script, name, fmt.Sprint(last), fmt.Sprint(last-1), fmt.Sprint(last-2))
	if err != nil {
		return address, err
	}
	if address, err = netip.ParseAddrPort(fmt.Sprintf("%s:%s", list[0].Address, out[strings.LastIndexByte(out, '\n')+1:])); err != nil {
		return address, err
	}
	got, err := p.node.server.Command("curl", "-sS", "--max-time", "20", "http://"+address.String()+"/").CombinedOutput()
	if err != nil || strings.TrimSpace(string(got)) != name {
		return address, fmt.Errorf("curl to %s: %q %w, want %s", address, got, err, name)
	}
	return address, nil
}

// overridingContainer brings a port range of its own, applied after ADD: the
// translator refuses what it sends from there.
func overridingContainer(t *testing.T, p *podman, root string) {
	_, err := p.output("run", "-d", "--name", "stubborn", "--network", "pods", "--sysctl", "net.ipv4.ip_local_port_range=2000 2100", "--rootfs", root+":O", "sleep", "600")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if out, err := p.output("exec", "stubborn", "wget", "-q", "-O", "/dev/null", "http://["+server6+"]/"); err == nil {
		t.Errorf("a download from ports outside the set went through: %s", out)
	}
	if took := time.Since(begin); took > time.Minute { // without an answer it tries for two
		t.Errorf("the refusal took %v", took)
	}
}
