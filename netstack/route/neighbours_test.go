package route

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// neighbourly is a fake whose uplink has what neighbours need, with one more
// interface, and an IPv6 prefix on the uplink's link.
func neighbourly() *fakeKernel {
	k := newFake()
	k.sysctls["net/ipv4/neigh/eth0/proxy_delay"] = "80"
	k.sysctls["net/ipv6/neigh/eth0/proxy_delay"] = "79"
	k.sysctls["net/ipv6/conf/eth0/proxy_ndp"] = "0"
	k.facts.onLink6 = prefixes("2001:db8::/64")
	return k
}

// TestNeighbourSysctls: what is set for neighbours is put back, whatever became
// of the uplink meanwhile, also by a start after a kill.
func TestNeighbourSysctls(t *testing.T) {
	set := lines("net/ipv4/neigh/eth0/proxy_delay=0", "net/ipv6/conf/eth0/proxy_ndp=1", "net/ipv6/neigh/eth0/proxy_delay=0")
	about := func(k *fakeKernel) string {
		return grep(grep(sysctlLines(k.sysctls), "net/ipv"), "proxy_")
	}
	rename := func(k *fakeKernel, from, to string) {
		for key, value := range k.sysctls {
			if interfaceOf(key) == from {
				delete(k.sysctls, key)
				k.sysctls[withInterface(key, to)] = value
			}
		}
		for i := range k.ifaces {
			if k.ifaces[i].name == from {
				k.ifaces[i].name = to
			}
		}
	}
	for name, c := range map[string]struct {
		meanwhile func(*fakeKernel)
		want      string
	}{
		"nothing": {func(*fakeKernel) {}, lines("net/ipv4/neigh/eth0/proxy_delay=80", "net/ipv6/conf/eth0/proxy_ndp=0", "net/ipv6/neigh/eth0/proxy_delay=79")},
		"renamed": {func(k *fakeKernel) { rename(k, "eth0", "wan0") },
			lines("net/ipv4/neigh/wan0/proxy_delay=80", "net/ipv6/conf/wan0/proxy_ndp=0", "net/ipv6/neigh/wan0/proxy_delay=79")},
		"renamed, and another has its name": {func(k *fakeKernel) {
			rename(k, "eth0", "wan0")
			k.ifaces = append(k.ifaces, iface{"eth0", 9, true})
			k.sysctls["net/ipv4/neigh/eth0/proxy_delay"] = "0" // its own
		}, lines("net/ipv4/neigh/eth0/proxy_delay=0",
			"net/ipv4/neigh/wan0/proxy_delay=80", "net/ipv6/conf/wan0/proxy_ndp=0", "net/ipv6/neigh/wan0/proxy_delay=79")},
		"made anew": {func(k *fakeKernel) {
			k.ifaces[1].index = 9
			k.sysctls["net/ipv4/neigh/eth0/proxy_delay"], k.sysctls["net/ipv6/neigh/eth0/proxy_delay"] = "80", "80"
			k.sysctls["net/ipv6/conf/eth0/proxy_ndp"] = "1" // the default has changed
		}, lines("net/ipv4/neigh/eth0/proxy_delay=80", "net/ipv6/conf/eth0/proxy_ndp=1", "net/ipv6/neigh/eth0/proxy_delay=80")},
		"set by somebody else": {func(k *fakeKernel) { k.sysctls["net/ipv4/neigh/eth0/proxy_delay"] = "20" },
			lines("net/ipv4/neigh/eth0/proxy_delay=20", "net/ipv6/conf/eth0/proxy_ndp=0", "net/ipv6/neigh/eth0/proxy_delay=79")},
	} {
		k := neighbourly()
		r := newTestReconciler(t, k, true)
		if err := r.set(example()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(set, about(k)); diff != "" {
			t.Errorf("%s: set: (-want +got)\n%s", name, diff)
		}
		r = restartReconciler(t, k, r.config) // it was killed
		c.meanwhile(k)
		if err := r.cleanUp(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, about(k)); diff != "" {
			t.Errorf("%s: put back: (-want +got)\n%s", name, diff)
		}
	}
}

// TestNeighbourWishes: who may set nothing is told once, and works; what somebody
// else changes while natlessd runs is set again.
func TestNeighbourWishes(t *testing.T) {
	k := neighbourly()
	for _, s := range []string{"net/ipv6/conf/all/forwarding", "net/ipv4/conf/eth0/forwarding", "net/ipv4/conf/natless0/forwarding"} {
		k.sysctls[s] = "1"
	}
	r := newTestReconciler(t, k, false)
	if err := r.set(example()); err != nil {
		t.Fatal(err)
	}
	if want := "sysctl -w net.ipv4.neigh.eth0.proxy_delay=0 net.ipv6.conf.eth0.proxy_ndp=1"; !strings.Contains(r.warned, want) || r.proxiesGone() {
		t.Errorf("warned %q, want %q; looks again: %t", r.warned, want, r.proxiesGone())
	}
	k = neighbourly()
	if r = newTestReconciler(t, k, true); r.set(example()) != nil || r.warned != "" || r.proxiesGone() {
		t.Fatalf("warned %q, looks again: %t", r.warned, r.proxiesGone())
	}
	k.sysctls["net/ipv4/neigh/eth0/proxy_delay"] = "80"
	if !r.proxiesGone() || r.reconcile() != nil || k.sysctls["net/ipv4/neigh/eth0/proxy_delay"] != "0" {
		t.Error("a delay that somebody put back stays")
	}
}

// TestProxied6: the own IPv6 address is answered for where the link's hosts take
// it for a neighbour, and only there.
func TestProxied6(t *testing.T) {
	d, f := example(), facts{onLink6: prefixes("2001:db8:1::/64", "2001:db8::/64")}
	if got := proxied6(d, f); len(got) != 1 || got[0] != (proxy{"eth0", netip.MustParseAddr("2001:db8::1")}) {
		t.Errorf("got %v", got)
	}
	for _, c := range []facts{{}, {onLink6: prefixes("2001:db8:1::/64")}} {
		if got := proxied6(d, c); got != nil {
			t.Errorf("%v: got %v", c.onLink6, got)
		}
	}
}

// At the edge of a fabric without IPv4 the host answers for its addresses there, as far as
// they lie on the link, and for no IPv4 address; what is for them leads to the device, and
// nobody else may send from them.
func TestEdgeAddresses(t *testing.T) {
	d := example()
	d.Blocks6 = prefixes("2001:db8:1:0:1::/126", "2001:db8:e::/120", "2001:db8:1::9/128")
	f := facts{onLink6: prefixes("2001:db8:1::/64")}
	out, warnings := proxies(d, f)
	var got []string
	for _, o := range out {
		got = append(got, o.(proxy).addr.String())
	}
	slices.Sort(got)
	want := []string{"2001:db8:1:0:1::", "2001:db8:1:0:1::1", "2001:db8:1:0:1::2", "2001:db8:1:0:1::3", "2001:db8:1::9"}
	if !slices.Equal(got, want) || len(warnings) > 0 {
		t.Errorf("answers for %v, want %v; warnings %v", got, want, warnings)
	}
	for _, p := range d.Blocks6 {
		if !slices.Contains(routed6(d), p) {
			t.Errorf("%v does not lead to the device", p)
		}
	}
	for _, bad := range []string{"192.0.2.0/24", "::/0", "2001:db8::1/64"} {
		if d.Blocks6 = prefixes(bad); d.Validate() == nil {
			t.Errorf("%s is not refused", bad)
		}
	}
}
