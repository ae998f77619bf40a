package generate

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// Own addresses of the translator in every world.
var (
	Own4 = netip.MustParseAddr("192.0.2.1")
	Own6 = netip.MustParseAddr("2001:db8::1")
)

// Plenty is the rate of ICMP errors where no budget ever forbids one.
const Plenty = 1_000_000

// World is a named configuration.
type World struct {
	Name string
	reference.World
}

func one(v6, v4 string, set ...ports.Range) mapping.Mapping {
	return mapping.Mapping{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4), Ports: ports.Of(set...)}
}

// mappings are those of every world: single addresses, subnets, longer
// prefixes inside of shorter ones in either family, suffixes of different
// length, and shared addresses.
func mappings() []mapping.Mapping {
	return []mapping.Mapping{
		one("2001:db8:6::2/128", "198.51.100.2/32"),
		one("2001:db8:6::3/128", "5.1.2.3/32"),
		one("2001:db8:7::/120", "203.0.113.0/24"),
		one("2001:db8:7::40/124", "198.51.100.64/28"),
		one("2001:db8:8::/64", "203.0.113.128/26"),
		one("2001:db8:9::/64", "5.1.3.0/24"),
		one("2001:db8:5::1/128", "198.51.100.7/32", ports.Range{First: 1024, Last: 2047}),
		one("2001:db8:5::2/128", "198.51.100.7/32", ports.Range{First: 80, Last: 80},
			ports.Range{First: 2048, Last: 3071}, ports.Range{First: 8080, Last: 8081}),
		one("2001:db8:5::3/128", "198.51.100.7/32", ports.Range{First: 4096, Last: 4099}),
		one("2001:db8:5:1::/64", "198.51.100.7/32", ports.Range{First: 5000, Last: 5999}),
		one("2001:db8:5::4/128", "5.1.2.4/32", ports.Range{First: 1024, Last: 65535}),
	}
}

func world(name, prefix string, c translator.Config, extra ...mapping.Mapping) World {
	c.IPv4, c.IPv6 = Own4, Own6
	c.Pools4 = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("5.1.2.0/29")}
	c.ErrorRate, c.ErrorBurst = Plenty, Plenty
	c.Key = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}
	w := reference.World{Config: c, Mappings: append(mappings(), extra...)}
	if prefix != "" {
		w.Prefix = netip.MustParsePrefix(prefix)
	}
	return World{name, w}
}

// AllWorlds are those of Worlds, and configurations that are special in more than
// numbers: workloads share the host's address, or the translator's own; speak IPv4
// (RFC 6877); the budgets for errors are small.
func AllWorlds() []World {
	shared := netip.MustParseAddr("198.51.100.7")
	host := world("host", "64:ff9b::/96", translator.Config{AllowNonGlobal: true, Host4: shared})
	own := world("own-shared", "2001:db8:100::/40", translator.Config{MTU4: 576})
	own.Config.IPv4 = shared
	client := world("client", "64:ff9b::/96", translator.Config{AllowNonGlobal: true, Client: true})
	budget := world("budget", "64:ff9b::/96", translator.Config{AllowNonGlobal: true})
	budget.Config.ErrorRate, budget.Config.ErrorBurst = 10, 5
	budget.Config.ErrorTotalRate, budget.Config.ErrorTotalBurst = 50, 20
	worlds := append(Worlds(), host, own, client, budget)
	return slices.Concat(worlds, InsideWorlds(), PolicyWorlds(), RuleWorlds())
}

// EdgeWorlds are those of hosts at the edge of a fabric without IPv4 (rules 1.10): with whole
// blocks, a small MTU there and large ones at the workloads', a block of some ports, the
// well-known prefix on either side, and pools that have the dummy addresses.
func EdgeWorlds() []World {
	blocks := []mapping.Mapping{
		one("2001:db8:e::2/128", "198.51.100.2/32"), one("2001:db8:e::7/128", "198.51.100.7/32"),
		one("2001:db8:e:1::/120", "203.0.113.0/24"), one("2001:db8:e::40/124", "198.51.100.64/28"), one("2001:db8:e:2::/64", "5.1.0.0/16"),
	}
	whole := world("edge", "64:ff9b::/96", translator.Config{AllowNonGlobal: true, MTU4: 1480})
	small := world("edge-small", "2001:db8:122::/48", translator.Config{MTU4: 1260, MTU6: 9000, LowestMTU6: 1400})
	ports := world("edge-ports", "64:ff9b::/96", translator.Config{AllowNonGlobal: true, MTU4: 1480, ZeroTrafficClass: true})
	global := world("edge-global", "2001:db8:122:344::/64", translator.Config{MTU4: 1380, UDPZeroChecksum: translator.ForwardZeroChecksum})
	global.Config.IPv4 = netip.MustParseAddr("192.0.0.8")
	worlds := []World{whole, small, ports, global}
	for i := range worlds {
		worlds[i].Config.Edge = translator.Edge{Prefix: netip.MustParsePrefix("2001:db8:f64::/96"), Blocks: blocks}
	}
	worlds[1].Config.Edge.Blocks = blocks[:4] // a workload's address is in none of them
	some := slices.Clone(blocks)
	some[1].Ports = portSet(80, 3071)
	worlds[2].Config.Edge.Blocks = append(some, mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:e::8/128"), IPv4: some[1].IPv4, Ports: portSet(4096, 5500)})
	worlds[3].Config.Edge.Prefix = netip.MustParsePrefix("64:ff9b::/96")
	return append(worlds, heldAtEdge(blocks), sharedAtEdge(blocks))
}

// heldAtEdge is a host at the edge whose workloads are held to policies.
func heldAtEdge(blocks []mapping.Mapping) World {
	w := world("edge-policy", "64:ff9b::/96", translator.Config{AllowNonGlobal: true, MTU4: 1480})
	w.Config.Edge = translator.Edge{Prefix: netip.MustParsePrefix("2001:db8:f64::/96"), Blocks: blocks}
	w.Hold(somePolicies())
	return w
}

// sharedAtEdge is one that was lent parts of addresses: many of one, down to a single port,
// and both halves of another, whose workload has ports of either.
func sharedAtEdge(blocks []mapping.Mapping) World {
	w := world("edge-shares", "2001:db8:122::/48", translator.Config{MTU4: 1480},
		one("2001:db8:5::5/128", "5.1.2.4/32", ports.Single(80)), one("2001:db8:5::6/128", "5.1.2.4/32", ports.Single(0)))
	w.Config.Edge.Prefix = netip.MustParsePrefix("2001:db8:f64::/96")
	w.Config.Edge.Blocks = []mapping.Mapping{blocks[0], blocks[2],
		one("2001:db8:e::7/128", "198.51.100.7/32", ports.Single(80)), one("2001:db8:e::8/128", "198.51.100.7/32", ports.Range{First: 1024, Last: 2047}),
		one("2001:db8:e:7::/64", "198.51.100.7/32", ports.Range{First: 2048, Last: 2048}), one("2001:db8:e::9/128", "198.51.100.7/32", ports.Range{First: 4096, Last: 8191}),
		one("2001:db8:e::a/128", "5.1.2.4/32", ports.Range{First: 0, Last: 32767}), one("2001:db8:e::b/128", "5.1.2.4/32", ports.Range{First: 32768, Last: 65535})}
	return w
}

func portSet(first, last uint16) ports.Set { return ports.Of(ports.Range{First: first, Last: last}) }

// InsideWorlds are those where some workloads have their IPv4 address inside, alone,
// with ports of their own, and beside such as have IPv6 alone.
func InsideWorlds() []World {
	inside := world("inside", "64:ff9b::/96", translator.Config{AllowNonGlobal: true})
	global := world("inside-global", "64:ff9b::/96", translator.Config{MTU4: 1400, MTU6: 1300})
	host := world("inside-host", "2001:db8:122::/48", translator.Config{Host4: netip.MustParseAddr("198.51.100.7")})
	own := world("inside-own", "2001:db8:100::/40", translator.Config{})
	own.Config.IPv4 = netip.MustParseAddr("198.51.100.7")
	worlds := []World{inside, global, host, own}
	for _, w := range worlds {
		w.takeInside()
	}
	return worlds
}

// takeInside gives workloads of one address their IPv4 inside, but for one.
func (w *World) takeInside() {
	for i := range w.Mappings {
		m := &w.Mappings[i]
		m.Inside = m.IPv6.Bits() == 128 && m.IPv6.Addr() != netip.MustParseAddr("2001:db8:5::3")
	}
}

// Inside says that some workload has its IPv4 address inside.
func (w *World) Inside() bool {
	return slices.ContainsFunc(w.Mappings, func(m mapping.Mapping) bool { return m.Inside })
}

// Worlds are the configurations that packets are translated under.
func Worlds() []World {
	pool4, pool6 := netip.MustParsePrefix("203.0.113.8/32"), netip.MustParsePrefix("2001:db8:f::/128")
	peers := one("2001:db8:100::/120", "192.0.2.0/24")
	return []World{
		world("well-known", "64:ff9b::/96", translator.Config{AllowNonGlobal: true}),
		world("global-only", "64:ff9b::/96", translator.Config{ICMPSource4: pool4, ICMPSource6: pool6}),
		world("32", "2001:db8::/32", translator.Config{UDPZeroChecksum: translator.CalculateZeroChecksum}),
		world("40", "2001:db8:100::/40", translator.Config{UDPZeroChecksum: translator.DropZeroChecksum, MTU4: 1400}),
		world("48", "2001:db8:122::/48", translator.Config{UDPZeroChecksum: translator.ForwardZeroChecksum, MTU6: 1400}),
		world("56", "2001:db8:122:300::/56", translator.Config{LowestMTU6: 1400, ICMPSource4: netip.MustParsePrefix("192.0.2.64/30")}),
		world("64", "2001:db8:122:344::/64", translator.Config{ZeroTrafficClass: true, MTU4: 9000, MTU6: 9000}),
		world("96", "2001:db8:122:344::/96", translator.Config{MTU4: 1280, MTU6: 1280}),
		world("no-prefix", "", translator.Config{ICMPSource4: pool4, ICMPSource6: pool6}, peers),
		world("no-prefix-no-pool", "", translator.Config{}, peers),
	}
}
