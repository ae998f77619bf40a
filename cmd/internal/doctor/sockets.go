package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/natless/natless/config/api"
)

// sockets looks at what a daemon listens on, when none does.
func (v *visit) sockets() {
	const check = "sockets"
	if v.Config == nil || v.status != nil {
		return
	}
	if at := v.Config.Metrics.Listen; at.IsValid() && !v.daemonRuns() {
		switch err := v.Host.Listen(at); {
		case errors.Is(err, syscall.EADDRINUSE):
			v.fail(check, fmt.Sprintf("ss -ltnp 'sport = %d' says who has it; choose another", at.Port()),
				"metrics.listen: somebody else listens on %v", at)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			v.fail(check, "choose one that ip address shows, or [::1] or 127.0.0.1", "metrics.listen: %v is no address of this host", at.Addr())
		case err != nil:
			v.fail(check, "choose another address and port", "metrics.listen: %v", err)
		}
	}
	if v.before && v.daemonRuns() {
		v.runsAlready(check)
	}
	dir := filepath.Dir(v.Config.API.Socket)
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		v.fail(check, "name another path in api.socket", "api.socket: %s is no directory", dir)
	}
}

// runsAlready asks who listens on the API's socket.
func (v *visit) runsAlready(check string) {
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	switch err := v.Client.Health(ctx); {
	case err == nil, errors.Is(err, api.ErrStarting), errors.Is(err, api.ErrForbidden), errors.Is(err, os.ErrPermission):
		v.ok(check, "a natlessd runs here, and answers at %s", v.Config.API.Socket)
	default:
		v.silent(check, err)
	}
}

// daemonRuns says whether somebody listens on the API's socket.
func (v *visit) daemonRuns() bool {
	c, err := net.DialTimeout("unix", v.Config.API.Socket, time.Second)
	if err != nil {
		return errors.Is(err, os.ErrPermission)
	}
	c.Close()
	return true
}

// uplinkAddress: the host's own address can be shared only where there is one.
func (v *visit) uplinkAddress() {
	if v.Config == nil || v.status != nil {
		return // it could not have started
	}
	for i, p := range v.Config.Pools {
		if !p.IPv4.Uplink || v.link(v.Config.Uplink) == nil {
			continue
		}
		if _, err := v.Host.UplinkAddr(v.uplinkInUse()); err != nil {
			v.fail("uplink", "give the interface an IPv4 address, or the pool a prefix of its own", "pools[%d]: %v", i, err)
		}
	}
}

// upstreamsAlone asks DNS64's upstreams for want of the resolver.
func (v *visit) upstreamsAlone() {
	if v.Config.DNS64.Enabled {
		v.upstreams("dns64")
	}
}
