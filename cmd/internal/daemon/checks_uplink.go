//go:build linux

package daemon

import (
	"fmt"
	"net"

	"github.com/natless/natless/cmd/internal/doctor"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

// uplinkChecks say what is wrong with the interface toward IPv4.
func uplinkChecks(c *config.Config) (checks []api.Check) {
	if c.Uplink == "" {
		return nil
	}
	fail := func(name, format string, args ...any) {
		checks = append(checks, api.Check{Name: name, State: "fail", Detail: fmt.Sprintf(format, args...)})
	}
	l, err := net.InterfaceByName(c.Uplink)
	switch {
	case err != nil:
		fail("uplink", "there is no interface %s: name the interface toward IPv4 in the key uplink and restart natlessd, or make it: "+
			"natlessd waits for it", c.Uplink)
		return checks
	case l.Flags&net.FlagUp == 0:
		fail("uplink", "%s is down: ip link set %s up", c.Uplink, c.Uplink)
	}
	if l.MTU < c.MTU.IPv4 {
		fail("mtu", "mtu.ipv4 is %d, but %s takes packets of %d bytes at most: mtu: {ipv4: %d}", c.MTU.IPv4, c.Uplink, l.MTU, l.MTU)
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
