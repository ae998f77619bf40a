//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
)

const relayConfig = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
health: {port: 8080}
relay: {ipv4: [198.51.100.2/31, 198.51.100.4/30, 203.0.113.128/32, 10.64.0.0/18], stale_after: 30s}
`

func ruleOf(block, host string, lease uint64) api.Rule {
	return api.Rule{IPv4: netip.MustParsePrefix(block + "/32"), IPv6: netip.MustParsePrefix(host + "/128"), Lease: lease}
}

// manyRules are rules that lead to nobody's host, by loans from one on.
func manyRules(lease uint64) (rules []api.Rule) {
	for i := range 16_382 {
		rules = append(rules, api.Rule{Lease: lease, IPv4: netip.PrefixFrom(mapping.Addr4(10<<24|64<<16|uint32(i)), 32),
			IPv6: netip.PrefixFrom(mapping.Addr6{Hi: 0x20010db8_00aa0000 + lease, Lo: uint64(i)}.Addr(), 128)})
	}
	return rules
}

// TestRelay: a relay translates by the rules that it is told, of which there may be a great
// many, through kills and with nobody who says anything; what is fenced is nobody's any
// more when that is answered, and an old view brings nothing back.
func TestRelay(t *testing.T) {
	netns.Require(t, netns.Root, "curl")
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, relayConfig)
	client, ctx := n.daemon.Client(), t.Context()
	put := func(epoch uint64, rules ...api.Rule) (api.Relay, error) {
		return client.PutRules(ctx, api.RuleSet{Epoch: epoch, Rules: rules})
	}
	n.stands(api.RelayUnconfirmed)
	one, two := ruleOf(workload1v4, workload1, 1), ruleOf(workload2v4, workload2, 2)
	if got, err := put(1, one, two); err != nil || got.State != api.RelayServes || got.Epoch != 1 || got.Count != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	port, inner := serveHTTP(t, n.server), serveHTTP(t, n.w2)
	served := func(when string) {
		t.Helper()
		if peer := curl(t, n.w1, serverv6, port, 1000); peer != workload1v4 {
			t.Errorf("%s: the server saw %s", when, peer)
		}
		curl(t, n.server, workload2v4, inner, 1000)
	}
	served("at first")
	if !strings.Contains(n.natless("relay", "--rules"), workload1) {
		t.Errorf("natless relay:\n%s", n.natless("relay", "--rules"))
	}
	for _, c := range []struct {
		name   string
		set    api.RuleSet
		want   error
		detail string
	}{
		{"of an older view", api.RuleSet{Epoch: 0}, api.ErrStale, "0 is older than 1"},
		{"outside of the relay's addresses", api.RuleSet{Epoch: 2, Rules: []api.Rule{one, two, ruleOf("192.0.2.9", "2001:db8:9::1", 3)}}, api.ErrInvalid, "outside of relay.ipv4"},
		{"inside the prefix", api.RuleSet{Epoch: 2, Rules: []api.Rule{one, two, ruleOf("198.51.100.4", "2001:db8:64::1", 3)}}, api.ErrInvalid, "overlaps the prefix"},
	} {
		if _, err := client.PutRules(ctx, c.set); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.detail) {
			t.Errorf("a set %s: %v", c.name, err)
		}
	}
	n.manySwapped(put, one, two)
	if _, err := put(9, one, two); !errors.Is(err, api.ErrShrinks) {
		t.Errorf("nearly all is missing: %v", err)
	}
	served("after a set that was refused")
	all := append(manyRules(3), two)
	fenced := api.RuleSet{Epoch: 9, Rules: all, Fenced: []netip.Prefix{one.IPv4}}
	if _, err := client.PutRules(ctx, fenced); err != nil {
		t.Fatal(err)
	}
	out, err := n.w1.Command("curl", "-sS", "--max-time", "5", "http://["+serverv6+"]:"+port+"/10").CombinedOutput()
	if err == nil {
		t.Errorf("who was fenced is translated: %s", out)
	}
	if _, err := put(10, append(all, one)...); !errors.Is(err, api.ErrStale) {
		t.Errorf("a loan that ended begins again: %v", err)
	}
	again := ruleOf(workload1v4, workload1, 100)
	if _, err := put(10, append(all, again)...); err != nil {
		t.Fatal(err)
	}
	served("lent again")
	n.changed(&again, port, func() { served("by changes") })
	client = n.daemon.Client()
	is, err := client.Relay(ctx)
	if err != nil {
		t.Fatal(err)
	}
	served("after a kill, with nobody who says anything")
	n.stands(api.RelayServes)
	n.stale(t, func() error { _, err := put(is.Epoch, is.Rules...); return err })
	served("at last")
}

// stands says how the relay stands, to all who ask.
func (n *topology) stands(state string) {
	n.t.Helper()
	r, err := n.daemon.Client().Relay(n.t.Context())
	if err != nil || r.State != state {
		n.t.Errorf("it is %+v, want %s (%v)", r, state, err)
	}
	code := n.w1.Run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "http://[2001:db8::1]:8080/readyz")
	if (code == "200") != (state == api.RelayServes) {
		n.t.Errorf("%s: /readyz says %s", state, code)
	}
	if got := n.natless("status"); (state != api.RelayServes) != strings.Contains(got, state+":") {
		n.t.Errorf("%s: natless status says\n%s", state, got)
	}
}

// manySwapped exchanges 16,384 rules under traffic, of which nothing is lost.
func (n *topology) manySwapped(put func(uint64, ...api.Rule) (api.Relay, error), keep ...api.Rule) {
	n.t.Helper()
	flows := []*load.Datagrams{load.SendDatagrams(n.t, n.w1, n.server, serverv6), load.SendDatagrams(n.t, n.server, n.w2, workload2v4)}
	for epoch := range uint64(3) {
		began := time.Now()
		if got, err := put(epoch+2, append(manyRules(epoch+1), keep...)...); err != nil || got.Count != 16_384 {
			n.t.Fatalf("%+v, %v", got, err)
		}
		n.t.Logf("16,384 rules in force after %v", time.Since(began))
	}
	for i, f := range flows {
		if sent, lost := f.Finish(); lost > 0 || sent == 0 {
			n.t.Errorf("flow %d: %d of %d datagrams lost", i, lost, sent)
		}
	}
}

// changes tells a relay what is another in its rules.
type changes struct {
	*topology
	is  api.Relay
	sum api.RuleSum
}

func (n *topology) changes() *changes {
	is, err := n.daemon.Client().Relay(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	c := &changes{n, is, 0}
	for _, r := range is.Rules {
		c.sum.Add(r)
	}
	if c.sum.String() != is.Digest {
		n.t.Fatalf("the digest of its rules is %s, and it says %s", c.sum, is.Digest)
	}
	return c
}

// tell has a rule be another, or go.
func (c *changes) tell(before api.Rule, come ...api.Rule) {
	c.t.Helper()
	d := api.RuleDelta{Base: c.sum.String(), Epoch: c.is.Epoch + 1, Rules: come}
	if before.Lease > 0 {
		c.sum.Remove(before)
	}
	if len(come) == 0 {
		d.Gone = []api.Loan{{IPv4: before.IPv4, Lease: before.Lease}}
	}
	for _, r := range come {
		c.sum.Add(r)
	}
	d.Digest = c.sum.String()
	var err error
	if c.is, err = c.daemon.Client().PatchRules(c.t.Context(), d); err != nil || c.is.Digest != d.Digest || c.is.Epoch != d.Epoch {
		c.t.Fatalf("%+v, %v", c.is, err)
	}
}

// changed tells changes of 16,384 rules under traffic, of which nothing is lost: each is in force
// when it is answered, also when the process is killed the moment after.
func (n *topology) changed(one *api.Rule, port string, served func()) {
	t := n.t
	c := n.changes()
	flows := []*load.Datagrams{load.SendDatagrams(t, n.w1, n.server, serverv6), load.SendDatagrams(t, n.server, n.w2, workload2v4)}
	other := c.is.Rules[0]
	began := time.Now()
	const times = 50
	for i := range times {
		next := other
		next.Lease++
		next.IPv6 = netip.PrefixFrom(mapping.Addr6{Hi: 0x20010db8_00bb0000, Lo: uint64(i)}.Addr(), 128)
		c.tell(other, next)
		other = next
	}
	t.Logf("a change of 16,384 rules in force after %v", time.Since(began)/times)
	for i, f := range flows {
		if sent, lost := f.Finish(); lost > 0 || sent == 0 {
			t.Errorf("flow %d: %d of %d datagrams lost", i, lost, sent)
		}
	}
	c.tell(*one)
	if out, err := n.w1.Command("curl", "-sS", "--max-time", "5", "http://["+serverv6+"]:"+port+"/10").CombinedOutput(); err == nil {
		t.Errorf("who was fenced by a change is translated: %s", out)
	}
	one.Lease++
	c.tell(api.Rule{}, *one)
	served()
	status, err := n.daemon.Client().Status(t.Context())
	n.daemon.Kill()
	n.daemon.Start()
	if got, err2 := n.daemon.Client().Relay(t.Context()); err != nil || err2 != nil || got.Digest != c.is.Digest || got.Epoch != c.is.Epoch || status.Mappings != got.Count {
		t.Errorf("killed after a change: %s at %d with %d mappings before, want %s at %d: %v, %v", got.Digest, got.Epoch, status.Mappings, c.is.Digest, c.is.Epoch, err, err2)
	}
	if _, err := n.daemon.Client().PatchRules(t.Context(), api.RuleDelta{Base: "of another", Epoch: c.is.Epoch + 1}); !errors.Is(err, api.ErrStale) {
		t.Errorf("a change of other rules: %v", err)
	}
}

// stale: a relay of which nobody has heard for long, or since it was booted, says so.
func (n *topology) stale(t *testing.T, put func() error) {
	t.Helper()
	path := filepath.Join(n.daemon.Dir, "registry.db")
	n.daemon.Stop()
	told, err := os.ReadFile(path + ".relay.told")
	if err != nil {
		t.Fatal(err)
	}
	boot, _, _ := strings.Cut(string(told), " ")
	if err := os.WriteFile(path+".relay.told", fmt.Appendln(nil, boot, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	n.daemon.Start()
	n.stands(api.RelayDrains)
	curl(t, n.w1, serverv6, serveHTTP(t, n.server), 1000) // it translates all the same
	if err := put(); err != nil {
		t.Error(err)
	}
	n.stands(api.RelayServes)
	n.daemon.Stop()
	n.change(t, func(r *registry.Registry) error {
		s := r.Relay()
		s.Boot = "another"
		return r.SetRelay(s)
	})
	n.daemon.Start()
	n.stands(api.RelayUnconfirmed)
	if status, err := n.daemon.Client().Status(t.Context()); err != nil || status.Mappings != 0 {
		t.Errorf("rules that nobody has confirmed are used: %+v, %v", status.Mappings, err)
	}
	if err := put(); err != nil {
		t.Error(err)
	}
	n.stands(api.RelayServes)
}
