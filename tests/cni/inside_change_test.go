//go:build linux

package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// TestInsideUplinkMoves: when the uplink gets another address, what containers send
// from the old one, which they have inside, does not leave, and they are told at once;
// status, doctor, CHECK and the list say so, and made anew they have the new one.
func TestInsideUplinkMoves(t *testing.T) {
	t.Parallel()
	const moved = "192.0.2.77"
	i := place(t, "ptp", insideUplink, 0)
	open := echo(t, i.server, i.a, serverIPv4, 7)
	if err := open.goes(); err != nil {
		t.Fatal(err)
	}
	datagrams, _, err := i.b.dial("udp4", "", serverIPv4+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	i.IP("addr del " + hostIPv4 + "/24 dev uplink")
	i.IP("addr add " + moved + "/24 dev uplink")
	i.server.IP("route replace default via " + moved)
	eventually(t, 10*time.Second, func() error {
		s, err := i.d.Client().Status(t.Context())
		if err != nil {
			return err
		}
		for _, c := range s.Checks {
			if c.Name == "inside" && c.State == "warn" && strings.Contains(c.Detail, "2 of 2 workloads have an address inside that is not theirs any more") {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.Checks)
	})
	before := len(i.web.observed())
	out, err := i.a.Command("curl", "-4", "-sS", "--max-time", "60", "http://"+serverIPv4+"/").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "No route to host") && !strings.Contains(string(out), "Couldn't connect") || len(i.web.observed()) != before {
		t.Errorf("from the old address: %v %s", err, out)
	}
	if err := hears(open); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("what was open: %v", err)
	}
	datagrams.Write([]byte("hello"))
	datagrams.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := datagrams.Read(make([]byte, 9)); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a datagram: %v", err)
	}
	if _, err := i.a.attach("check", "published", "eth0"); err == nil || !strings.Contains(err.Error(), moved) {
		t.Errorf("CHECK: %v", err)
	}
	if got := i.says(t, "doctor"); !strings.Contains(got, "2 of 2 workloads have an address inside") {
		t.Errorf("doctor:\n%s", got)
	}
	if got := i.says(t, "workloads"); !strings.Contains(got, "inside, still "+hostIPv4) {
		t.Errorf("workloads:\n%s", got)
	}
	for _, command := range []string{"del", "add", "check"} {
		if _, err := i.a.attach(command, "published", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	out, err = i.a.Command("sh", "-c", "curl -4 -sS --max-time 30 http://"+serverIPv4+"/ | sha256sum").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), i.web.sum) {
		t.Errorf("made anew: %v %s", err, out)
	}
}

// hears sends by a connection that asks for what ICMP says of it (ip(7), IP_RECVERR),
// and returns that.
func hears(s *stream) error {
	c, err := s.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	if set := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1) }); set != nil || err != nil {
		return errors.Join(set, err)
	}
	s.Write([]byte("hello"))
	s.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err = s.Read(make([]byte, 9))
	return err
}

// says runs natless on the node.
func (i *insiders) says(t *testing.T, command string) string {
	t.Helper()
	out, _ := i.Command(filepath.Join(daemon.Build(t), "natless"), command, "--socket", i.d.Socket).CombinedOutput()
	return string(out)
}

// TestInsideDoctor: on a host where all is well nothing is said of it but that; what
// somebody changes in a container is.
func TestInsideDoctor(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about the containers")
	i := place(t, "bridge", insidePool, 0)
	line := func() string {
		t.Helper()
		var lines []string
		for _, l := range strings.Split(i.says(t, "doctor"), "\n") {
			if strings.Contains(l, "  inside  ") || strings.Contains(l, "  containers  ") {
				lines = append(lines, l)
			}
		}
		return strings.Join(lines, "\n")
	}
	if got := line(); !strings.Contains(got, "ok    inside         2 workloads") || strings.Contains(got, "warn") || strings.Contains(got, "fail") {
		t.Errorf("doctor:\n%s", got)
	}
	i.b.IP("rule del pref 29")
	if got := line(); !strings.Contains(got, "warn  inside") || !strings.Contains(got, i.b.Name) || !strings.Contains(got, "missing: rule 29") {
		t.Errorf("doctor:\n%s", got)
	}
	if _, err := i.b.attach("check", "inside", "eth0"); err == nil || !strings.Contains(err.Error(), "rule 29") {
		t.Errorf("CHECK: %v", err)
	}
	out, err := exec.Command(filepath.Join(daemon.Build(t), "natless"), "explain", "--socket", i.d.Socket, "ipv4", "from", i.a.named(), "src",
		i.wa.Address.String(), "dst", serverIPv4, "tcp", "sport", fmt.Sprint(i.wa.Run().First), "dport", "80").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "verdict  pass4") {
		t.Errorf("explain: %v\n%s", err, out)
	}
}

// TestInsideDaemonAway: what is plain goes on while the daemon is dead, streams to the
// outside and between containers; DEL leaves nothing, and its assignment is given back.
func TestInsideDaemonAway(t *testing.T) {
	t.Parallel()
	if daemon.FastPath() == "off" {
		t.Skip("without the fast path nothing is plain")
	}
	i := place(t, "bridge", insidePool, 0)
	port := int(i.wb.Run().First)
	streams := []*stream{echo(t, i.server, i.a, serverIPv4, 7), echo(t, i.b.NS, i.a, i.wb.Address.String(), port)}
	for round := range 3 {
		switch round {
		case 1:
			i.d.Kill()
		case 2:
			i.d.Start()
		}
		for _, s := range streams {
			if err := s.goes(); err != nil {
				t.Errorf("round %d, to %v: %v", round, s.RemoteAddr(), err)
			}
		}
	}
	i.d.Kill()
	if _, err := i.b.attach("del", "inside", "eth0"); err != nil {
		t.Error(err)
	}
	for _, what := range []string{"rule", "-4 addr show scope global"} {
		if got := i.b.IP(what); strings.Contains(got, i.wb.Address.String()) || what == "rule" && !strings.HasPrefix(got, "0:") {
			t.Errorf("after DEL, ip %s:\n%s", what, got)
		}
	}
	i.d.Start()
	eventually(t, 5*time.Second, func() error {
		list, err := i.d.Client().List(t.Context(), api.Filter{Name: i.b.named()})
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("%v is left", list)
		}
		return err
	})
}

// TestInsideEnded: when natlessd is taken away under containers that have IPv4 inside,
// the host forwards none of it, whoever it says to be from. The next natlessd has them
// speak again.
func TestInsideEnded(t *testing.T) {
	t.Parallel()
	i := place(t, "ptp", insidePool, 0)
	i.a.IP("addr add 203.0.113.66/32 dev eth0")
	var l net.PacketConn
	var err error
	i.server.Do(func() { l, err = net.ListenPacket("udp4", serverIPv4+":9") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	arrived := func(when string, from ...string) {
		t.Helper()
		for _, source := range []string{i.wa.Address.String(), "203.0.113.66"} {
			if c, _, err := i.a.dial("udp4", source+":0", serverIPv4+":9"); err == nil {
				for range 3 {
					c.Write([]byte(when + source))
				}
				c.Close()
			}
		}
		i.Do(func() { // nothing that the kernel forwards comes later than this
			if c, err := net.Dial("udp4", serverIPv4+":9"); err == nil {
				c.Write([]byte(when + "end"))
				c.Close()
			}
		})
		got := map[string]bool{}
		l.SetReadDeadline(time.Now().Add(20 * time.Second))
		for b := make([]byte, 64); len(from) == 0 || !got[from[0]]; {
			n, _, err := l.ReadFrom(b)
			if err != nil {
				t.Fatalf("%s: heard of %v: %v", when, got, err)
			}
			if source, now := strings.CutPrefix(string(b[:n]), when); source == "end" && len(from) == 0 {
				break
			} else if now && source != "end" {
				got[source] = true
			}
		}
		if all := slices.Sorted(maps.Keys(got)); !slices.Equal(all, from) {
			t.Errorf("%s: heard of %q, want %q", when, all, from)
		}
	}
	arrived("as usual", i.wa.Address.String())
	i.d.Kill()
	natlessd := filepath.Join(daemon.Build(t), "natlessd")
	i.Run(natlessd, "--config", i.d.Config, "--cleanup")
	i.Run("sysctl", "-qw", "net.ipv4.ip_forward=1") // as other software on the host has it
	arrived("without natlessd")
	i.d.Start()
	arrived("again", i.wa.Address.String())
}

// TestInsideKilledUnderLoad: the daemon is killed and started again under streams and
// datagrams to the outside and between containers. Nothing is lost that is plain; what
// has to wait for the daemon waits for the next one, but what the killed one had read.
func TestInsideKilledUnderLoad(t *testing.T) {
	i := place(t, "bridge", insidePool, 0, "--handover")
	s := i.wa.Address.String()
	streams := []*load.Stream{load.StartPaced(t, i.a.NS, i.server, serverIPv4), load.StartPaced(t, i.b.NS, i.server, serverIPv4),
		load.StartPaced(t, i.a.NS, i.b.NS, s), load.StartPaced(t, i.b.NS, i.a.NS, s), load.StartPaced(t, i.server, i.a.NS, s)}
	flows := []*load.Datagrams{load.SendDatagrams(t, i.a.NS, i.server, serverIPv4), load.SendDatagrams(t, i.b.NS, i.a.NS, s),
		load.SendDatagrams(t, i.server, i.b.NS, s)}
	// A killed daemon had read up to 64 packets at each of two devices, which are gone: the
	// more, the longer it had to wait for a processor. TestInsideWaits is about the rest.
	const rounds, read = 2, 2 * 64
	outside := fmt.Sprint(int(i.wb.Run().First) + 40)
	ping := i.a.Command("ping", "-4", "-q", "-i", "0.05", "-W", "20", "-e", outside, serverIPv4)
	var said bytes.Buffer
	ping.Stdout, ping.Stderr = &said, &said
	if err := netns.Start(ping); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ping.Process.Kill() })
	for range rounds {
		i.d.Kill()
		i.d.Start()
		for n, s := range streams {
			before := s.Written()
			load.Within(t, 20*time.Second, fmt.Sprint("stream ", n, " goes on"), func() bool { return s.Written() > before })
		}
	}
	ping.Process.Signal(syscall.SIGINT)
	ping.Wait()
	var sent, received int
	summary := said.String()[strings.Index(said.String(), "statistics ---\n")+15:]
	// Where all goes by the daemon, the queues hold less than comes while it begins slowly:
	// connections have to make up for that, and do.
	plain := daemon.FastPath() != "off"
	if n, err := fmt.Sscanf(summary, "%d packets transmitted, %d received", &sent, &received); n != 2 || sent < 5 || plain && received < sent-1-rounds*read {
		t.Errorf("echo requests, which go by the daemon: %v\n%s", err, said.String())
	}
	t.Logf("echo requests by the daemon: %s", summary)
	for n, f := range flows {
		if sent, lost := f.Finish(); plain && lost > sent/50 || sent < 100 || lost == sent { // what a busy receiver's buffer loses is less
			t.Errorf("flow %d: %d of %d datagrams lost", n, lost, sent)
		}
	}
	for _, s := range streams {
		s.Finish()
	}
}

// TestInsideWaits: what goes by the daemon and comes while there is none waits for the
// next one, and all of it is answered.
func TestInsideWaits(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about what goes by the daemon on both")
	i := place(t, "ptp", insidePool, 0, "--handover")
	ping := func(count int) (*exec.Cmd, *bytes.Buffer) {
		cmd, said := i.a.Command("ping", "-4", "-n", "-c", fmt.Sprint(count), "-i", "0.02", "-W", "60", "-e", fmt.Sprint(int(i.wb.Run().First)+40), serverIPv4), new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = said, said
		if err := netns.Start(cmd); err != nil {
			t.Fatal(err)
		}
		return cmd, said
	}
	first, said := ping(2) // neighbours are known then
	if err := first.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	i.d.Kill()
	const count = 50
	waiting, said := ping(count)
	time.Sleep(count / 2 * 20 * time.Millisecond) // some of them; how many is all the same
	i.d.Start()
	if err := waiting.Wait(); err != nil || !strings.Contains(said.String(), fmt.Sprintf("%d received, 0%% packet loss", count)) {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestInsideGC: what no container has is taken back, and its program with it; who is
// left has what it had.
func TestInsideGC(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about the plugin")
	i := place(t, "ptp", insidePool, 0)
	list, err := libcni.ConfListFromFile(filepath.Join(i.a.conf, "inside.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	key := i.wb.Key
	i.b.IP("link del eth0") // it has ended, and nobody said so
	cni := libcni.NewCNIConfigWithCacheDir([]string{i.a.cniPath}, t.TempDir(), nil)
	if err := cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
		t.Error(err)
	}
	if _, err := i.d.Client().Get(t.Context(), key); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("GC left what no container has: %v", err)
	}
	if w, err := i.a.workload(i.d.Client()); err != nil || w.Inside == nil {
		t.Errorf("GC of one network took from another: %+v, %v", w, err)
	}
	out, err := i.a.Command("sh", "-c", "curl -4 -sS --max-time 30 http://"+serverIPv4+"/ | sha256sum").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), i.web.sum) {
		t.Errorf("after GC: %v %s", err, out)
	}
}

// stream is a connection to somebody who sends back what he gets.
type stream struct{ net.Conn }

func echo(t *testing.T, at *netns.NS, from *pod, address string, port int) *stream {
	t.Helper()
	l := listen(t, at, fmt.Sprintf(":%d", port))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	c, _, err := from.dial("tcp4", "", fmt.Sprintf("%s:%d", address, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &stream{c}
}

// goes sends some data, and waits for it.
func (s *stream) goes() error {
	data := make([]byte, 200_000)
	s.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan error, 1)
	go func() { _, err := s.Write(data); sent <- err }()
	_, err := io.ReadFull(s, data)
	if wrong := <-sent; err == nil {
		err = wrong
	}
	return err
}

// manyLengths has more lengths of prefixes than the kernel's tables have room for.
func manyLengths() string {
	config := insidePool + "mappings:\n"
	for n := range 24 {
		config += fmt.Sprintf("  - {ipv6: \"2001:db8:%x::/%d\", ipv4: %d.0.0.0/%d}\n", 0x1000+n, 96+8+n, 11+n, 8+n)
	}
	return config
}

// TestInsideRefusedByNetworks: a network that gives IPv4 itself, one without a gateway,
// a daemon without a device for it, and one whose programs stand nowhere, say so with
// code 112, and leave nothing.
func TestInsideRefusedByNetworks(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, insidePool)
	other := newNode(t)
	off := daemon.Start(t, other.NS, sharedPool)
	third := newNode(t)
	bare := daemon.Start(t, third.NS, manyLengths())
	inside := func(socket string) string {
		return fmt.Sprintf(`{"type": "natless-cni", "socket": %q, "ipv4": "inside"}`, socket)
	}
	ptp := func(ipam string) string {
		return fmt.Sprintf(`{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, %s}}`, t.TempDir(), ipam)
	}
	const six = `[{"subnet": "2001:db8:6::/64"}]`
	conf := chains(t, d.Socket, map[string][]string{
		"dual": {ptp(`"ranges": [` + six + `, [{"subnet": "10.9.0.0/24"}]], "routes": [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}]`), inside(d.Socket)},
		"off":  {ptp(`"ranges": [` + six + `], "routes": [{"dst": "::/0"}]`), inside(off.Socket)},
		"bare": {ptp(`"ranges": [` + six + `], "routes": [{"dst": "::/0"}]`), inside(bare.Socket)},
	})
	for network, want := range map[string]string{"dual": "has the IPv4 address 10.9.0.", "off": "it is not switched on",
		"bare": "they stand nowhere"} {
		p := &pod{NS: netns.New(t, network), node: map[string]*node{"dual": n, "off": other, "bare": third}[network], conf: conf, cniPath: bin}
		if _, err := p.attach("add", network, "eth0"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", network, err, want)
		}
		p.attach("del", network, "eth0")
	}
	if list, err := d.Client().List(t.Context(), apiAll); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}
