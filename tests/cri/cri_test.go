//go:build linux

// Package cri runs pods with a real containerd through the Kubernetes CRI. It is
// a module of its own, so that what it needs is required of nobody else.
package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	code := m.Run()
	daemon.Remove()
	os.Exit(code)
}

const config = `
prefix: 2001:db8:64::/96
uplink: uplink
addresses: {ipv4: 192.0.0.10, ipv6: "2001:db8:64::c000:a"}
pools:
  - {name: default, ipv4: 198.51.100.1/32, ports_per_workload: 1024, cooldown: 1s, inside: %v}
`

// TestPods runs pods on one shared address, which they have by the prefix, or inside,
// with the daemon restarted among them, and deletes them again.
func TestPods(t *testing.T) {
	t.Run("by the prefix", func(t *testing.T) { pods(t, false, "[2001:db8:64::192.0.2.2]") })
	t.Run("inside", func(t *testing.T) { pods(t, true, "192.0.2.2") })
}

func pods(t *testing.T, inside bool, server4 string) {
	const count = 8
	node, server := netns.New(t, "node"), netns.New(t, "server")
	netns.Veth(t, node, "uplink", server, "eth0")
	node.IP("addr add 192.0.2.1/24 dev uplink")
	server.IP("addr add 192.0.2.2/24 dev eth0")
	server.IP("route add default via 192.0.2.1")
	web := serve(t, server)
	web.url = server4
	d := daemon.Start(t, node, fmt.Sprintf(config, inside))
	runtime := startContainerd(t, node, d.Socket)

	ids := make([]string, count)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: pod(i)})
			if err != nil {
				t.Errorf("run pod %d: %v", i, err)
				return
			}
			ids[i] = r.PodSandboxId
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	addresses := make(map[netip.Addr]bool)
	for i := range ids {
		w := workload(t, d, i)
		addresses[w.Address] = true
		if (w.Inside != nil) != inside {
			t.Errorf("%s has its IPv4 inside: %+v, want %v", w.Request.Name, w.Inside, inside)
		}
		if err := web.download(w.Request.Netns, w.Request.Name); err != nil {
			t.Error(err)
		}
	}
	if len(addresses) != 1 {
		t.Errorf("the pods have %d addresses", len(addresses))
	}
	web.checkWhois(t, d, count)

	// One pod ends while the daemon is away, one after it is back.
	d.Kill()
	end(t, runtime, ids[0])
	d.Start()
	end(t, runtime, ids[1])
	expect(t, d, count-2)
	if w := workload(t, d, 2); web.download(w.Request.Netns, w.Request.Name) != nil {
		t.Error("a pod lost its connection to the restart")
	}
	for _, id := range ids[2:] {
		end(t, runtime, id)
	}
	expect(t, d, 0)
}

func pod(i int) *cri.PodSandboxConfig {
	name := fmt.Sprint("pod", i)
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name},
		Linux:    &cri.LinuxPodSandboxConfig{},
	}
}

func workload(t *testing.T, d *daemon.Daemon, i int) api.Workload {
	t.Helper()
	list, err := d.Client().List(t.Context(), api.Filter{Name: fmt.Sprint("test/pod", i)})
	if err != nil || len(list) != 1 {
		t.Fatalf("workloads of pod %d: %v %v", i, list, err)
	}
	return list[0]
}

// end stops a pod twice, as kubelets do, and removes it.
func end(t *testing.T, runtime cri.RuntimeServiceClient, id string) {
	t.Helper()
	for range 2 {
		if _, err := runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Errorf("stop pod: %v", err)
		}
	}
	if _, err := runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		t.Errorf("remove pod: %v", err)
	}
}

func expect(t *testing.T, d *daemon.Daemon, want int) {
	t.Helper()
	got := -1
	for range 100 {
		if list, err := d.Client().List(t.Context(), api.Filter{}); err == nil {
			if got = len(list); got == want {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("the daemon has %d workloads, want %d", got, want)
}

// web is an IPv4-only server that remembers who asked from where.
type web struct {
	sum  string
	url  string // its address, as a URL has it
	mu   sync.Mutex
	from map[netip.AddrPort]string
}

func serve(t *testing.T, ns *netns.NS) *web {
	t.Helper()
	file := make([]byte, 4<<20)
	rand.Read(file)
	sum := sha256.Sum256(file)
	w := &web{sum: hex.EncodeToString(sum[:]), from: make(map[netip.AddrPort]string)}
	var (
		l   net.Listener
		err error
	)
	ns.Do(func() { l, err = net.Listen("tcp", "192.0.2.2:80") })
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.from[netip.MustParseAddrPort(r.RemoteAddr)] = r.URL.Query().Get("who")
		w.mu.Unlock()
		out.Write(file)
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return w
}

func (w *web) download(path, who string) error {
	script := fmt.Sprintf("curl -sS --max-time 30 'http://%s/?who=%s' | sha256sum", w.url, who)
	out, err := exec.Command("nsenter", "--net="+path, "sh", "-c", script).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), w.sum) {
		return fmt.Errorf("download in %s: %v %s", who, err, out)
	}
	return nil
}

func (w *web) checkWhois(t *testing.T, d *daemon.Daemon, atLeast int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for from, who := range w.from {
		if owner, err := d.Client().Whois(t.Context(), from, time.Time{}); err != nil || owner.Name != who {
			t.Errorf("whois %s says %q %v, the server was asked by %s", from, owner.Name, err, who)
		}
	}
	if len(w.from) < atLeast {
		t.Errorf("the server saw %d connections", len(w.from))
	}
}

// startContainerd runs containerd in a node's network, with all its state in a
// folder of its own and a pause image made here.
func startContainerd(t *testing.T, node *netns.NS, socket string) cri.RuntimeServiceClient {
	t.Helper()
	netns.Require(t, "containerd", "ctr", "runc", "cc", "curl")
	dir, err := os.MkdirTemp("", "cri") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	address, file := filepath.Join(dir, "c.sock"), filepath.Join(dir, "config.toml")
	write(t, file, fmt.Sprintf(`
version = 2
root = %q
state = %q
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`, dir+"/root", dir+"/state", address, plugins(t), network(t, socket)))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := node.Command("containerd", "--config", file)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if said, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("containerd:\n%s", said[max(0, len(said)-8000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	runtime := cri.NewRuntimeServiceClient(conn)
	waitReady(t, runtime)
	image := pauseImage(t)
	if out, err := exec.Command("ctr", "--address", address, "-n", "k8s.io", "images", "import", "--snapshotter", "native", image).CombinedOutput(); err != nil {
		t.Fatalf("import the pause image: %v\n%s", err, out)
	}
	return runtime
}

func waitReady(t *testing.T, runtime cri.RuntimeServiceClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, err := runtime.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true))
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("containerd does not answer: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// plugins builds the reference plugins and ours into one folder.
func plugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const reference = "github.com/containernetworking/plugins/plugins/"
	for _, args := range [][]string{
		{"build", "-C", "../tools", "-o", dir + "/", reference + "main/ptp", reference + "main/loopback", reference + "ipam/host-local"},
		{"build", "-C", "../..", "-o", dir + "/", "./cmd/natless-cni"},
	} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

func network(t *testing.T, socket string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "10-pods.conflist"), fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "plugins": [
		{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "2001:db8:6::/64"}]], "routes": [{"dst": "::/0"}]}},
		{"type": "natless-cni", "socket": %q}]}`, t.TempDir(), socket))
	return dir
}

// pauseImage is a docker archive of one static program that waits.
func pauseImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source, program, image := filepath.Join(dir, "pause.c"), filepath.Join(dir, "pause"), filepath.Join(dir, "pause.tar")
	write(t, source, "#include <unistd.h>\n#include <signal.h>\n#include <stdlib.h>\nstatic void end(int s) { _exit(0); }\nint main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n")
	if out, err := exec.Command("cc", "-static", "-O1", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	layer := archive(t, map[string][]byte{"pause": binary})
	sum := sha256.Sum256(layer)
	settings, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Entrypoint": []string{"/pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"localhost/pause:1"}, "Layers": []string{"layer.tar"}}})
	write(t, image, string(archive(t, map[string][]byte{"config.json": settings, "layer.tar": layer, "manifest.json": manifest})))
	return image
}

func archive(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
