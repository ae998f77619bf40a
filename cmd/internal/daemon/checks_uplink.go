//go:build linux

package daemon

import (
	"fmt"
	"net"

	"github.com/natless/natless/cmd/internal/doctor"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/route"
)

// uplinkChecks say what is wrong with the interfaces toward IPv4, and those of the fabric.
func uplinkChecks(c *config.Config) (checks []api.Check) {
	all := c.AllUplinks()
	for _, name := range all {
		checks = append(checks, uplinkCheck(c, name)...)
	}
	for _, name := range c.Fabric {
		if _, err := net.InterfaceByName(name); err != nil {
			checks = append(checks, api.Check{Name: "fabric", State: "fail",
				Detail: fmt.Sprintf("there is no interface %s, which the key fabric names: natlessd waits for it", name)})
		}
	}
	if len(all) > 1 {
		checks = append(checks, reversePath(all)...)
	}
	return checks
}

// reversePath warns of uplinks that take no packet whose way back is another's.
func reversePath(uplinks []string) (checks []api.Check) {
	for _, name := range uplinks {
		if route.StrictSource(name) {
			checks = append(checks, api.Check{Name: "rp_filter", State: "warn", Detail: fmt.Sprintf("%s drops IPv4 whose way back is by another of "+
				"the uplinks, as with several it may well be (rp_filter=1): sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.%s.rp_filter=2", name, name)})
		}
	}
	return checks
}

func uplinkCheck(c *config.Config, uplink string) (checks []api.Check) {
	fail := func(name, format string, args ...any) {
		checks = append(checks, api.Check{Name: name, State: "fail", Detail: fmt.Sprintf(format, args...)})
	}
	l, err := net.InterfaceByName(uplink)
	switch {
	case err != nil:
		fail("uplink", "there is no interface %s: name the interface toward IPv4 in the key uplink and restart natlessd, or make it: "+
			"natlessd waits for it", uplink)
		return checks
	case l.Flags&net.FlagUp == 0:
		fail("uplink", "%s is down: ip link set %s up", uplink, uplink)
	}
	if key, mtu := c.UplinkMTU(); l.MTU < mtu {
		fail("mtu", "%s is %d, but %s takes packets of %d bytes at most: %s", key, mtu, uplink, l.MTU, config.InYAML(key, l.MTU))
	}
	return checks
}

// wayBack says that nothing comes back of what goes out.
func wayBack(c *config.Config, verdicts map[string]uint64) api.Check {
	if detail, remedy := doctor.OneWay(verdicts, c.Uplink); detail != "" {
		return api.Check{Name: "way back", State: "warn", Detail: detail + ": " + remedy + "; natless doctor probes it"}
	}
	return api.Check{Name: "way back", State: "ok"}
}
