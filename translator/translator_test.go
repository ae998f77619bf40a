package translator

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

func TestConfigDefaults(t *testing.T) {
	w := newTestWorker(t, func(c *Config, _ *string) { c.ErrorRate, c.ErrorBurst = 0, 0 })
	c := w.t.Config()
	if c.MTU4 != 1500 || c.MTU6 != 1500 || c.LowestMTU6 != 1280 || c.ErrorRate != 100 || c.ErrorBurst != 50 ||
		c.ErrorTotalRate != 10_000 || c.ErrorTotalBurst != 5000 {
		t.Errorf("%+v", c)
	}
}

func TestConfigRefused(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.IPv4 = netip.Addr{} }, "own IPv4 address"},
		{func(c *Config) { c.IPv4 = netip.MustParseAddr("::1") }, "own IPv4 address"},
		{func(c *Config) { c.IPv4 = netip.MustParseAddr("127.0.0.1") }, "never translated"},
		{func(c *Config) { c.IPv6 = netip.Addr{} }, "own IPv6 address"},
		{func(c *Config) { c.IPv6 = netip.MustParseAddr("::ffff:1.2.3.4") }, "own IPv6 address"},
		{func(c *Config) { c.IPv6 = netip.MustParseAddr("fe80::1") }, "never translated"},
		{func(c *Config) { c.MTU4 = 67 }, "IPv4 MTU 67"},
		{func(c *Config) { c.MTU4 = 65536 }, "IPv4 MTU 65536"},
		{func(c *Config) { c.MTU6 = 1279 }, "IPv6 MTU 1279"},
		{func(c *Config) { c.MTU6 = -1 }, "IPv6 MTU -1"},
		{func(c *Config) { c.LowestMTU6 = 1279 }, "lowest IPv6 MTU 1279"},
		{func(c *Config) { c.LowestMTU6 = 1501 }, "lowest IPv6 MTU 1501"},
		{func(c *Config) { c.UDPZeroChecksum = 4 }, "UDP zero checksum 4"},
		{func(c *Config) { c.ErrorRate = -1 }, "ICMP error rate -1"},
		{func(c *Config) { c.ErrorRate, c.ErrorTotalRate = 100, 99 }, "ICMP error rate 99"},
		{func(c *Config) { c.ICMPSource4 = netip.MustParsePrefix("2001:db8::/64") }, "ICMP source pool 2001:db8::/64"},
		{func(c *Config) { c.ICMPSource4 = netip.MustParsePrefix("192.0.2.1/24") }, "ICMP source pool 192.0.2.1/24"},
		{func(c *Config) { c.ICMPSource6 = netip.MustParsePrefix("192.0.2.0/24") }, "ICMP source pool 192.0.2.0/24"},
	} {
		config := testConfig()
		c.change(&config)
		table, err := mapping.New(netip.MustParsePrefix(testPrefix), nil)
		if err != nil {
			t.Fatal(err)
		}
		if tr, err := New(config, table); err == nil || !strings.Contains(err.Error(), c.want) || tr != nil {
			t.Errorf("error %v, want one about %q", err, c.want)
		}
	}
	if _, err := New(testConfig(), nil); err == nil {
		t.Error("a translator without a table")
	}
}

func TestReloadAndEdit(t *testing.T) {
	w := newTestWorker(t)
	m := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:9::9/128"), IPv4: netip.MustParsePrefix("192.0.2.99/32")}
	in := udp6("2001:db8:9::9", server6)
	wantVerdict(t, w, in, UntranslatableSource|Replied)
	if err := w.t.Edit(func(t *mapping.Table) (*mapping.Table, error) { return t.Insert(m) }); err != nil {
		t.Fatal(err)
	}
	wantVerdict(t, w, in, Forward4)
	no := errors.New("no")
	if err := w.t.Edit(func(*mapping.Table) (*mapping.Table, error) { return nil, no }); !errors.Is(err, no) {
		t.Error(err)
	}
	wantVerdict(t, w, in, Forward4)
	bad := w.t.Config()
	bad.MTU6 = 1
	if err := w.t.Reload(bad, w.t.Table()); err == nil || w.t.Config().MTU6 != 1500 {
		t.Error("a bad configuration was taken", err)
	}
	good := w.t.Config()
	good.MTU6 = 1400
	if err := w.t.Reload(good, w.t.Table()); err != nil || w.t.Config().MTU6 != 1400 {
		t.Error(err)
	}
}

// We answer only what may be answered (RFC 1122 3.2.2, RFC 4443 2.4 (e)).
func TestSection6_Answerable(t *testing.T) {
	d := data(20)
	ext := func(b ...[]byte) (all []byte) {
		for _, x := range b {
			all = append(all, x...)
		}
		return all
	}
	options := func(next uint8) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	for _, c := range []struct {
		name string
		in   []byte
		want bool
	}{
		{"4/udp", udp4(server4, work4), true},
		{"4/echo", hdr4{src: server4, dst: work4, proto: 1}.packet(icmp4(8, 0, 0, d)), true},
		{"4/icmp error", from4(3, 1, 0, quoted4(true, 9)), false},
		{"4/redirect", from4(5, 1, 0, quoted4(true, 9)), false},
		{"4/first fragment", hdr4{src: server4, dst: work4, proto: 17, flags: 0x2000}.packet(d), true},
		{"4/later fragment", hdr4{src: server4, dst: work4, proto: 17, flags: 0x2001}.packet(d), false},
		{"4/from unspecified", udp4("0.0.0.0", work4), false},
		{"4/from multicast", udp4("224.0.0.1", work4), false},
		{"4/from loopback", udp4("127.0.0.1", work4), false},
		{"4/to multicast", udp4(server4, "224.0.0.1"), false},
		{"4/to broadcast", udp4(server4, "255.255.255.255"), false},
		{"6/udp", udp6(work6, server6), true},
		{"6/echo", hdr6{src: work6, dst: server6, proto: 58}.packet(icmp6(work6, server6, 128, 0, 0, d)), true},
		{"6/icmp error", from6(1, 0, 0, quoted6(false, 9)), false},
		{"6/redirect", from6(137, 0, 0, d), false},
		{"6/icmp error behind options", hdr6{src: work6, dst: server6, next: 60, ext: options(58)}.packet(icmp6(work6, server6, 1, 0, 0, d)), false},
		{"6/icmp error behind a fragment header", hdr6{src: work6, dst: server6, next: 44,
			ext: ext(fragHdr(60, 0, true, 1), options(58))}.packet(icmp6(work6, server6, 1, 0, 0, d)), false},
		{"6/first fragment", hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, 0, true, 1)}.packet(d), true},
		{"6/later fragment", hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, 8, true, 1)}.packet(d), false},
		{"6/from unspecified", udp6("::", server6), false},
		{"6/from multicast", udp6("ff02::1", server6), false},
		{"6/to multicast", udp6(work6, "ff02::1"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := false
			if c.in[0]>>4 == 4 {
				got = answerable4(c.in)
			} else {
				got = answerable6(c.in)
			}
			if got != c.want {
				t.Error(got)
			}
		})
	}
}
