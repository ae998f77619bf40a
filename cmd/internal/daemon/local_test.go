//go:build linux

package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/natless/natless/netstack/local/dns64"
)

type noPrefix struct{}

func (noPrefix) Network() netip.Prefix                          { return netip.Prefix{} }
func (noPrefix) Embed(netip.Addr) (a netip.Addr, ok bool)       { return }
func (noPrefix) Extract(netip.Addr) (a netip.Addr, ok bool)     { return }
func (noPrefix) Translatable(netip.Addr) bool                   { return false }
func nobody(netip.Addr) (a netip.Addr, ok bool)                 { return }
func refused(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }

// TestUpstreamsCheck: what status says about the servers that DNS64 asks.
func TestUpstreamsCheck(t *testing.T) {
	ask := func(d *dns64.Server) {
		for _, name := range []string{"a.test.", "b.test.", "c.test."} {
			q, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			d.Answer(q, netip.MustParseAddr("2001:db8::2"), true)
		}
	}
	upstream := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
	for name, c := range map[string]struct {
		config        dns64.Config
		options       dns64.Options
		state, detail string
	}{
		"nothing to ask":   {dns64.Config{}, dns64.Options{ResolvConf: filepath.Join(t.TempDir(), "none")}, "fail", "no server to ask"},
		"nobody answers":   {dns64.Config{Upstreams: upstream}, dns64.Options{Dial: refused}, "fail", "192.0.2.53:53 does not answer"},
		"somebody may not": {dns64.Config{Upstreams: upstream}, dns64.Options{Workload: nobody}, "ok", "3 queries refused, the last from 2001:db8::2"},
	} {
		d := dns64.New(c.config, noPrefix{}, c.options)
		ask(d)
		if got := upstreams(d); got.Name != "dns64" || got.State != c.state || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %+v", name, got)
		}
		d.Close()
	}
	d := dns64.New(dns64.Config{Upstreams: upstream}, noPrefix{}, dns64.Options{})
	defer d.Close()
	if got := upstreams(d); got.State != "ok" || got.Detail != "" {
		t.Errorf("before anybody asks: %+v", got)
	}
}
