//go:build linux

package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// pod is a namespace that cnitool attaches.
type pod struct {
	*netns.NS
	node    *node
	conf    string // folder of the conflist
	cniPath string
	ports   string // what the runtime wants of plugins with capabilities, in JSON
	called  string // the workload's name, where it is not that of cnitool
}

// named is the workload's name.
func (p *pod) named() string { return cmp.Or(p.called, "test/"+p.Name) }

func (p *pod) cnitool(command string) (string, error) {
	cmd := p.node.Command(p.cniPath+"/cnitool", command, "pods", p.Path)
	cmd.Env = append(os.Environ(), "NETCONFPATH="+p.conf, "CNI_PATH="+p.cniPath, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME="+p.Name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("cnitool %s %s: %w: %s", command, p.Name, err, out)
	}
	return string(out), err
}

// gc is cnitool's, where it remembers no other attachment: it would first delete those of
// all tests that run at the time, whose network has the same name.
func (p *pod) gc() ([]byte, error) {
	const alone = `mount -t tmpfs none /var/lib/cni && exec "$@"`
	cmd := p.node.Command("unshare", "--mount", "sh", "-c", alone, "-", p.cniPath+"/cnitool", "gc", "pods", p.Path)
	cmd.Env = append(os.Environ(), "NETCONFPATH="+p.conf, "CNI_PATH="+p.cniPath)
	return cmd.CombinedOutput()
}

func (p *pod) must(t testing.TB, command string) {
	t.Helper()
	if _, err := p.cnitool(command); err != nil {
		t.Error(err)
	}
}

// pods attaches n namespaces to the node's network.
func (n *node) pods(t testing.TB, count int, conf, cniPath string) []*pod {
	t.Helper()
	pods := make([]*pod, count)
	for i := range pods {
		pods[i] = &pod{NS: netns.New(t, fmt.Sprint("pod", i)), node: n, conf: conf, cniPath: cniPath}
	}
	parallel(t, count, 4, func(i int) error {
		_, err := pods[i].cnitool("add")
		return err
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, p := range pods {
			p.cnitool("del")
		}
	})
	return pods
}

// workload finds what the daemon says of a pod.
func (p *pod) workload(c *api.Client) (api.Workload, error) {
	list, err := c.List(context.Background(), api.Filter{Name: p.named()})
	if err != nil {
		return api.Workload{}, err
	}
	if len(list) != 1 {
		return api.Workload{}, fmt.Errorf("%d workloads of the name %s", len(list), p.named())
	}
	return list[0], nil
}

func ptp(t testing.TB, d *daemon.Daemon, more string) string {
	return networkConfig(t, "1.1.0", `{"type": "ptp", `+ipam(t.TempDir())+`}`, fmt.Sprintf(`{"type": "natless-cni", "socket": %q%s}`, d.Socket, more))
}

// TestContainersShareAnAddress is the product in one test: twenty IPv6-only
// containers on one IPv4 address, each with ports of its own.
func TestContainersShareAnAddress(t *testing.T) {
	shareAnAddress(t, sharedPool)
}

// TestContainersShareTheHostsAddress is the same on the host's own address,
// while the host itself serves and connects on it.
func TestContainersShareTheHostsAddress(t *testing.T) {
	shareAnAddress(t, uplinkPool)
}

func shareAnAddress(t *testing.T, config string) {
	const count = 20
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, config)
	host := startWeb(t, n.NS, hostIPv4+":8080")
	pods := n.pods(t, count, ptp(t, d, ""), bin)
	if t.Failed() {
		t.FailNow()
	}
	client := d.Client()
	workloads := make([]api.Workload, count)
	for i, p := range pods {
		w, err := p.workload(client)
		if err != nil {
			t.Fatal(err)
		}
		workloads[i] = w
		p.must(t, "check")
	}
	t.Run("downloads at once", func(t *testing.T) {
		parallel(t, count+2, count+2, func(i int) error {
			switch i {
			case count: // the host connects
				out, err := n.Command("curl", "-sS", "--max-time", "60", "-o", "/dev/null", "http://"+serverIPv4+"/?who=host").CombinedOutput()
				if err != nil {
					return fmt.Errorf("the host's own download: %w %s", err, out)
				}
				return nil
			case count + 1: // and serves
				out, err := n.server.Command("sh", "-c", "curl -sS --max-time 60 http://"+hostIPv4+":8080/ | sha256sum").CombinedOutput()
				if err != nil || !strings.HasPrefix(string(out), host.sum) {
					return fmt.Errorf("download from the host: %w %s", err, out)
				}
				return nil
			}
			return n.download(pods[i].NS, pods[i].Name)
		})
	})
	t.Run("whois", func(t *testing.T) { checkWhois(t, n, client, count) })
	t.Run("inbound", func(t *testing.T) {
		parallel(t, count, count, func(i int) error { return inbound(t, n, pods[i], workloads[i]) })
	})
	t.Run("ping", func(t *testing.T) {
		parallel(t, count, count, func(i int) error {
			out, err := pods[i].Command("ping", "-c", "3", "-i", "0.2", "-W", "2", server6).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ping from %s: %w\n%s", pods[i].Name, err, out)
			}
			return nil
		})
		if out, err := n.Command("ping", "-c", "3", "-i", "0.2", "-W", "2", serverIPv4).CombinedOutput(); err != nil {
			t.Errorf("the host's own ping: %v\n%s", err, out)
		}
	})
	t.Run("ports outside the set are refused at once", func(t *testing.T) {
		for i, p := range pods[:3] {
			refusedAtOnce(t, p, workloads[(i+1)%count].Run().First)
		}
	})
	t.Run("delete and add again under traffic", func(t *testing.T) {
		parallel(t, count, count, func(i int) error {
			if i%2 == 0 {
				return n.download(pods[i].NS, pods[i].Name)
			}
			if _, err := pods[i].cnitool("del"); err != nil {
				return err
			}
			if _, err := pods[i].cnitool("add"); err != nil {
				return err
			}
			return n.download(pods[i].NS, pods[i].Name)
		})
	})
}

// checkWhois asks the daemon about every connection that the server saw.
func checkWhois(t *testing.T, n *node, client *api.Client, atLeast int) {
	seen := 0
	for from, who := range n.web.observed() {
		if who == "host" {
			continue
		}
		seen++
		owner, err := client.Whois(context.Background(), from, time.Time{})
		if err != nil {
			t.Errorf("whois %s: %v", from, err)
		} else if owner.Name != "test/"+who {
			t.Errorf("whois %s says %s, the server was asked by %s", from, owner.Name, who)
		}
	}
	if seen < atLeast {
		t.Errorf("the server saw %d connections of %d containers", seen, atLeast)
	}
}

// inbound serves on a port of the pod's and connects to it from outside.
func inbound(t *testing.T, n *node, p *pod, w api.Workload) error {
	port := w.Run().Last
	l := listen(t, p.NS, fmt.Sprintf("[::]:%d", port))
	server := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, p.Name) })}
	go server.Serve(l)
	defer server.Close()
	out, err := n.server.Command("curl", "-sS", "--max-time", "20", "http://"+netip.AddrPortFrom(w.Address, port).String()+"/").CombinedOutput()
	if err != nil || string(out) != p.Name {
		return fmt.Errorf("curl to %s port %d: %w: %q, want %q", w.Address, port, err, out, p.Name)
	}
	return nil
}

func refusedAtOnce(t *testing.T, p *pod, port uint16) {
	t.Helper()
	var err error
	begin := time.Now()
	p.Do(func() {
		var conn net.Conn
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(port)}, Timeout: 10 * time.Second}
		if conn, err = dialer.Dial("tcp6", net.JoinHostPort(server6, "80")); err == nil {
			conn.Close()
		}
	})
	if !errors.Is(err, syscall.EACCES) {
		t.Errorf("connection from %s port %d: %v, want permission denied", p.Name, port, err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the refusal took %v", took)
	}
}

func TestCheckNoticesOverriddenPorts(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	p := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	p.must(t, "check")
	p.Run("sysctl", "-qw", "net.ipv4.ip_local_port_range=61000 61999")
	if err := n.download(p.NS, p.Name); err == nil {
		t.Error("a download from a port outside the set went through")
	}
	out, err := p.cnitool("check")
	if err == nil || !strings.Contains(out, "ip_local_port_range") || !strings.Contains(out, "packets from ports of others were refused") {
		t.Errorf("CHECK said %v %s", err, out)
	}
}

func TestDeletedWhileTheDaemonWasAway(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	pods := n.pods(t, 2, ptp(t, d, ""), bin)
	d.Kill()
	pods[0].must(t, "del")
	d.Start()
	eventually(t, 5*time.Second, func() error {
		list, err := d.Client().List(context.Background(), api.Filter{})
		if err != nil || len(list) != 1 || list[0].Request.Name != "test/"+pods[1].Name {
			return fmt.Errorf("the daemon has %+v %v", list, err)
		}
		return nil
	})
	if left, err := api.Releases(d.Socket); err != nil || len(left) != 0 {
		t.Errorf("still recorded: %v %v", left, err)
	}
	pods[1].must(t, "status")
	pods[1].must(t, "check")
	if err := n.download(pods[1].NS, pods[1].Name); err != nil {
		t.Error(err)
	}
}

// TestStatusWithoutTheDaemon: the node is ready as long as what runs on it has its IPv4,
// and no longer: what Kubernetes evicts from a node that is not ready has none.
func TestStatusWithoutTheDaemon(t *testing.T) {
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	p := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	p.must(t, "status")
	if err := n.download(p.NS, p.Name); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error { // the fast path takes to the container a moment after ADD
		s, err := d.Client().Status(t.Context())
		if err == nil && s.FastPath.State == "on" && !slices.ContainsFunc(s.FastPath.Interfaces, func(i api.FastPathInterface) bool { return i.Workloads > 0 }) {
			err = fmt.Errorf("%+v", s.FastPath.Interfaces)
		}
		return err
	})
	d.Kill()
	out, err := p.cnitool("status")
	if down := n.download(p.NS, p.Name); (down == nil) != (err == nil) {
		t.Errorf("STATUS said %v %s, and a download from the container: %v", err, out, down)
	}
	if want := daemon.FastPath() != "off"; (err == nil) != want {
		t.Errorf("with the fast path %s STATUS said %v %s", daemon.FastPath(), err, out)
	}
	d.Start()
	p.must(t, "status")
}

// TestNamespaceGone: a container that vanished without a DEL.
func TestNamespaceGone(t *testing.T) {
	daemon.OnePath(t, "it is about the registry")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	conf := ptp(t, d, "")
	stays := n.pods(t, 1, conf, bin)[0]
	t.Run("container", func(t *testing.T) {
		p := &pod{NS: netns.New(t, "gone"), node: n, conf: conf, cniPath: bin}
		p.must(t, "add")
	}) // its namespace is removed here
	d.Kill()
	d.Start() // reconciles when it starts
	eventually(t, 10*time.Second, func() error {
		list, err := d.Client().List(context.Background(), api.Filter{})
		if err != nil || len(list) != 1 || list[0].Request.Name != "test/"+stays.Name {
			return fmt.Errorf("the daemon has %+v %v", list, err)
		}
		return nil
	})
}

func TestGC(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	p := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	stale := api.Key{ContainerID: "stale", Interface: "eth0"}
	other := api.Key{ContainerID: "other", Interface: "eth0"}
	for i, c := range []struct {
		api.Key
		network string
	}{{stale, "pods"}, {other, "elsewhere"}} {
		ipv6 := []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:7::%d", i+1))}
		if _, err := d.Client().Put(context.Background(), c.Key, api.Request{Network: c.network, IPv6: ipv6}); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := p.gc(); err == nil { // it names no valid attachment
		t.Errorf("a GC that would delete everything was not refused: %s", out)
	} else if !strings.Contains(string(out), "refused") {
		t.Errorf("GC: %v: %s", err, out)
	}
	if out, err := p.cnitool("check"); err != nil {
		t.Errorf("the refused GC took the pod's attachment away: %v: %s", err, out)
	}
	if _, err := d.Client().Get(context.Background(), stale); err != nil {
		t.Errorf("the refused GC deleted all the same: %v", err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	list, err := libcni.ConfListFromFile(p.conf + "/10-pods.conflist")
	if err != nil {
		t.Fatal(err)
	}
	if err := cni.GCNetworkList(context.Background(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
		t.Error(err)
	}
	if _, err := d.Client().Get(context.Background(), stale); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("GC left what no container has: %v", err)
	}
	if _, err := d.Client().Get(context.Background(), other); err != nil {
		t.Errorf("GC deleted another network's: %v", err)
	}
}

// TestLateDelete: the runtime repeats a DEL and has nothing to say with it.
func TestLateDelete(t *testing.T) {
	daemon.OnePath(t, "it is about the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	p := n.pods(t, 1, ptp(t, d, ""), bin)[0]
	for range 3 {
		p.must(t, "del")
	}
	if list, err := d.Client().List(context.Background(), api.Filter{}); err != nil || len(list) != 0 {
		t.Errorf("left: %v %v", list, err)
	}
}
