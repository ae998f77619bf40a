//go:build linux

package wiring

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

const (
	ipv4    = "192.0.2.9"
	gateway = "2001:db8:6::1"
)

// container is a namespace with an IPv6 network at eth0, and a host behind it.
func container(t *testing.T) *netns.NS {
	t.Helper()
	pod, host := netns.New(t, "pod"), netns.New(t, "host")
	netns.Veth(t, pod, "eth0", host, "veth1")
	host.IP("addr add " + gateway + "/64 dev veth1")
	pod.IP("addr add 2001:db8:6::2/64 dev eth0")
	pod.IP("-6 route add default via " + gateway)
	return pod
}

func wanted(set string) Wiring {
	return Wiring{Interface: "eth0", Address: netip.MustParseAddr(ipv4), Ports: ports.MustParse(set), Gateway: netip.MustParseAddr(gateway),
		Prefix: netip.MustParsePrefix("64:ff9b::/96")}
}

// state is all that a wiring may change.
func state(ns *netns.NS) string {
	var all []string
	for _, what := range []string{"-4 addr show scope global", "rule", "-4 route show table all", "-6 route show table all type unreachable"} {
		all = append(all, ns.IP(what))
	}
	return strings.Join(all, "\n")
}

func inside[T any](ns *netns.NS, f func() (T, error)) (v T, err error) {
	ns.Do(func() { v, err = f() })
	return v, err
}

func apply(ns *netns.NS, w Wiring) (err error) {
	ns.Do(func() { err = w.Apply() })
	return err
}

// TestApply: what the kernel decides by it, for own and others' ports; the same again
// changes nothing; another share takes its place; and removing leaves no trace.
func TestApply(t *testing.T) {
	t.Parallel()
	pod := container(t)
	before := state(pod)
	for _, set := range []string{"443,2048-3071,65000-65535", "4096-4097", ""} {
		w := wanted(set)
		if err := apply(pod, w); err != nil {
			t.Fatalf("%q: %v", set, err)
		}
		made := state(pod)
		if err := apply(pod, w); err != nil || state(pod) != made {
			t.Errorf("%q, again: %v", set, err)
		}
		if words, err := inside(pod, w.Differences); err != nil || words != nil {
			t.Errorf("%q: %q, %v", set, words, err)
		}
		for _, port := range []int{80, 442, 443, 444, 2047, 2048, 3071, 3072, 4096, 4098, 65000, 65534, 65535} {
			for _, proto := range []string{"tcp", "udp"} {
				own := w.Ports.IsZero() || w.Ports.Contains(uint16(port)) && port != 65535 // which no rule can have
				got := pod.IP(fmt.Sprintf("route get %s ipproto %s dport %d", ipv4, proto, port))
				if local := strings.HasPrefix(got, "local "+ipv4+" dev lo"); local != own || !own && !strings.Contains(got, "via inet6 "+gateway+" dev eth0") {
					t.Errorf("%q: %s %d: %s", set, proto, port, got)
				}
			}
		}
		if got := pod.IP("route get 203.0.113.7"); !strings.Contains(got, "via inet6 "+gateway+" dev eth0 src "+ipv4) {
			t.Errorf("%q: %s", set, got)
		}
		if got := pod.IP("route get 127.0.0.1"); !strings.HasPrefix(got, "local 127.0.0.1 dev lo") {
			t.Errorf("%q: %s", set, got)
		}
		out, err := pod.Command("ip", "-6", "route", "get", "64:ff9b::cb00:7107").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "unreachable") && !strings.Contains(string(out), "No route to host") {
			t.Errorf("%q: the prefix: %s", set, out)
		}
	}
	var err error
	if err := apply(pod, wanted("443")); err != nil {
		t.Fatal(err)
	}
	made := state(pod)
	if pod.Do(func() { err = Wiring{Interface: "lo"}.Remove() }); err != nil || state(pod) != made {
		t.Errorf("removed at another interface: %v\n%s", err, state(pod))
	}
	if pod.Do(func() { err = Wiring{Interface: "eth0"}.Remove() }); err != nil || state(pod) != before {
		t.Errorf("removed: %v\n%s\nbefore:\n%s", err, state(pod), before)
	}
}

// TestAllOrNothing: whichever step fails, nothing is left.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	pod := container(t)
	before := state(pod)
	w := wanted("443,2048-3071")
	for n := range len(w.wanted()) {
		asked, no := 0, errors.New("no")
		var err error
		pod.Do(func() {
			err = w.apply(func(object) error {
				if asked++; asked > n {
					return no
				}
				return nil
			})
		})
		if !errors.Is(err, no) || asked != n+1 {
			t.Errorf("step %d: %v after %d", n, err, asked)
		}
		if now := state(pod); now != before {
			t.Fatalf("step %d has left\n%s\nbefore:\n%s", n, now, before)
		}
	}
}

// TestDifferences: each piece that goes is missed, and one of another share told.
func TestDifferences(t *testing.T) {
	t.Parallel()
	pod := container(t)
	w := wanted("443,2048-3071")
	for _, o := range w.wanted() {
		if err := apply(pod, w); err != nil {
			t.Fatal(err)
		}
		var err error
		if pod.Do(func() { err = o.remove() }); err != nil {
			t.Fatalf("%s: %v", o, err)
		}
		words, err := inside(pod, w.Differences)
		if text := strings.Join(words, "; "); err != nil || !strings.Contains(text, "missing: "+o.String()) {
			t.Errorf("%s has gone: %q, %v", o, text, err)
		}
	}
	if err := apply(pod, w); err != nil {
		t.Fatal(err)
	}
	words, err := inside(pod, wanted("443").Differences)
	if err != nil || len(words) != 2 || !strings.HasPrefix(words[0], "not of this share: rule 30 ") {
		t.Errorf("another share: %q, %v", words, err)
	}
}

// TestForeign: IPv4 of others is not touched.
func TestForeign(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ do, want string }{
		{"addr add 10.0.0.2/24 dev eth0", "has the IPv4 address 10.0.0.2/24 already"},
		{"addr add 10.0.0.2/32 dev eth0", "has the IPv4 address 10.0.0.2/32 already"},
		{"route add default dev eth0", "has an IPv4 default route already"},
		{"-4 route add default via inet6 " + gateway + " dev eth0", "has an IPv4 default route already"},
	} {
		pod := container(t)
		pod.IP(c.do)
		before := state(pod)
		err := apply(pod, wanted("443"))
		if who := (*ForeignError)(nil); !errors.As(err, &who) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.do, err)
		}
		if now := state(pod); now != before {
			t.Errorf("%s: changed\n%s\nto\n%s", c.do, before, now)
		}
	}
}

// TestNextHop: of the default routes by the interface the best, with its gateway.
func TestNextHop(t *testing.T) {
	t.Parallel()
	pod := container(t)
	hop := func(want string) {
		t.Helper()
		if a, err := inside(pod, func() (netip.Addr, error) { return NextHop("eth0") }); err != nil || a.String() != want {
			t.Errorf("%v, %v, want %s", a, err, want)
		}
	}
	hop(gateway)
	pod.IP("-6 route add default via fe80::1 dev eth0 metric 5")
	hop("fe80::1")
	pod.IP("-6 route flush default")
	hop("invalid IP")
	pod.IP("-6 route add default dev eth0")
	hop("invalid IP")
}
