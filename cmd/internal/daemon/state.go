//go:build linux

package daemon

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/netstack/tun"
)

// host is what a state depends on besides configuration and assignments.
type host struct {
	key    [16]byte // of the translator
	uplink string   // the configuration's, or the bridge that it is a port of
	others []string // uplinks, likewise
	taken  route.Taken
	own    func(netip.Addr) bool // whether the host has an address
	held   *policies             // what workloads are held to
	boot   string                // which boot of it this is
	relay  *relay                // the fleet's rules; nil: none
	metric int                   // of what a relay serves; 0: it does not
	inside string                // the device of workloads with IPv4 inside; "": none can have it
}

// stateOf is what a host should do by a configuration and its pools, where workloads
// have what is outside of these.
func stateOf(c *config.Config, pools []registry.Pool, outside []registry.Share, h host) (*engine.State, error) {
	table, err := c.Table()
	if err == nil {
		table, err = h.relay.with(c, table)
	}
	if err != nil {
		return nil, err
	}
	r := reachOf(pools, outside, h.own)
	s := &engine.State{Explicit: table, Translator: c.Translator(h.key), Routes: desired(c, r), Outside: map[netip.Addr]bool{}}
	s.Translator.Host4 = r.host.Addr
	s.Translator.Edge.Blocks = c.EdgeBlocks(s.Routes.Mapped4)
	for _, b := range s.Translator.Edge.Blocks {
		s.Routes.Blocks6 = append(s.Routes.Blocks6, b.IPv6)
	}
	if s.Translator.Policy, err = h.held.of(c); err != nil {
		return nil, err
	}
	// Who holds an address on the host's links sends from it and is sent to, gateways
	// and the host itself first of all.
	s.Translator.Pools4 = h.taken.Without(slices.Concat(s.Translator.Pools4, heldPrefixes(pools), r.kept))
	s.Routes.Uplink, s.Routes.Uplinks, s.Routes.Fabric = h.uplink, h.others, c.Fabric
	s.Routes.Served = served(c, h.metric)
	s.Inside.Device = h.inside
	for _, o := range outside {
		s.Outside[o.Address] = true
	}
	return s, nil
}

// desired is what the kernel should do by a configuration.
func desired(c *config.Config, r reach) route.Desired {
	d := route.Desired{
		MTU: c.Device.MTU, Uplink: c.Uplink, Prefix: c.Prefix,
		IPv4: c.Addresses.IPv4, IPv6: c.Addresses.IPv6,
		ICMPSource4: c.ICMPSourcePool.IPv4, ICMPSource6: c.ICMPSourcePool.IPv6,
		Mapped4:  slices.Concat(c.Mapped4(), heldPrefixes(r.pools), r.kept),
		HostPool: r.host, AntiSpoofing: true,
	}
	for _, p := range r.pools {
		if !p.Uplink && !p.Fleet {
			d.Mapped4 = append(d.Mapped4, p.IPv4)
		}
	}
	return d
}

// workloadOf puts an assignment into the engine's terms.
func workloadOf(a *registry.Assignment) *engine.Workload {
	if a == nil {
		return nil
	}
	return &engine.Workload{Mapping: a.Mapping(), Addrs: a.Request.IPv6, Interface: a.Request.HostInterface,
		Owner: engine.Owner{Serial: a.Serial, Succeeds: a.Succeeds}, Subject: subjectOf(a)}
}

func changeOf(c registry.Change) engine.Change {
	return engine.Change{Old: workloadOf(c.Old), New: workloadOf(c.New)}
}

// queues is how many queues the device has.
func queues(c *config.Config) int {
	if c.Device.Queues == config.AutoQueues {
		return tun.AutoQueues()
	}
	return int(c.Device.Queues)
}

var fastPathModes = map[config.FastPath]engine.Mode{
	config.FastPathAuto: engine.FastPathAuto, config.FastPathOff: engine.FastPathOff, config.FastPathRequired: engine.FastPathRequired,
}
