//go:build linux

package crash

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

const relayOf = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
relay: {ipv4: [203.0.113.0/24]}
`

// changing is a relay that is told changes of its rules.
type changing struct {
	*netns.NS
	t      *testing.T
	daemon *daemon.Daemon
	lease  uint64
	is     api.Relay
}

// TestFailpointsOfRelay kills natlessd at every step of following a change of a relay's rules:
// the next start has those before or those after, on disk and in the table, those after once
// they were written; and then the same change can be told again.
func TestFailpointsOfRelay(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	c := &changing{NS: netns.New(t, "crash"), t: t}
	server := netns.New(t, "server")
	netns.Veth(t, c.NS, "uplink", server, "eth0")
	c.IP("addr add 192.0.2.1/24 dev uplink")
	c.IP("route add default via 192.0.2.2")
	c.daemon = daemon.New(t, c.NS, relayOf)
	binary := killing(t)
	c.daemon.Start()
	set := api.RuleSet{Epoch: 1}
	for n := range 10 {
		set.Rules = append(set.Rules, c.rule(n))
	}
	if _, err := c.daemon.Client().PutRules(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	c.look("at first", set.Rules...)
	c.daemon.Stop()
	for _, point := range []string{"registry: relay", "registry: relay change", "registry: relay changed", "guard", "translator", "fast path", "end"} {
		exited := c.begins(binary, point)
		if strings.HasPrefix(point, "registry: relay change") { // the first since the start is written with all
			c.tell("in front of "+point, c.next())
		}
		before, delta := c.is, c.next()
		written := point != "registry: relay" && point != "registry: relay change"
		if _, err := c.daemon.Client().PatchRules(t.Context(), delta); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("%s: it was told: %v", point, err)
		}
		select {
		case <-exited:
		case <-time.After(time.Minute):
			t.Fatalf("it does not come by %s", point)
		}
		c.daemon.Start()
		c.look("killed at " + point)
		if want := map[bool]string{true: delta.Digest, false: before.Digest}[written]; c.is.Digest != want {
			t.Errorf("%s: the rules are %s at %d; before it were %s, and told %s", point, c.is.Digest, c.is.Epoch, before.Digest, delta.Digest)
		}
		c.tell("told again, after "+point, delta)
		c.daemon.Stop()
	}
}

func (c *changing) rule(n int) api.Rule {
	c.lease++
	return api.Rule{IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), 32),
		IPv6: netip.MustParsePrefix(fmt.Sprintf("2001:db8:1::%x:%x/128", c.lease, n)), Lease: c.lease}
}

// next is a change of what there is: one that goes, and one that leads to somebody else.
func (c *changing) next() api.RuleDelta {
	rules := c.is.Rules
	d := api.RuleDelta{Base: c.is.Digest, Epoch: c.is.Epoch + 1, Gone: []api.Loan{{IPv4: rules[0].IPv4, Lease: rules[0].Lease}},
		Rules: []api.Rule{c.rule(int(rules[1].IPv4.Addr().As4()[3])), c.rule(100 + int(c.lease))}}
	var sum api.RuleSum
	for _, r := range append(d.Rules, rules[2:]...) {
		sum.Add(r)
	}
	d.Digest = sum.String()
	return d
}

func (c *changing) tell(when string, d api.RuleDelta) {
	c.t.Helper()
	if _, err := c.daemon.Client().PatchRules(c.t.Context(), d); err != nil {
		c.t.Fatalf("%s: %v", when, err)
	}
	if c.look(when); c.is.Digest != d.Digest {
		c.t.Errorf("%s: it is %s, and was told %s", when, c.is.Digest, d.Digest)
	}
}

// look notes what there is, on disk and in the table.
func (c *changing) look(when string, want ...api.Rule) {
	c.t.Helper()
	is, err := c.daemon.Client().Relay(c.t.Context())
	if err != nil || want != nil && len(is.Rules) != len(want) {
		c.t.Fatalf("%s: %+v, %v", when, is, err)
	}
	status, err := c.daemon.Client().Status(c.t.Context())
	if err != nil || status.Mappings != is.Count {
		c.t.Errorf("%s: %d mappings of %d rules: %v", when, status.Mappings, is.Count, err)
	}
	for _, r := range is.Rules {
		packet := fmt.Sprintf("ipv4 src 192.0.2.77 dst %s udp sport 1000 dport 2000", r.IPv4.Addr())
		e, err := c.daemon.Client().Explain(c.t.Context(), packet)
		if err != nil || !strings.Contains(e.Text, r.IPv6.Addr().String()) {
			c.t.Errorf("%s: %s does not lead to %s: %+v, %v", when, r.IPv4, r.IPv6, e, err)
		}
	}
	c.is = is
}

// begins runs a natlessd that kills itself at a point, until it is ready.
func (c *changing) begins(binary, point string) (exited chan struct{}) {
	c.t.Helper()
	cmd := c.Command(binary, "--config", c.daemon.Config, "--handover")
	cmd.Env = append(os.Environ(), failpoint+"="+point)
	if err := netns.Start(cmd); err != nil {
		c.t.Fatal(err)
	}
	exited = make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	load.Within(c.t, time.Minute, "a natlessd that is ready", func() bool {
		s, err := c.daemon.Client().Status(c.t.Context())
		return err == nil && s.Ready
	})
	return exited
}
