//go:build linux

package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

func prefixed(v4 string) string { return "64:ff9b:1::" + v4 }

// TestEdge: workloads of two IPv6-only hosts reach an IPv4 server through either of two
// relays and are reached on the ports that they publish, in a fabric of 1280 bytes; they
// reach each other, on one host and on two; fragments, pings and ICMP errors pass. All of
// that by the kernel's fast path as far as packets are plain, and by the daemon alone.
func TestEdge(t *testing.T) {
	netns.Require(t, netns.Root, "ping", "curl")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, path)
			t.Run("TCP", f.tcp)
			t.Run("fragments", f.fragments)
			t.Run("pings", f.pings)
			t.Run("errors", f.errors)
			t.Run("told", f.told)
			t.Run("moved", f.moved)
			t.Run("deaths", f.deaths)
		})
	}
}

// tcp moves more than a window both ways, and looks at who is seen.
func (f *fleet) tcp(t *testing.T) {
	serves(t, f.server, "8000")
	serves(t, f.one, "8080")
	serves(t, f.two, "8081")
	serves(t, f.three, "8080")
	for _, c := range []struct {
		from     *netns.NS
		to, port string
		seen     string
	}{
		{f.one, server6, "8000", shared4},
		{f.two, server6, "8000", shared4},
		{f.three, server6, "8000", third4},
		{f.server, shared4, "8080", prefixed(server4)},
		{f.server, shared4, "8081", prefixed(server4)},
		{f.server, third4, "8080", prefixed(server4)},
		{f.one, prefixed(shared4), "8081", prefixed(shared4)},  // on one host
		{f.one, prefixed(third4), "8080", prefixed(shared4)},   // on two
		{f.three, prefixed(shared4), "8081", prefixed(third4)}, // and back
	} {
		if seen := fetch(t, c.from, c.to, c.port); seen != netip.MustParseAddr(c.seen) {
			t.Errorf("%s to %s port %s: it saw %s, want %s", c.from.Name, c.to, c.port, seen, c.seen)
		}
	}
	// What the relays translated was from both of them: neither host remembers one.
	for i, d := range f.daemons {
		if s, err := d.Client().Status(t.Context()); err != nil || s.Verdicts["forward4"]+s.Verdicts["forward6"] == 0 {
			t.Errorf("relay %d: %v, %v", i, s.Verdicts, err)
		}
	}
}

// large is more than the windows of a connection hold.
var large = func() []byte {
	b := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

// serves answers with who asked, and returns what it was sent.
func serves(t *testing.T, ns *netns.NS, port string) {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Seen", r.RemoteAddr)
		w.Write(b)
	})}
	go server.Serve(load.ListenOn(t, ns, ":"+port))
	t.Cleanup(func() { server.Close() })
}

func fetch(t *testing.T, from *netns.NS, to, port string) netip.Addr {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer(from)}}
	resp, err := client.Post("http://"+net.JoinHostPort(to, port), "", bytes.NewReader(large))
	if err != nil {
		t.Error(err)
		return netip.Addr{}
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, large) {
		t.Errorf("%s to %s port %s: %d bytes, %v", from.Name, to, port, len(got), err)
	}
	seen, _ := netip.ParseAddrPort(resp.Header.Get("Seen"))
	return seen.Addr().Unmap()
}

func dialer(ns *netns.NS) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		ns.Do(func() { c, err = (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, network, addr) })
		return c, err
	}
}

// fragments sends datagrams that are longer than any link.
func (f *fleet) fragments(t *testing.T) {
	echoes(t, f.server, 7000)
	echoes(t, f.two, 8081)
	echoes(t, f.three, 8080)
	for _, c := range []struct {
		from *netns.NS
		to   string
	}{
		{f.one, server6 + " 7000"}, {f.three, server6 + " 7000"}, {f.server, shared4 + " 8081"}, {f.server, third4 + " 8080"},
		{f.one, prefixed(third4) + " 8080"}, {f.three, prefixed(shared4) + " 8081"}, {f.one, prefixed(shared4) + " 8081"},
	} {
		to, port, _ := strings.Cut(c.to, " ")
		for _, size := range []int{10, 1232, 1233, 1300, 1452, 1473, 4000} {
			if err := echoed(c.from, net.JoinHostPort(to, port), size); err != nil {
				t.Errorf("%d bytes from %s to %s: %v", size, c.from.Name, c.to, err)
			}
		}
	}
}

// echoes returns datagrams.
func echoes(t *testing.T, ns *netns.NS, port int) {
	t.Helper()
	var conn *net.UDPConn
	var err error
	ns.Do(func() { conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: port}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err == nil {
				_, err = conn.WriteToUDPAddrPort(b[:n], from)
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
}

// echoed sends a datagram until it comes back: the first ones may be too big for a path
// that nobody has asked yet, and are lost.
func echoed(from *netns.NS, to string, size int) error {
	var conn net.Conn
	var err error
	from.Do(func() { conn, err = net.Dial("udp", to) })
	if err != nil {
		return err
	}
	defer conn.Close()
	b := make([]byte, 1<<16)
	for range 60 {
		conn.Write(large[:size]) // an error is an ICMP message about the one before
		conn.SetReadDeadline(time.Now().Add(time.Second / 4))
		n, err := conn.Read(b)
		switch {
		case err == nil && bytes.Equal(b[:n], large[:size]):
			return nil
		case err == nil:
			return fmt.Errorf("%d other bytes", n)
		}
	}
	return errors.New("nothing came back")
}

// pings go both ways, with identifiers of the kernel's choice.
func (f *fleet) pings(t *testing.T) {
	for _, c := range []struct {
		from *netns.NS
		to   string
	}{{f.one, server6}, {f.two, server6}, {f.three, server6}, {f.one, prefixed(shared4)}} {
		out, err := c.from.Command("ping", "-n", "-c", "1", "-W", "15", c.to).CombinedOutput()
		if c.to != server6 {
			continue // whose port an identifier is
		}
		if err != nil {
			t.Errorf("%s to %s: %v\n%s", c.from.Name, c.to, err, out)
		}
	}
	// A hop of the fabric has no IPv4 address. Nor does it tell everybody every time.
	var out []byte
	for range 10 {
		out, _ = f.one.Command("ping", "-n", "-c", "1", "-W", "2", "-t", "4", server6).CombinedOutput()
		if strings.Contains(string(out), "Time exceeded") && strings.Contains(string(out), "From "+netip.MustParseAddr(prefixed("192.0.0.7")).String()) {
			return
		}
	}
	t.Errorf("a hop of the fabric says:\n%s", out)
}

// errors are heard of: that nobody listens, at the far end and here; that nobody owns a port.
func (f *fleet) errors(t *testing.T) {
	for name, c := range map[string]struct {
		from *netns.NS
		to   string
	}{
		"nobody listens at the server":     {f.one, net.JoinHostPort(server6, "9")},
		"nobody listens at a workload":     {f.server, net.JoinHostPort(shared4, "8080")},
		"nobody owns the port":             {f.server, net.JoinHostPort(shared4, "9")},
		"nobody listens, between hosts":    {f.three, net.JoinHostPort(prefixed(shared4), "8080")},
		"nobody owns it, between hosts":    {f.three, net.JoinHostPort(prefixed(shared4), "9")},
		"nobody listens, between near two": {f.two, net.JoinHostPort(prefixed(shared4), "8080")},
	} {
		if err := refused(c.from, c.to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func refused(from *netns.NS, to string) error {
	var conn net.Conn
	var err error
	from.Do(func() { conn, err = net.Dial("udp", to) })
	if err != nil {
		return err
	}
	defer conn.Close()
	for range 10 {
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
			return err
		}
	}
	return errors.New("nothing was heard")
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// told: whois, explain and status speak of IPv4 as the relay sees it.
func (f *fleet) told(t *testing.T) {
	client, ctx := f.edges[0].Client(), t.Context()
	if o, err := client.Whois(ctx, netip.MustParseAddrPort(shared4+":8081"), time.Time{}); err != nil || o.Name != "two" {
		t.Errorf("whois: %+v, %v", o, err)
	}
	out, err := client.Explain(ctx, "ipv6 src 2001:db8:a::2 dst "+server6+" udp sport 8081 dport 53")
	if err != nil || out.Verdict != "forward4" || !strings.Contains(out.Between, "ipv4 src "+shared4+" dst "+server4) ||
		!strings.Contains(strings.Join(out.Output, " "), "ipv6 src 2001:db8:e0:f::101 dst 2001:db8:f64::c000:263") {
		t.Errorf("explain what leaves: %+v, %v", out, err)
	}
	in, err := client.Explain(ctx, "ipv6 src 2001:db8:f64::c000:263 dst 2001:db8:e0:f::101 udp sport 53 dport 8081")
	if err != nil || in.Verdict != "forward6" || !strings.Contains(in.Text, "as IPv4  ipv4 src "+server4+" dst "+shared4) ||
		!strings.Contains(in.Text, "dst 2001:db8:a::2") || !strings.Contains(in.Text, "this host's address on the fabric, for "+shared4) {
		t.Errorf("explain what comes: %+v, %v", in, err)
	}
	f.whose(t)
	f.monitored(t)
	s, err := client.Status(ctx)
	checks := map[string]string{}
	for _, c := range s.Checks {
		checks[c.Name] = c.State + " " + c.Detail
	}
	if !strings.Contains(checks["edge"], "ok IPv4 is at 2001:db8:f64::/96; relays reach 1 block here") || checks["mtu"] != "" {
		t.Errorf("checks: %v", checks)
	}
	if out := f.natless(0, "flows"); !strings.Contains(out, shared4) || !strings.Contains(out, server4) || strings.Contains(out, "2001:db8:e0:f") {
		t.Errorf("natless flows:\n%s", out)
	}
	if out := f.natless(0, "doctor"); strings.Contains(out, "fail ") || !strings.Contains(out, "edge.mtu") && strings.Contains(out, "mtu.ipv4") {
		t.Errorf("natless doctor:\n%s", out)
	}
	to, from := s.FastPath.Translated["forward4"].Packets, s.FastPath.Translated["forward6"].Packets
	if fast := to > 0 && from > 0; err != nil || s.Verdicts["forward4"] == 0 || s.Verdicts["forward6"] == 0 || fast != (f.path == "required") {
		t.Errorf("status: %v, fast path %+v, %v", s.Verdicts, s.FastPath, err)
	}
}

// whose: an address of the fabric is known by what relays lead there, at the edge and at a relay.
func (f *fleet) whose(t *testing.T) {
	t.Helper()
	const at = "2001:db8:e0:f::101" // of shared4
	for _, c := range []struct {
		relay      bool
		asked      string
		want, then string
	}{
		{false, "[" + at + "]:8081", "is where relays lead " + shared4 + "\n", "two"},
		{false, at, "is where relays lead " + shared4 + "\n", "one"},
		{false, "2001:db8:e0:f::102", "where relays lead 203.0.113.2\n", "nobody has 203.0.113.2: it is in pool lent"},
		{false, "2001:db8:f64::192.0.2.9", "192.0.2.9 outside, as the fabric has it", "192.0.2.9"},
		{true, at, "block 203.0.113.0/30, lent to the host that has 2001:db8:e0:f::100/126 in the fabric (lease 1)", shared4},
		{true, shared4, "block 203.0.113.0/30, lent to the host", at},
		{true, shared4 + ":8081", "block 203.0.113.0/30, lent to the host", at},
		{true, "203.0.113.77", "it is in 203.0.113.0/24 (relay.ipv4), and in no block", "nobody has"},
	} {
		ns, d := f.hosts[0], f.edges[0]
		if c.relay {
			ns, d = f.relays[0], f.daemons[0]
		}
		out, _ := ns.Command(filepath.Join(daemon.Build(t), "natless"), "whois", c.asked, "--socket", d.Socket).CombinedOutput()
		if !strings.Contains(string(out), c.want) || !strings.Contains(string(out), c.then) {
			t.Errorf("whois %s (a relay: %v): no %q and %q in\n%s", c.asked, c.relay, c.want, c.then, out)
		}
		if page := d.Whois(c.asked); !strings.Contains(page, strings.TrimSpace(c.want)) {
			t.Errorf("the page, of %s (a relay: %v): no %q in\n%s", c.asked, c.relay, c.want, page)
		}
	}
}

// natless runs the command of a host's operator.
func (f *fleet) natless(host int, args ...string) string {
	f.t.Helper()
	cmd := f.hosts[host].Command(filepath.Join(daemon.Build(f.t), "natless"), append(args, "--socket", f.edges[host].Socket)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err)
	}
	return string(out)
}

// monitored: who watches sees the workload's packet and IPv4, both ways.
func (f *fleet) monitored(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := f.hosts[0].CommandContext(ctx, filepath.Join(daemon.Build(f.t), "natless"), "monitor", "icmp", "-n", "4", "--socket", f.edges[0].Socket)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		f.one.Command("ping", "-n", "-c", "1", "-W", "1", server6).Run()
		select {
		case <-done:
			for _, want := range []string{shared4, server4, "6→4 forward4", "4→6 forward6"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("natless monitor does not say %s:\n%s", want, &out)
				}
			}
			return
		case <-ctx.Done():
			t.Fatal("natless monitor sees nothing")
		default:
		}
	}
}

// moved: the hosts get other addresses on the fabric while they run, and who is told of them
// reaches the workloads there, by the fast path as before.
func (f *fleet) moved(t *testing.T) {
	at := [2]string{"2001:db8:e0:9::100/126", "2001:db8:e1:9::cb00:7104/126"}
	for i, d := range f.edges {
		d.Write(f.config(i, at))
		if _, err := d.Client().Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.tell(2, at)
	serves(t, f.one, "8080")
	serves(t, f.three, "8080")
	before := f.fast(t)
	for _, c := range []struct {
		from     *netns.NS
		to, seen string
	}{{f.server, shared4, prefixed(server4)}, {f.server, third4, prefixed(server4)}, {f.one, prefixed(third4), prefixed(shared4)}} {
		if seen := fetch(t, c.from, c.to, "8080"); seen != netip.MustParseAddr(c.seen) {
			t.Errorf("%s to %s: it saw %s, want %s", c.from.Name, c.to, seen, c.seen)
		}
	}
	for i, after := range f.fast(t) {
		if fast := after[0] > before[i][0] && after[1] > before[i][1]; fast != (f.path == "required") {
			t.Errorf("host %d: by the fast path to and from the fabric %v, before %v", i, after, before[i])
		}
	}
}

// fast is what the hosts' kernels have translated to and from the fabric.
func (f *fleet) fast(t *testing.T) (n [2][2]uint64) {
	t.Helper()
	for i, d := range f.edges {
		s, err := d.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n[i] = [2]uint64{s.FastPath.Translated["forward4"].Packets, s.FastPath.Translated["forward6"].Packets}
	}
	return n
}

// deaths: connections outlive a relay, when the routers send by the other, and the daemons
// of both hosts.
func (f *fleet) deaths(t *testing.T) {
	streams := []*load.Stream{load.StartPaced(t, f.one, f.server, server6), load.StartPaced(t, f.three, f.server, server6)}
	flows := func(what string) {
		t.Helper()
		for i, s := range streams {
			before := s.Written()
			load.Within(t, time.Minute, what+": stream "+strconv.Itoa(i), func() bool { return s.Written() > before+1<<16 })
		}
	}
	flows("at first")
	for _, d := range f.edges {
		d.Kill()
	}
	if f.path == "required" {
		flows("while the hosts' daemons are dead")
	}
	for _, d := range f.edges {
		d.Start()
	}
	flows("after the hosts' daemons were killed")
	f.ways(1)
	f.daemons[0].Kill()
	flows("after a relay was killed")
	for _, s := range streams {
		s.Finish()
	}
}
