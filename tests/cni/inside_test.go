//go:build linux

package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// insiders is a node with containers that have their IPv4 inside, and one that has it
// by the prefix.
type insiders struct {
	*node
	d      *daemon.Daemon
	a, b   *pod // inside
	six    *pod // by the prefix
	wa, wb api.Workload
	wsix   api.Workload
	whole  *pod // inside, with an address of its own; nil: the configuration has none
	wwhole api.Workload
	far    *netns.NS // behind the server
	engine *podman   // whose the containers are; nil: cnitool's
}

const insidePublished = 8080 // a port besides its share, which a has

// place makes the node and its containers, behind a plugin that stands first: namespaces
// that cnitool attaches or, where kind begins so, containers of podman's.
func place(t *testing.T, kind, config string, rpFilter int, flags ...string) *insiders {
	t.Helper()
	kind, ofPodman := strings.CutPrefix(kind, "podman ")
	n, bin := newNode(t), tools(t)
	n.Run("sysctl", "-qw", fmt.Sprintf("net.ipv4.conf.all.rp_filter=%d", rpFilter), fmt.Sprintf("net.ipv4.conf.default.rp_filter=%d", rpFilter))
	i := &insiders{node: n, d: daemon.New(t, n.NS, config)}
	i.d.Flags = flags
	i.d.Start()
	first := func(i int) string { // all on one bridge, each network with a subnet of its own
		return strings.Replace(firstPlugins(t, kind, i), fmt.Sprintf(`"cni%d"`, i), `"cni0"`, 1)
	}
	natless := func(more string) string {
		return fmt.Sprintf(`{"type": "natless-cni", "socket": %q, %s}`, i.d.Socket, more)
	}
	conf := chains(t, i.d.Socket, map[string][]string{
		"published": {first(0), natless(fmt.Sprintf(`"ipv4": "inside", "extraPorts": [%d]`, insidePublished))},
		"inside":    {first(1), natless(`"ipv4": "inside"`)},
		"six":       {first(2), natless(`"ipv4": "prefix"`)},
		"whole":     {first(3), natless(`"ipv4": "inside", "pool": "dedicated"`)},
	})
	attach := i.byCNITool(t, conf, bin)
	if ofPodman {
		attach = i.byPodman(t, conf, bin)
	}
	add := func(name, network string) (*pod, api.Workload) {
		t.Helper()
		p := attach(name, network)
		p.Run("sysctl", "-qw", fmt.Sprintf("net.ipv4.conf.all.rp_filter=%d", rpFilter), fmt.Sprintf("net.ipv4.conf.default.rp_filter=%d", rpFilter))
		w, err := p.workload(i.d.Client())
		if err != nil {
			t.Fatal(err)
		}
		return p, w
	}
	i.a, i.wa = add("a", "published")
	i.b, i.wb = add("b", "inside")
	i.six, i.wsix = add("six", "six")
	if strings.Contains(config, "dedicated") {
		i.whole, i.wwhole = add("whole", "whole")
	}
	for _, w := range []api.Workload{i.wa, i.wb} {
		if w.Inside == nil || w.Inside.Address != w.Address {
			t.Fatalf("%+v has nothing inside", w)
		}
	}
	return i
}

// byCNITool attaches namespaces, and looks at what was made.
func (i *insiders) byCNITool(t *testing.T, conf, bin string) func(name, network string) *pod {
	return func(name, network string) *pod {
		t.Helper()
		p := &pod{NS: netns.New(t, name), node: i.node, conf: conf, cniPath: bin}
		if _, err := p.attach("add", network, "eth0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.attach("del", network, "eth0") })
		if _, err := p.attach("check", network, "eth0"); err != nil {
			t.Error(err)
		}
		return p
	}
}

// byPodman runs containers, in which nothing knows of IPv6.
func (i *insiders) byPodman(t *testing.T, conf, bin string) func(name, network string) *pod {
	older(t, conf)
	i.engine = newPodman(t, i.node, conf, bin)
	root := rootFS(t)
	return func(name, network string) *pod {
		t.Helper()
		if _, err := i.engine.output("run", "-d", "--name", name, "--network", network, "--rootfs", root+":O", "sleep", "600"); err != nil {
			t.Fatal(err)
		}
		pid, err := i.engine.output("inspect", "--format", "{{.State.Pid}}", name)
		if err != nil {
			t.Fatal(err)
		}
		return &pod{NS: netns.At(t, name, "/proc/"+pid+"/ns/net"), node: i.node, called: name}
	}
}

// older makes networks such as this podman reads, which is older than CNI 1.1.
func older(t *testing.T, conf string) {
	t.Helper()
	files, _ := filepath.Glob(conf + "/*.conflist")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(f, bytes.Replace(text, []byte(`"1.1.0"`), []byte(`"1.0.0"`), 1), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

const (
	insidePool   = baseConfig + "inside: {device: natless4}\npools:\n  - {name: default, ipv4: 198.51.100.1/32, ports_per_workload: 512, reserved_ports: 0-1023, cooldown: 1s}\n"
	wholePool    = "  - {name: dedicated, ipv4: 198.51.100.8/32, whole_address: true, cooldown: 1s}\n"
	insideUplink = baseConfig + "inside: {device: natless4}\npools:\n  - {name: host, ipv4: uplink, ports: \"8000-8999,32768-65535\", reserved_ports: 8000-8999, ports_per_workload: 512, cooldown: 1s}\n"
)

// dial connects from inside a container; local may be empty.
func (p *pod) dial(network, local, remote string) (c net.Conn, took time.Duration, err error) {
	begin := time.Now()
	p.Do(func() {
		d := net.Dialer{Timeout: 10 * time.Second}
		if local != "" {
			if network == "udp4" {
				d.LocalAddr, err = net.ResolveUDPAddr(network, local)
			} else {
				d.LocalAddr, err = net.ResolveTCPAddr(network, local)
			}
		}
		if err == nil {
			c, err = d.Dial(network, remote)
		}
	})
	return c, time.Since(begin), err
}

// literal: an IPv4 address in a URL, with programs that know nothing of IPv6; the
// server sees the address and a port of the share.
func (i *insiders) literal(t *testing.T) {
	for _, p := range []*pod{i.a, i.b} {
		out, err := p.Command("sh", "-c", fmt.Sprintf("curl -4 -sS --max-time 30 'http://%s/?who=%s' | sha256sum", serverIPv4, p.Name)).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), i.web.sum) {
			t.Errorf("%s: %v %s", p.Name, err, out)
		}
	}
	seen := 0
	for from, who := range i.web.observed() {
		o, err := i.d.Client().Whois(context.Background(), from, time.Time{})
		if err != nil || (o.Name != "test/"+who && o.Name != who) || !o.Inside {
			t.Errorf("whois %v: %+v, %v, want %s inside", from, o, err, who)
		}
		seen++
	}
	if seen != 2 {
		t.Errorf("the server saw %d", seen)
	}
	c, _, err := i.a.dial("tcp4", "", serverIPv4+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	local := netip.MustParseAddrPort(c.LocalAddr().String())
	if local.Addr() != i.wa.Address || !i.wa.Ports.Contains(local.Port()) {
		t.Errorf("getsockname says %v, want one of %v %v", local, i.wa.Address, i.wa.Ports)
	}
}

// udp: datagrams of one packet and of fragments, both ways.
func (i *insiders) udp(t *testing.T) {
	var l net.PacketConn
	var err error
	i.server.Do(func() { l, err = net.ListenPacket("udp4", serverIPv4+":7") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			l.WriteTo(b[:n], from)
		}
	}()
	for _, p := range []*pod{i.a, i.b} {
		c, _, err := p.dial("udp4", "", serverIPv4+":7")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := make([]byte, 65536)
		for _, size := range []int{1, 1472, 1473, 1481, 5000, 9000, 60000} {
			want := bytes.Repeat([]byte{byte(size), byte(size >> 8), 7}, size/3+1)[:size]
			n := 0
			for range 3 { // fragments are lost now and then where neighbours are looked for
				c.Write(want)
				c.SetReadDeadline(time.Now().Add(2 * time.Second))
				if n, err = c.Read(b); err == nil {
					break
				}
			}
			if err != nil || !bytes.Equal(b[:n], want) {
				t.Errorf("%s, %d bytes: %d came back, %v", p.Name, size, n, err)
			}
		}
	}
}

// answers serves HTTP with the container's name on ports of all its addresses.
func (p *pod) answers(t *testing.T, ports ...int) {
	t.Helper()
	for _, port := range ports {
		l := listen(t, p.NS, fmt.Sprintf(":%d", port))
		s := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, p.Name) })}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
	}
}

// commander is a namespace in which programs run.
type commander interface {
	Command(name string, args ...string) *exec.Cmd
}

// gets is what is heard from there.
func gets(from commander, url string) (string, error) {
	out, err := from.Command("curl", "-sS", "--max-time", "10", url).CombinedOutput()
	return string(out), err
}

// inbound: to a port of the share and to one that was published, and a refusal at once
// where nobody listens.
func (i *insiders) inbound(t *testing.T) {
	pa, pb := int(i.wa.Run().Last), int(i.wb.Run().First)+1 // the kernel gives connections ports as even as the first
	i.a.answers(t, pa, insidePublished)
	i.b.answers(t, pb)
	for port, who := range map[int]string{pa: i.a.Name, insidePublished: i.a.Name, pb: i.b.Name} {
		if got, err := gets(i.server, fmt.Sprintf("http://%s:%d/", i.wa.Address, port)); err != nil || got != who {
			t.Errorf("port %d: %q, %v, want %s", port, got, err, who)
		}
	}
	const refused = 7 // of curl; 28 is a time-out
	_, err := gets(i.server, fmt.Sprintf("http://%s:%d/", i.wb.Address, pb+8))
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != refused {
		t.Errorf("a port where nobody listens: %v", err)
	}
}

// between: containers with IPv4 inside, and one that has it by the prefix, in all
// directions, and a container with itself.
func (i *insiders) between(t *testing.T) {
	pa, pb, ps := int(i.wa.Run().First)+3, int(i.wb.Run().First)+3, int(i.wsix.Run().First)+3
	i.a.answers(t, pa)
	i.b.answers(t, pb)
	i.a.answers(t, pb) // to no avail, but by 127.0.0.1: the port is b's
	i.six.answers(t, ps)
	six := func(w api.Workload) string { return fmt.Sprintf("[2001:db8:64::%s]", w.Address) }
	for _, c := range []struct {
		from *pod
		to   string
		port int
		who  string
	}{
		{i.a, i.wb.Address.String(), pb, i.b.Name}, {i.b, i.wa.Address.String(), pa, i.a.Name},
		{i.a, i.wa.Address.String(), pa, i.a.Name},
		{i.a, i.wsix.Address.String(), ps, i.six.Name}, {i.six, six(i.wa), pa, i.a.Name}, {i.six, six(i.wb), pb, i.b.Name},
	} {
		if got, err := gets(c.from, fmt.Sprintf("http://%s:%d/", c.to, c.port)); err != nil || got != c.who {
			t.Errorf("%s to %s:%d: %q, %v, want %s", c.from.Name, c.to, c.port, got, err, c.who)
		}
	}
}

// others: from ports that are not the container's own the refusal comes at once, and is
// counted as its own.
func (i *insiders) others(t *testing.T) {
	for _, port := range []int{5, int(i.wb.Run().First) + 7} {
		c, took, err := i.a.dial("tcp4", fmt.Sprintf(":%d", port), serverIPv4+":80")
		if c != nil {
			c.Close()
		}
		if !errors.Is(err, syscall.EHOSTUNREACH) || took > 9*time.Second {
			t.Errorf("from port %d: %v after %v", port, err, took)
		}
	}
	w, err := i.a.workload(i.d.Client())
	if err != nil || w.Violations < 2 {
		t.Errorf("%d violations, %v", w.Violations, err)
	}
	if w, err := i.b.workload(i.d.Client()); err != nil || w.Violations != 0 {
		t.Errorf("%s is blamed for %d, %v", i.b.Name, w.Violations, err)
	}
}

// spoofed: what is sent from another address does not leave the host.
func (i *insiders) spoofed(t *testing.T) {
	var l net.PacketConn
	var err error
	i.server.Do(func() { l, err = net.ListenPacket("udp4", serverIPv4+":9") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	i.a.IP("addr add 203.0.113.66/32 dev eth0")
	defer i.a.IP("addr del 203.0.113.66/32 dev eth0")
	send := func(local string) {
		t.Helper()
		c, _, err := i.a.dial("udp4", local, serverIPv4+":9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 5 {
			c.Write([]byte(local))
		}
	}
	send("203.0.113.66:0")
	send(fmt.Sprintf("%s:%d", i.wa.Address, i.wa.Run().First+8))
	b := make([]byte, 64)
	l.SetReadDeadline(time.Now().Add(10 * time.Second))
	for range 3 {
		n, from, err := l.ReadFrom(b)
		if err != nil || !strings.HasPrefix(from.String(), i.wa.Address.String()+":") {
			t.Fatalf("%q from %v, %v", b[:n], from, err)
		}
	}
}

// pings: with any identifier to the server, to the translator, and where a hop limit
// ends here.
func (i *insiders) pings(t *testing.T) {
	for _, p := range []*pod{i.a, i.b} {
		for _, to := range []string{serverIPv4, "192.0.0.10"} {
			if out, err := p.Command("ping", "-4", "-c", "2", "-i", "0.2", "-W", "3", to).CombinedOutput(); err != nil {
				t.Errorf("%s to %s: %v\n%s", p.Name, to, err, out)
			}
		}
	}
	out, _ := i.a.Command("ping", "-4", "-c", "1", "-t", "1", "-W", "3", serverIPv4).CombinedOutput()
	if !strings.Contains(string(out), "From 192.0.0.10") || !strings.Contains(string(out), "Time to live exceeded") {
		t.Errorf("with a TTL of 1:\n%s", out)
	}
}

// prefixClosed: software that tries IPv6 first goes on with IPv4 at once.
func (i *insiders) prefixClosed(t *testing.T) {
	c, took, err := i.a.dial("tcp6", "", "["+server6+"]:80")
	if c != nil {
		c.Close()
	}
	if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) || took > 9*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}

// host: the host's own ports of the shared address are the host's, also for containers,
// and theirs are theirs for the host.
func (i *insiders) host(t *testing.T) {
	l := listen(t, i.NS, hostIPv4+":80")
	s := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, "host") })}
	go s.Serve(l)
	defer s.Close()
	pa := int(i.wa.Run().First) + 11
	i.a.answers(t, pa)
	for _, c := range []struct {
		who  string
		from commander
		port int
		want string
	}{
		{"server", i.server, 80, "host"}, {"a", i.a, 80, "host"}, {"b", i.b, 80, "host"}, {"host", i.NS, 80, "host"}, {"host", i.NS, pa, i.a.Name},
	} {
		if got, err := gets(c.from, fmt.Sprintf("http://%s:%d/", hostIPv4, c.port)); err != nil || got != c.want {
			t.Errorf("%s to port %d: %q, %v, want %s", c.who, c.port, got, err, c.want)
		}
	}
	if out, err := i.a.Command("ping", "-4", "-c", "2", "-i", "0.2", "-W", "3", hostIPv4).CombinedOutput(); err != nil {
		t.Errorf("ping of the shared address: %v\n%s", err, out)
	}
}
