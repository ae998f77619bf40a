//go:build linux

package daemon

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
)

// noInside says why no workload can have its IPv4 inside, where that is so.
func (d *Daemon) noInside() error {
	if d.reloader.running().Inside.Device == "" {
		return fmt.Errorf("it is not switched on: name a device for it (inside: {device: %s}), and restart natlessd", config.InsideDevice)
	}
	return d.host.InsidePossible()
}

// inside says how workloads with IPv4 inside fare, where there are some, or are to be.
func (d *Daemon) inside(c *config.Config) []api.Check {
	n := d.keeper.Insiders()
	byDefault := slices.ContainsFunc(c.Pools, func(p config.Pool) bool { return p.Inside })
	if n.All == 0 && !byDefault {
		return nil
	}
	engine := ""
	if n.All > 0 {
		engine = d.engine.look()
	}
	return []api.Check{insideCheck(n, d.noInside(), engine)}
}

// policyEngine is which program enforces NetworkPolicies here, as it was seen last.
type policyEngine struct {
	mu   sync.Mutex // guards what follows
	at   time.Time
	name string
}

// look gives its name; "" where there is none, or where that cannot be told.
func (p *policyEngine) look() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) > othersNATLasts {
		p.name, _ = route.ReadPolicyEngine()
		p.at = time.Now()
	}
	return p.name
}

func insideCheck(n registry.Insiders, unavailable error, engine string) api.Check {
	check := api.Check{Name: "inside", State: "ok", Detail: words.Count(n.All, "workload") + " with IPv4 inside"}
	var troubles []string
	if n.Stale > 0 {
		check.State = "warn"
		troubles = append(troubles, fmt.Sprintf("%d of %s have an address inside that is not theirs any more, since the uplink's has "+
			"changed: what they send is refused; create these containers again (natless workloads names them)", n.Stale,
			words.Count(n.All, "workload")))
	}
	if engine != "" && n.All > 0 {
		check.State = "warn"
		troubles = append(troubles, fmt.Sprintf("%s knows workloads by their IPv6 addresses: the IPv4 inside of %s does not meet its network policies; "+
			"let them have IPv4 by the prefix, or have policies of natless (policies)", engine, words.Count(n.All, "workload")))
	}
	if unavailable != nil {
		check.State = "fail"
		troubles = append(troubles, fmt.Sprintf("%s with IPv4 inside, and none can have it: %v", words.Count(n.All, "workload"), unavailable))
	}
	if troubles != nil {
		check.Detail = strings.Join(troubles, "; ")
	}
	return check
}
