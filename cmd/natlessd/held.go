//go:build linux

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/route"
)

// heldAddresses reads what others hold on the host's links, and refuses a
// configuration that cannot work there. While the daemon runs the links may
// change: then it only warns, see (*server).held.
func heldAddresses(c *config.Config) (route.Taken, error) {
	taken, err := route.ReadTaken(c.Device.Name)
	if err == nil {
		err = c.Unusable(taken)
	}
	return taken, err
}

// refuseHeld refuses a configuration that cannot work on the links as they are.
func (s *server) refuseHeld(c *config.Config) error {
	taken, err := heldAddresses(c)
	if err == nil {
		s.bar(taken)
	}
	return err
}

// bar has nobody be given what others hold.
func (s *server) bar(taken route.Taken) {
	s.taken.Store(&taken)
	s.workloads.Bar(taken)
}

// pools4 is the addresses that only workloads have, with those that they keep
// outside of the pools: not those that others hold, who
// send from them and are sent to, gateways and the host itself first of all.
func (s *server) pools4(c *config.Config, kept []netip.Prefix) []netip.Prefix {
	return s.taken.Load().Without(slices.Concat(c.Translator(s.key).Pools4, kept))
}

// follow does what the links' present addresses ask for.
func (r *reloader) follow(taken route.Taken) {
	r.one.Lock()
	defer r.one.Unlock()
	r.bar(taken)
	c := r.running()
	if slices.Equal(r.pools4(c, *r.workloads.kept.Load()), r.translator.Config().Pools4) {
		return
	}
	r.log.Warn("the addresses on the host's links that pools cover have changed", "now", taken.Words(c.Covered(taken)))
	if err := r.replace(c); err != nil {
		r.log.Error("follow the addresses on the host's links", "error", err)
	}
}

// held says whether workloads, mappings or the translator have what somebody else
// on the host's links holds by now.
func (s *server) held(c *config.Config) api.Check {
	check := api.Check{Name: "addresses", State: "ok"}
	taken := *s.taken.Load()
	if err := c.Unusable(taken); err != nil {
		check.State, check.Detail = "fail", strings.ReplaceAll(err.Error(), "\n", "; ")
		return check
	}
	if on := s.workloads.OnBarred(); len(on) > 0 {
		addrs, n := slices.SortedFunc(maps.Keys(on), netip.Addr.Compare), 0
		for _, count := range on {
			n += count
		}
		check.State = "warn"
		check.Detail = fmt.Sprintf("%d workloads have addresses that others hold, and get no answers there: %s; create them again, "+
			"to get other addresses", n, taken.Words(addrs))
		return check
	}
	if covered := c.Covered(taken); len(covered) > 0 {
		check.Detail = fmt.Sprintf("%d that pools or mappings cover are given to nobody: %s", len(covered), taken.Words(covered))
	}
	return check
}
