//go:build linux

package route

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestManagerMakesAndRemoves: iproute2 sees what we made, and after the end all
// is as before.
func TestManagerMakesAndRemoves(t *testing.T) {
	l := newLab(t)
	l.host.IP("link set natless0 up")
	before := l.snapshot()
	_, stop := l.start(example())
	want := lines(
		"192.0.2.1 dev natless0 scope link linkdown",
		"198.51.100.2 dev natless0 scope link linkdown",
		"203.0.113.0/30 dev natless0 scope link linkdown",
		"203.0.113.8 dev natless0 scope link linkdown",
		"64:ff9b::/96 dev natless0 metric 1024 linkdown pref medium",
		"2001:db8::1 dev natless0 metric 1024 linkdown pref medium",
		"2001:db8:f:: dev natless0 metric 1024 linkdown pref medium",
		"",
		"192.0.2.1 dev eth0 proxy proto 110",
		"198.51.100.2 dev eth0 proxy proto 110",
		"203.0.113.0 dev eth0 proxy proto 110",
		"203.0.113.1 dev eth0 proxy proto 110",
		"203.0.113.2 dev eth0 proxy proto 110",
		"203.0.113.3 dev eth0 proxy proto 110",
	)
	if diff := cmp.Diff(want, trimLines(l.ours())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for key, want := range map[string]string{
		"net.ipv6.conf.all.forwarding": "1", "net.ipv4.conf.eth0.forwarding": "1",
		"net.ipv4.conf.natless0.forwarding": "1", "net.ipv4.conf.wl0.forwarding": "0",
	} {
		if got := l.host.Run("sysctl", "-n", key); got != want {
			t.Errorf("%s = %s, want %s", key, got, want)
		}
	}
	if got := l.host.IP("link show natless0"); !strings.Contains(got, "mtu 1500") || !strings.Contains(got, "qlen 4096") {
		t.Errorf("device is %s", got)
	}
	l.must("stop", stop())
	if diff := cmp.Diff(before, l.snapshot()); diff != "" {
		t.Errorf("left behind: (-before +after)\n%s", diff)
	}
}

func trimLines(s string) string {
	out := strings.Split(s, "\n")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	// iproute2 lists proxies in the order of a hash
	sortTail(out, " proxy ")
	return strings.Join(out, "\n")
}

func sortTail(lines []string, mark string) {
	for i := range lines {
		for j := i + 1; j < len(lines); j++ {
			if strings.Contains(lines[i], mark) && strings.Contains(lines[j], mark) && lines[j] < lines[i] {
				lines[i], lines[j] = lines[j], lines[i]
			}
		}
	}
}

// TestManagerAdoptsAfterKill: SIGKILL leaves everything; the next start has no
// duplicate and its end leaves nothing; so does Cleanup.
func TestManagerAdoptsAfterKill(t *testing.T) {
	l := newLab(t)
	l.host.IP("link set natless0 up")
	before := l.snapshot()
	l.startAndKill(example())
	left := trimLines(l.ours())
	if !strings.Contains(left, "64:ff9b::/96") || !strings.Contains(left, "proxy") {
		t.Fatalf("the kill left nothing to adopt:\n%s", left)
	}
	d := example()
	m, stop := l.start(d)
	if diff := cmp.Diff(left, trimLines(l.ours())); diff != "" {
		t.Errorf("second start: (-left +now)\n%s", diff)
	}
	// What the next start does not want is replaced.
	d.Mapped4 = prefixes("198.51.100.3/32")
	l.must("set", m.Set(d))
	if got := l.ours(); strings.Contains(got, "198.51.100.2 ") || !strings.Contains(got, "198.51.100.3 ") {
		t.Errorf("not replaced:\n%s", got)
	}
	l.must("stop", stop())
	if diff := cmp.Diff(before, l.snapshot()); diff != "" {
		t.Errorf("left behind: (-before +after)\n%s", diff)
	}

	l.startAndKill(example())
	var err error
	l.host.Do(func() { err = Cleanup(l.config) })
	l.must("cleanup", err)
	if diff := cmp.Diff(before, l.snapshot()); diff != "" {
		t.Errorf("cleanup left behind: (-before +after)\n%s", diff)
	}
}

// TestManagerPutsBack: whatever somebody takes away is back within a second.
func TestManagerPutsBack(t *testing.T) {
	l := newLab(t)
	l.start(example())
	has := func(what string) func() bool {
		return func() bool { return strings.Contains(l.ours(), what) }
	}
	isUp := func() bool { return strings.Contains(l.host.IP("link show natless0"), ",UP") }
	cases := []struct {
		remove string
		back   func() bool
	}{
		{"ip -4 route del 198.51.100.2 dev natless0", has("198.51.100.2 dev natless0 ")},
		{"ip -6 route del 64:ff9b::/96 dev natless0", has("64:ff9b::/96 dev natless0 ")},
		{"ip link set natless0 down", func() bool { return isUp() && has("64:ff9b::/96 dev natless0 ")() }},
		{"ip link set natless0 mtu 1300", func() bool { return strings.Contains(l.host.IP("link show natless0"), "mtu 1500") }},
		{"ip neigh del proxy 198.51.100.2 dev eth0", has("198.51.100.2 dev eth0 proxy")},
		{"sysctl -qw net.ipv6.conf.all.forwarding=0", func() bool {
			return l.host.Run("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1"
		}},
		{"sysctl -qw net.ipv4.conf.eth0.forwarding=0", func() bool {
			return l.host.Run("sysctl", "-n", "net.ipv4.conf.eth0.forwarding") == "1"
		}},
	}
	for _, c := range cases {
		f := strings.Fields(c.remove)
		l.host.Run(f[0], f[1:]...)
		l.within(soon, c.remove, c.back)
	}
	l.host.IP("link del natless0")
	time.Sleep(100 * time.Millisecond)
	l.device()
	l.within(soon, "device deleted and made again", func() bool {
		return isUp() && has("64:ff9b::/96 dev natless0 ")() && has("198.51.100.2 dev natless0 ")()
	})
}

// TestManagerSurvivesOverrun floods the subscription until the kernel drops
// notifications, and takes a route away meanwhile.
func TestManagerSurvivesOverrun(t *testing.T) {
	l := newLab(t)
	var w *netlinkWatcher
	var err error
	release := make(chan struct{})
	changed := make(chan struct{}, 1)
	l.host.Do(func() {
		w, err = watch(func() {
			<-release // a reader that is too slow
			select {
			case changed <- struct{}{}:
			default:
			}
		}, func() {})
	})
	l.must("watch", err)
	l.must("small buffer", w.conn.SetReadBuffer(4096))
	l.start(example())
	flood := func() string {
		var b strings.Builder
		for i := range 4000 {
			fmt.Fprintf(&b, "route add 10.%d.%d.0/24 dev eth0\n", i/250, i%250)
		}
		b.WriteString("route del 198.51.100.2 dev natless0\n")
		for i := range 4000 {
			fmt.Fprintf(&b, "route del 10.%d.%d.0/24 dev eth0\n", i/250, i%250)
		}
		return b.String()
	}()
	cmd := l.host.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(flood)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("flood: %v %s", err, out)
	}
	l.within(soon, "route back after a flood", func() bool {
		return strings.Contains(l.ours(), "198.51.100.2 dev natless0 ")
	})
	close(release)
	l.within(soon, "overrun noticed", func() bool { return w.overruns.Load() > 0 })
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Error("an overrun must count as a change")
	}
	l.must("close", w.close())
}

// TestManagerAnswersARP: an IPv4 host on the uplink's link finds a mapped
// address, and not one that is nobody's.
func TestManagerAnswersARP(t *testing.T) {
	l := newLab(t)
	d := example()
	d.Mapped4 = prefixes("192.0.2.50/32", "192.0.2.64/30")
	l.start(d)
	mac := strings.Fields(l.host.IP("-o link show eth0"))
	hostMAC := ""
	for i, f := range mac {
		if f == "link/ether" {
			hostMAC = mac[i+1]
		}
	}
	resolve := func(addr string) string {
		_ = l.net.Command("ping", "-c", "1", "-W", "1", addr).Run()
		return l.net.IP("neigh show " + addr)
	}
	for _, a := range []string{"192.0.2.50", "192.0.2.66", "192.0.2.1"} {
		l.within(3*time.Second, "arp for "+a, func() bool { return strings.Contains(resolve(a), hostMAC) })
	}
	if got := resolve("192.0.2.51"); strings.Contains(got, hostMAC) {
		t.Errorf("answered for an address that is nobody's: %s", got)
	}
}

// TestManagerKeepsRADefaultRoute: a default route learnt by router
// advertisement lives through our switching forwarding on and off.
func TestManagerKeepsRADefaultRoute(t *testing.T) {
	l := newLab(t)
	l.net.Run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	l.host.Run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1")
	advertise := func() { sendRA(t, l.net, "eth0") }
	learnt := func() bool { return strings.Contains(l.host.IP("-6 route show default"), "proto ra") }
	l.within(5*time.Second, "default route learnt", func() bool { advertise(); return learnt() })
	_, stop := l.start(example())
	if !learnt() {
		t.Fatalf("the default route is gone:\n%s", l.host.IP("-6 route show table all"))
	}
	if got := l.host.Run("sysctl", "-n", "net.ipv6.conf.eth0.accept_ra"); got != "2" {
		t.Errorf("accept_ra = %s while forwarding", got)
	}
	l.host.IP("-6 route del default")
	l.within(5*time.Second, "learnt again while forwarding", func() bool { advertise(); return learnt() })
	l.must("stop", stop())
	if got := l.host.Run("sysctl", "-n", "net.ipv6.conf.eth0.accept_ra"); got != "1" {
		t.Errorf("accept_ra = %s after the end", got)
	}
	if !learnt() {
		t.Error("the default route is gone after the end")
	}
}

// TestManagerChecksSysctls: not allowed to set them, it says which are off.
func TestManagerChecksSysctls(t *testing.T) {
	l := newLab(t)
	l.config.ManageSysctls = false
	m, err := New(l.config)
	l.must("new", err)
	l.must("set", m.Set(example()))
	l.host.Do(func() { err = m.Run(t.Context()) })
	var se *SysctlError
	if !errors.As(err, &se) || !strings.Contains(err.Error(), "net.ipv6.conf.all.forwarding=1") {
		t.Fatalf("got %v, want a SysctlError naming net.ipv6.conf.all.forwarding", err)
	}
	if got := strings.TrimSpace(l.ours()); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
	for _, s := range se.Needed {
		l.host.Run("sysctl", "-qw", s)
	}
	before := l.snapshot()
	_, stop := l.start(example())
	l.must("stop", stop())
	if diff := cmp.Diff(grep(before, "/proc/sys/"), grep(l.snapshot(), "/proc/sys/")); diff != "" {
		t.Errorf("changed sysctls: (-before +after)\n%s", diff)
	}
}

// TestManagerRefusesForeignRoute: a route of somebody else is not taken over.
func TestManagerRefusesForeignRoute(t *testing.T) {
	l := newLab(t)
	m, _ := l.start(example())
	d := example()
	d.Mapped4 = append(d.Mapped4, netip.MustParsePrefix("192.0.2.0/24")) // eth0's own
	if err := m.Set(d); err == nil || !strings.Contains(err.Error(), "ip route show 192.0.2.0/24") {
		t.Errorf("got %v, want an error that names the route", err)
	}
	if got := l.host.IP("-4 route show 192.0.2.0/24"); !strings.Contains(got, "dev eth0 proto kernel") {
		t.Errorf("the host's own route is gone: %s", got)
	}
}
