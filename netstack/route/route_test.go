package route

import (
	"errors"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/translator/ports"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, s := range s {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func example() Desired {
	return Desired{
		MTU:         1500,
		Uplink:      "eth0",
		Prefix:      netip.MustParsePrefix("64:ff9b::/96"),
		IPv4:        netip.MustParseAddr("192.0.2.1"),
		IPv6:        netip.MustParseAddr("2001:db8::1"),
		ICMPSource4: netip.MustParsePrefix("203.0.113.8/32"),
		ICMPSource6: netip.MustParsePrefix("2001:db8:f::/128"),
		Mapped4:     prefixes("198.51.100.2/32", "203.0.113.0/30", "203.0.113.1/32"),
	}
}

// TestStates compares the changes that lead from each state to the next.
func TestStates(t *testing.T) {
	k := newFake()
	r := newTestReconciler(t, k, true)
	steps := []struct {
		name   string
		change func(*Desired)
		want   string
	}{
		{"first", func(d *Desired) { *d = example() }, lines(
			"+ sysctl net.ipv6.conf.eth0.accept_ra = 2", // before forwarding
			"+ sysctl net.ipv6.conf.all.forwarding = 1",
			"+ sysctl net.ipv4.conf.natless0.forwarding = 1",
			"+ sysctl net.ipv4.conf.eth0.forwarding = 1",
			"+ link up=true mtu 1500 txqueuelen 4096",
			"+ route 192.0.2.1/32",
			"+ route 198.51.100.2/32",
			"+ route 2001:db8::1/128",
			"+ route 2001:db8:f::/128",
			"+ route 203.0.113.0/30",
			"+ route 203.0.113.8/32",
			"+ route 64:ff9b::/96",
			"+ proxy 192.0.2.1 dev eth0",
			"+ proxy 198.51.100.2 dev eth0",
			"+ proxy 203.0.113.0 dev eth0",
			"+ proxy 203.0.113.1 dev eth0",
			"+ proxy 203.0.113.2 dev eth0",
			"+ proxy 203.0.113.3 dev eth0",
		)},
		{"the same again", func(*Desired) {}, ""},
		{"a mapping goes", func(d *Desired) { d.Mapped4 = prefixes("203.0.113.0/30") }, lines(
			"- proxy 198.51.100.2 dev eth0",
			"- route 198.51.100.2/32",
		)},
		{"own address within the prefix", func(d *Desired) { d.IPv6 = netip.MustParseAddr("64:ff9b::1") }, lines(
			"- route 2001:db8::1/128",
		)},
		{"other mtu", func(d *Desired) { d.MTU = 9000 }, lines(
			"+ link up=true mtu 9000 txqueuelen 4096",
		)},
		{"no uplink", func(d *Desired) { d.Uplink = "" }, lines(
			"- proxy 203.0.113.3 dev eth0",
			"- proxy 203.0.113.2 dev eth0",
			"- proxy 203.0.113.1 dev eth0",
			"- proxy 203.0.113.0 dev eth0",
			"- proxy 192.0.2.1 dev eth0",
		)},
		{"served", func(d *Desired) {
			d.Served = Served{Table: 111, Metric: 100, Prefixes: prefixes("203.0.113.0/30", "64:ff9b::/96")}
		}, lines(
			"+ route 203.0.113.0/30 table 111 metric 100",
			"+ route 64:ff9b::/96 table 111 metric 100",
		)},
		{"served by another metric, which is that of IPv6 routes without one", func(d *Desired) { d.Served.Metric = defaultMetric6 }, lines(
			"+ route 203.0.113.0/30 table 111 metric 1024", // first, so that there always is one
			"+ route 64:ff9b::/96 table 111",
			"- route 64:ff9b::/96 table 111 metric 100",
			"- route 203.0.113.0/30 table 111 metric 100",
		)},
		{"not served", func(d *Desired) { d.Served = Served{} }, lines(
			"- route 64:ff9b::/96 table 111",
			"- route 203.0.113.0/30 table 111 metric 1024",
		)},
		{"nothing", func(d *Desired) { *d = Desired{MTU: 9000} }, lines(
			"- route 64:ff9b::/96",
			"- route 203.0.113.8/32",
			"- route 203.0.113.0/30",
			"- route 2001:db8:f::/128",
			"- route 192.0.2.1/32",
		)},
	}
	d := Desired{}
	for _, s := range steps {
		s.change(&d)
		if err := r.set(d); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if diff := cmp.Diff(s.want, k.took()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", s.name, diff)
		}
	}
}

// TestSysctlsRestored kills at each change, starts again, ends, and finds every
// value as it was.
func TestSysctlsRestored(t *testing.T) {
	for failAt := range 20 {
		k := newFake()
		k.sysctls["net/ipv6/conf/eth0/forwarding"] = "0"
		k.ifaces = append(k.ifaces, iface{"eth1", 3, false})
		k.sysctls["net/ipv6/conf/eth1/forwarding"] = "1" // an interface's own
		before := maps.Clone(k.sysctls)
		r := newTestReconciler(t, k, true)
		k.failAt = failAt
		if err := r.set(example()); failAt == 0 && err != nil {
			t.Fatal(err)
		}
		k.failAt = 0
		r = restartReconciler(t, k, r.config)
		if err := r.set(example()); err != nil {
			t.Fatalf("start after kill at %d: %v", failAt, err)
		}
		if got := k.sysctls["net/ipv6/conf/all/forwarding"]; got != "1" {
			t.Errorf("kill at %d: forwarding is %s", failAt, got)
		}
		r = restartReconciler(t, k, r.config)
		if err := r.cleanUp(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sysctlLines(before), sysctlLines(k.sysctls)); diff != "" {
			t.Errorf("kill at %d: (-before +after)\n%s", failAt, diff)
		}
	}
}

func TestSysctlOfOthersStays(t *testing.T) {
	k := newFake()
	r := newTestReconciler(t, k, true)
	if err := r.set(example()); err != nil {
		t.Fatal(err)
	}
	k.sysctls["net/ipv6/conf/eth0/accept_ra"] = "0" // an operator's wish, after ours
	if err := r.cleanUp(); err != nil {
		t.Fatal(err)
	}
	if got := k.sysctls["net/ipv6/conf/eth0/accept_ra"]; got != "0" {
		t.Errorf("accept_ra = %s, want the operator's 0", got)
	}
}

func TestSysctlsOnlyChecked(t *testing.T) {
	k := newFake()
	r := newTestReconciler(t, k, false)
	err := r.set(example())
	var se *SysctlError
	if !errors.As(err, &se) {
		t.Fatalf("got %v, want a SysctlError", err)
	}
	want := `run sysctl -w net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.all.forwarding=1 ` +
		`net.ipv4.conf.default.forwarding=1 net.ipv4.conf.natless0.forwarding=1 net.ipv4.conf.eth0.forwarding=1, or`
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want it to say %q", err, want)
	}
	if got := k.took(); got != "" {
		t.Errorf("changed all the same: %s", got)
	}
}

// TestRefusedSetKeepsOld: a change that the kernel refuses leaves what was.
func TestRefusedSetKeepsOld(t *testing.T) {
	k := newFake()
	r := newTestReconciler(t, k, true)
	if err := r.set(example()); err != nil {
		t.Fatal(err)
	}
	before := k.have.String()
	k.took()
	d := example()
	d.Mapped4 = prefixes("198.51.100.64/30")
	k.failAt = 3
	if err := r.set(d); !errors.Is(err, errFake) {
		t.Fatalf("got %v, want the kernel's error", err)
	}
	if diff := cmp.Diff(before, k.have.String()); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
}

func TestProxiesBounded(t *testing.T) {
	d := Desired{Uplink: "eth0", Mapped4: prefixes("10.0.0.0/16", "192.0.2.0/24", "198.51.100.7/32")}
	got, warnings := proxies(d, facts{})
	if len(got) != 257 || len(warnings) != 1 || !strings.Contains(warnings[0], "10.0.0.0/16") {
		t.Errorf("got %d proxies and warnings %q", len(got), warnings)
	}
	d.Mapped4 = nil
	for i := range 20 {
		d.Mapped4 = append(d.Mapped4, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 24))
	}
	got, warnings = proxies(d, facts{})
	if len(got) != maxProxies || len(warnings) != 4 {
		t.Errorf("got %d proxies and %d warnings, want %d and 4", len(got), len(warnings), maxProxies)
	}
	d.Mapped4 = prefixes("10.0.0.0/21", "10.1.0.0/20", "10.2.0.0/22") // the small ones come first
	if got, warnings = proxies(d, facts{}); len(got) != 3072 || len(warnings) != 1 || !strings.Contains(warnings[0], "10.1.0.0/20") {
		t.Errorf("got %d proxies and warnings %q", len(got), warnings)
	}
	d.Mapped4 = nil
	for i := range 40 {
		d.Mapped4 = append(d.Mapped4, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
	}
	if _, warnings = proxies(d, facts{}); len(warnings) != maxProxyWarnings+1 || warnings[maxProxyWarnings] != "and 32 more like that" {
		t.Errorf("got %d warnings: %q", len(warnings), warnings)
	}
}

func TestDesiredRefused(t *testing.T) {
	m, err := New(Config{Device: "natless0"})
	if err != nil {
		t.Fatal(err)
	}
	for want, d := range map[string]Desired{
		"mtu 1000":              {MTU: 1000},
		"192.0.2.1/24":          {Mapped4: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
		"0.0.0.0/0":             {Mapped4: prefixes("0.0.0.0/0")},
		"prefix 192.0.2.0/24":   {Prefix: netip.MustParsePrefix("192.0.2.0/24")},
		"own address 1.2.3.4/3": {IPv6: netip.MustParseAddr("1.2.3.4")},
	} {
		if err := m.Set(d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error that says %q", d, err, want)
		}
	}
}

// TestTextTellsDevice: tables are compared by their texts, so what a predecessor
// left with another device's name must have others.
func TestTextTellsDevice(t *testing.T) {
	d := example()
	d.AntiSpoofing, d.HostPool = true, HostPool{Addr: netip.MustParseAddr("192.0.2.10"), Ports: ports.MustParse("1024-2047")}
	one, two := nftDefs("natless0", d, facts{device: 3}), nftDefs("natless1", d, facts{device: 4})
	if len(one) != 2 {
		t.Fatalf("%d tables", len(one))
	}
	for i := range one {
		if one[i].object() == two[i].object() {
			t.Errorf("for another device the same:\n%v", one[i].object())
		}
	}
}
