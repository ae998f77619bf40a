// Package config turns one YAML file into one validated value that nobody
// changes afterwards: strict, with the file, line and key in every error.
// Who may have what belongs here and below; devices, sockets of the
// dataplane and packets may not enter.
package config

import (
	"net/netip"
	"slices"
	"time"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
	"github.com/natless/natless/translator/special"
)

// Config is the whole configuration. It is immutable once Load or Parse has
// returned it. A field's restart tag says that a running daemon cannot change
// it. The reference file explains every key.
type Config struct {
	Device          Device         `yaml:"device" restart:"yes"`
	Inside          Inside         `yaml:"inside" restart:"yes"`
	UDPGRO          []string       `yaml:"udp_gro" restart:"yes"` // patterns of interface names
	Uplink          string         `yaml:"uplink" restart:"yes"`  // "" is none
	Uplinks         []string       `yaml:"uplinks" restart:"yes"` // more of them, where nobody is answered
	Fabric          []string       `yaml:"fabric" restart:"yes"`  // interfaces that are one toward IPv6
	XDP             []string       `yaml:"xdp" restart:"yes"`     // of both, where XDP translates
	Prefix          netip.Prefix   `yaml:"prefix"`                // the zero value is none
	Addresses       Addresses      `yaml:"addresses" restart:"yes"`
	ICMPSourcePool  ICMPSourcePool `yaml:"icmp_source_pool"`
	ICMPErrors      ICMPErrors     `yaml:"icmp_errors"`
	MTU             MTU            `yaml:"mtu"`
	LowestIPv6MTU   int            `yaml:"lowest_ipv6_mtu"`
	UDPZeroChecksum ZeroChecksum   `yaml:"udp_zero_checksum"`
	TrafficClass    TrafficClass   `yaml:"traffic_class"`
	AllowNonGlobal  bool           `yaml:"allow_non_global"`
	ManageSysctls   bool           `yaml:"manage_sysctls" restart:"yes"`
	SysctlDir       string         `yaml:"sysctl_dir" restart:"yes"` // where they are written
	FastPath        FastPath       `yaml:"fast_path" was:"offload" restart:"yes"`
	Log             Log            `yaml:"log"`
	Mappings        []Mapping      `yaml:"mappings"`
	MappingsFile    Paths          `yaml:"mappings_file"` // absolute, or from the working directory on
	MappedBlocks    []netip.Prefix `yaml:"mapped_blocks"` // IPv4 that is brought here whole, mapped or not
	API             API            `yaml:"api" restart:"yes"`
	Registry        Registry       `yaml:"registry"`
	Pools           []Pool         `yaml:"pools"`
	DNS64           DNS64          `yaml:"dns64" restart:"yes"`
	Health          Health         `yaml:"health" restart:"yes"`
	Metrics         Metrics        `yaml:"metrics" restart:"yes"`
	Flows           Flows          `yaml:"flows" restart:"yes"`
	Relay           Relay          `yaml:"relay"`
	MAP             MAP            `yaml:"map"`
	Edge            Edge           `yaml:"edge"`
	Policies        []Policy       `yaml:"policies"`
	PoliciesFile    Paths          `yaml:"policies_file"` // absolute, or from the working directory on
	NamedPorts      NamedPorts     `yaml:"named_ports"`
	Shedding        Shedding       `yaml:"shedding"`

	explicit  *explicit       // what Mappings and MappingsFile say; behind all keys
	policySet []policy.Policy // what Policies and PoliciesFile say
	renamed   []Renamed
}

// Device is the TUN device.
type Device struct {
	Name   string `yaml:"name"`
	MTU    int    `yaml:"mtu"` // bytes
	Queues Queues `yaml:"queues"`
}

// Inside is what IPv4 inside of workloads needs besides.
type Inside struct {
	Device string `yaml:"device"` // the TAP device; "": no workload can have IPv4 inside
}

// Addresses are the translator's own.
type Addresses struct {
	IPv4 netip.Addr `yaml:"ipv4"`
	IPv6 netip.Addr `yaml:"ipv6"`
}

// ICMPSourcePool holds the sources of ICMP errors from hops that have no
// address in the other family (RFC 6791). The zero value is none.
type ICMPSourcePool struct {
	IPv4 netip.Prefix `yaml:"ipv4"`
	IPv6 netip.Prefix `yaml:"ipv6"`
}

// ICMPErrors is how many ICMP errors of our own are sent: to one workload or
// prefix of strangers, and to all of them; a second, and at once.
type ICMPErrors struct {
	Rate       int `yaml:"rate"`
	Burst      int `yaml:"burst"`
	TotalRate  int `yaml:"total_rate"`
	TotalBurst int `yaml:"total_burst"`
}

// MTU is the next-hop MTU of each side, in bytes.
type MTU struct {
	IPv4 int `yaml:"ipv4"`
	IPv6 int `yaml:"ipv6"`
}

// Log is how the daemon logs.
type Log struct {
	Level  LogLevel  `yaml:"level"`
	Format LogFormat `yaml:"format" restart:"yes"`
}

// Mapping is one explicit mapping (RFC 7757).
type Mapping struct {
	IPv6  netip.Prefix `yaml:"ipv6"`
	IPv4  netip.Prefix `yaml:"ipv4"`
	Ports ports.Set    `yaml:"ports"` // empty: all
}

// translated is m as the translator has it.
func (m Mapping) translated() mapping.Mapping {
	return mapping.Mapping{IPv6: m.IPv6, IPv4: m.IPv4, Ports: m.Ports}
}

// API is where the daemon listens for the operator and for the CNI plugin.
type API struct {
	Socket string `yaml:"socket"` // path of the unix socket, mode 0660
	Group  string `yaml:"group"`  // whose members may write besides root
	Pprof  bool   `yaml:"pprof"`  // profiles of the daemon may be taken there
}

// Registry is where assignments are kept.
type Registry struct {
	Path    string `yaml:"path" restart:"yes"`
	History int    `yaml:"history"` // how many ended assignments are remembered
}

// Pool is IPv4 addresses to assign from.
type Pool struct {
	Name             string        `yaml:"name"`
	IPv4             PoolIPv4      `yaml:"ipv4"`               // none with From
	From             PoolFrom      `yaml:"from"`               // who lends it blocks; "" is nobody
	LowWatermark     int           `yaml:"low_watermark"`      // workloads; with From
	HighWatermark    int           `yaml:"high_watermark"`     // likewise
	WholeAddress     bool          `yaml:"whole_address"`      // a workload gets an address with all its ports
	Inside           bool          `yaml:"inside"`             // who does not say otherwise has the address inside
	PortsPerWorkload int           `yaml:"ports_per_workload"` // 0 with WholeAddress
	Ports            ports.Set     `yaml:"ports"`              // what may be assigned; empty with WholeAddress
	ReservedPorts    ports.Set     `yaml:"reserved_ports"`     // what of Ports may not; extra single ports may be asked for all the same
	Cooldown         time.Duration `yaml:"cooldown"`           // how long a freed set stays out of use
	FirstUse         FirstUse      `yaml:"first_use"`
}

// DNS64 is the resolver on the translator's own IPv6 address (RFC 6147).
type DNS64 struct {
	Enabled   bool             `yaml:"enabled"`
	Upstreams []netip.AddrPort `yaml:"upstreams"` // none: those of the host's resolv.conf
	Exclude   []netip.Prefix   `yaml:"exclude"`   // AAAA that count as absent (section 5.1.4)
	Cache     int              `yaml:"cache"`     // answers kept
	Clients   []netip.Prefix   `yaml:"clients"`   // who may ask besides workloads and the host
}

// Health is HTTP on the translator's own addresses, for load balancers.
type Health struct {
	Port uint16 `yaml:"port"` // 0: off
}

// Default is the configuration of an empty file. It lacks the addresses and
// would not validate.
func Default() Config {
	return Config{
		Device:        Device{Name: "natless0", MTU: 1500, Queues: AutoQueues},
		ICMPErrors:    ICMPErrors{Rate: 100, Burst: 50, TotalRate: 10_000, TotalBurst: 5000},
		MTU:           MTU{IPv4: 1500, IPv6: 1500},
		LowestIPv6MTU: 1280,
		ManageSysctls: true,
		SysctlDir:     "/proc/sys",
		FastPath:      FastPathAuto,
		Log:           Log{Format: "text"},
		API:           API{Socket: "/run/natless/natless.sock", Group: "root"},
		Registry:      Registry{Path: "/var/lib/natless/registry.db", History: 100_000},
		DNS64: DNS64{
			Exclude: []netip.Prefix{special.IPv4Mapped},
			Cache:   10_000,
		},
		Metrics: Metrics{PerWorkload: true, MaxWorkloads: 1000},
		Flows:   defaultFlows(),
		Relay:   defaultRelay(),
		Edge:    Edge{MTU: 1500},

		Shedding: Shedding{Enabled: true},
	}
}

// MaxInterfaces is how many uplinks there may be, and interfaces of the fabric: the fast
// path looks through them for a packet.
const MaxInterfaces = 8

// AllUplinks are the interfaces toward IPv4 that the configuration names.
func (c *Config) AllUplinks() (all []string) {
	for _, name := range append([]string{c.Uplink}, c.Uplinks...) {
		if name != "" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// InsideDevice is the TAP device of who asks for IPv4 inside and names none.
const InsideDevice = "natless4"

// setDefaults completes what depends on other keys.
func (c *Config) setDefaults(given map[string]bool) {
	if !given["inside"] && slices.ContainsFunc(c.Pools, func(p Pool) bool { return p.Inside }) {
		c.Inside.Device = InsideDevice
	}
}

// setDefaults completes a pool as it is written in the file: what is left out
// depends on what is not.
func (p *Pool) setDefaults(given map[string]bool) {
	if !given["cooldown"] {
		p.Cooldown = time.Minute
	}
	if p.From == FromFleet {
		p.setWatermarks(given)
	}
	if p.WholeAddress {
		return
	}
	if !given["ports_per_workload"] {
		p.PortsPerWorkload = 1024
	}
	if !given["ports"] && !p.IPv4.Uplink {
		p.Ports = ports.All()
	}
	if !given["reserved_ports"] {
		p.ReservedPorts = ports.MustParse("0-1023")
	}
}

// setWatermarks are what a pool of blocks keeps ready, where the file does not say.
func (p *Pool) setWatermarks(given map[string]bool) {
	if !given["low_watermark"] {
		p.LowWatermark = 32
		if p.WholeAddress {
			p.LowWatermark = 2
		}
	}
	if !given["high_watermark"] {
		p.HighWatermark = 4 * p.LowWatermark
	}
}
