package local

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// TestIssued: a workload asks by the prefix, so that the stack hears of it by
// IPv4. What it answers is IPv6 when it leaves, whole or in fragments: nothing of
// ours comes back from the device.
func TestIssued(t *testing.T) {
	prefix := netip.MustParsePrefix("64:ff9b::/96")
	table, err := mapping.New(prefix, []mapping.Mapping{{
		IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")}})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: own[0], IPv6: own[1], AllowNonGlobal: true}, table)
	if err != nil {
		t.Fatal(err)
	}
	p := run(t, Config{Translator: tr})
	ours := netip.MustParseAddr("64:ff9b::192.0.2.1")
	for _, size := range []int{0, 56, 1200, 1400} { // the last one is answered in fragments
		if err := p.ping(ours, bytes.Repeat([]byte{7}, size)); err != nil {
			t.Errorf("%d octets: %v", size, err)
		}
	}
	if c, err := p.dial(ours, 22); err == nil {
		c.Close()
		t.Error("something listens")
	}
	if n := p.foreign.Load(); n != 0 {
		t.Errorf("%d packets left by IPv4 for a workload", n)
	}
}
