// Package api is how programs on the host talk to natlessd: HTTP and JSON on a
// unix socket, its types and its client. The CNI plugin imports it and must
// start fast, so nothing but the standard library and translator/ports may enter
// here; the server lives in config/api/server.
package api

import (
	"net/netip"
	"time"

	"github.com/natless/natless/translator/ports"
)

// DefaultSocket is where natlessd listens unless api.socket says otherwise.
const DefaultSocket = "/run/natless/natless.sock"

// Key is the identity of a workload: it stays the same over retries, restarts
// of the daemon and changes of everything else. Both parts consist of letters,
// digits and "_.-" (CNI spec 1.1, section 2), and start with a letter or digit.
type Key struct {
	ContainerID string `json:"container_id"` // 1 to 128 bytes
	Interface   string `json:"interface"`    // 1 to 15 bytes
}

// String is the key as container/interface, the form of the API's paths.
func (k Key) String() string { return k.ContainerID + "/" + k.Interface }

// Request is what a workload wishes for. The same request again gives the same
// assignment back; another one for the same key replaces it, or fails and
// changes nothing.
type Request struct {
	// Name is for people: namespace/pod, or the container's name. A workload
	// that returns under its name gets its last set again when that is free.
	Name string `json:"name,omitempty"`
	// Network names who manages the workload, for CNI the network's name: its
	// garbage collection looks at no other's.
	Network string `json:"network,omitempty"`
	// Netns is the path of the network namespace. When it is gone the daemon
	// frees the assignment by itself. Empty: never.
	Netns string `json:"netns,omitempty"`
	// HostInterface is the host's end of the workload's link: packets with the
	// workload's source come from there and from nowhere else. Empty: the daemon
	// goes by the host's route to the workload.
	HostInterface string `json:"host_interface,omitempty"`
	// IPv6 are the workload's addresses, at least one and at most 8. The first
	// is the one that is mapped; the others are kept for attribution.
	IPv6 []netip.Addr `json:"ipv6"`
	// Pool to take the address from. Empty: the pool that holds Address, else
	// the one named "default", else the first.
	Pool string `json:"pool,omitempty"`
	// Ports is how many ports are needed, at most 65536; the set is the next
	// power of two. 0: the pool's ports_per_workload.
	Ports int `json:"ports,omitempty"`
	// Address asks for this very IPv4 address. The zero Addr: any.
	Address netip.Addr `json:"address,omitzero"`
	// Inside is how the workload is to have its IPv4: IPv4Inside, IPv4Prefix or
	// IPv4ByPool. Empty, of who does not know that there is a choice: by the prefix.
	Inside string `json:"inside,omitempty"`
	// ExtraPorts are single ports wanted besides the set, exclusive on the
	// address, say 443; at most 64. They may lie in the pool's reserved ports.
	ExtraPorts []uint16 `json:"extra_ports,omitempty"`
	// Labels are what policies may select the workload by, at most 64.
	Labels map[string]string `json:"labels,omitempty"`
}

// The ways in which a workload can have its IPv4, never both: the two families of
// one kernel pick the same ports, and an answer could not say for which it is.
const (
	// IPv4Inside: its interface has the IPv4 address, and what it sends is forwarded.
	// Who asks for it makes the address, routes and rules in the workload.
	IPv4Inside = "inside"
	// IPv4Prefix: it speaks IPv6 to the translation prefix.
	IPv4Prefix = "prefix"
	// IPv4ByPool: what the pool has for its workloads; who has an assignment keeps
	// its own.
	IPv4ByPool = "pool"
)

// PortsText is what a workload has of its address, for people: 443,1024-2047, or
// "all" for a whole address.
func PortsText(s ports.Set) string {
	if s.IsZero() {
		return "all"
	}
	return s.String()
}

// Workload is a workload and what it was assigned.
type Workload struct {
	Key
	// Serial is the number of the assignment, which no other has, ever: what is
	// counted or recorded for it is known by it.
	Serial  uint64  `json:"serial"`
	Request Request `json:"request"`
	// Pool is where the address came from.
	Pool string `json:"pool"`
	// Address is the IPv4 address that the workload has, or shares.
	Address netip.Addr `json:"address"`
	// Ports is the workload's share of the address; empty: all of it.
	Ports ports.Set `json:"ports,omitzero"`
	// Inside is there when the workload has its IPv4 inside, and not by the prefix.
	Inside *Inside `json:"inside,omitempty"`
	// Since is when it got this address and these ports.
	Since time.Time `json:"since"`
	// Prefix is the RFC 6052 prefix of the translator, if there is one: the
	// workload must be able to reach it.
	Prefix netip.Prefix `json:"prefix,omitzero"`
	// Violations is how many packets it sent from ports outside its set since
	// the daemon knows it: they were refused.
	Violations uint64 `json:"violations"`
	// Shed is how many packets from and to it were dropped since then because they were
	// more than it may bring: while the host is overloaded, or by its own limits.
	Shed uint64 `json:"shed,omitempty"`
	// Denied is how many packets from and to it policies have denied since then.
	Denied uint64 `json:"denied,omitempty"`
	// Daemon is how many of the packets of Traffic the daemon translated, and not the
	// kernel's fast path.
	Daemon uint64 `json:"daemon,omitempty"`
	// Traffic is what was translated for it since the daemon knows it, by daemon and
	// fast path together; nil where packets are not counted by workload.
	Traffic *Traffic `json:"traffic,omitempty"`
}

// Traffic is what a workload sent, and what it was sent.
type Traffic struct {
	Sent     Count `json:"sent"`
	Received Count `json:"received"`
}

// Count is a number of packets, superpackets counting as one, and of their bytes
// from the IP header on, as they came in.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Inside is what a workload has inside.
type Inside struct {
	// Address is what its interface was given. It is another than the workload's
	// where the uplink's address has changed since: what it sends from there is
	// dropped, until the container is made again.
	Address netip.Addr `json:"address"`
}

// Stale says that a workload has an address inside that is not its own any more.
func (w Workload) Stale() bool { return w.Inside != nil && w.Inside.Address != w.Address }

// Run is the longest contiguous run of the set, for ip_local_port_range; a
// whole address gives 0-65535.
func (w *Workload) Run() ports.Range {
	if w.Ports.IsZero() {
		return ports.All().Longest()
	}
	return w.Ports.Longest()
}

// Filter narrows a list of workloads; the zero Filter matches all.
type Filter struct {
	Name    string       // this name; * is any text, ? any character
	Network string       // this network, likewise
	Pool    string       // exactly this pool
	Address netip.Addr   // IPv4 or IPv6
	Within  netip.Prefix // an address in there, IPv4 or IPv6
	Start   string       // what the container's id, or its key, begins with
	// Container is exactly this container's, whatever the interface.
	Container string
}

// Page is one page of a list. Next, when not empty, asks for the page behind.
type Page struct {
	Workloads []Workload `json:"workloads"`
	Next      string     `json:"next,omitempty"`
}

// The kinds of owners that are no workloads.
const (
	OwnerMapping    = "mapping"    // an explicit mapping of the configuration
	OwnerTranslator = "translator" // natlessd itself
	OwnerHost       = "host"       // this host, or another on its links
	OwnerCE         = "ce"         // a customer's edge, by a rule of MAP-T
	OwnerBlock      = "block"      // a host that a fleet has lent a block to, to which this relay leads it
	OwnerPrefix     = "prefix"     // nobody here: it stands for an address outside
)

// Owner is who had an address and port, and from when to when. Until is
// zero while they still have it.
type Owner struct {
	Key
	Serial  uint64       `json:"serial,omitempty"` // of the assignment; 0: it ended before there were serials
	Kind    string       `json:"kind,omitempty"`   // absent: a workload
	Detail  string       `json:"detail,omitempty"` // of who is no workload, in words
	Name    string       `json:"name,omitempty"`
	Network string       `json:"network,omitempty"`
	Pool    string       `json:"pool"`
	IPv6    []netip.Addr `json:"ipv6"`
	Address netip.Addr   `json:"address"`
	Ports   ports.Set    `json:"ports,omitzero"`
	Inside  bool         `json:"inside,omitempty"` // it has, or had, the address inside
	Since   time.Time    `json:"since"`
	Until   time.Time    `json:"until,omitzero"`
}

// Owners is everybody who has, or had at a time, an address, or some of its ports.
type Owners struct {
	Owners []Owner `json:"owners"`
	// Before is who had it last before that, when nobody has: the latest first.
	Before []Owner `json:"before,omitempty"`
	// Detail is what else there is to say of the address, such as its pool.
	Detail string `json:"detail,omitempty"`
	// Address is the IPv4 address that relays lead to the one that was asked about, which is
	// this host's in a fabric.
	Address netip.Addr `json:"address,omitzero"`
}

// Explanation says what would become of a packet.
type Explanation struct {
	Packet   string   `json:"packet"`             // as it was understood
	Verdict  string   `json:"verdict"`            // as metrics and traces name it
	Output   []string `json:"output,omitempty"`   // what would come out, in words
	Between  string   `json:"between,omitempty"`  // what it is as IPv4 in between, at the edge of a fabric without IPv4
	Mappings []string `json:"mappings,omitempty"` // which mappings or prefix decided
	Rule     string   `json:"rule,omitempty"`     // the RFC section behind the verdict
	Policy   string   `json:"policy,omitempty"`   // rule of a policy that denies it, or would if it were not only audited
	Shed     string   `json:"shed,omitempty"`     // that such packets are dropped just now, as their workload gives way
	Text     string   `json:"text"`               // all of it, for people
}

// Pool is how full a pool is. Ports are counted over all its addresses;
// a whole-address pool counts addresses as 65536 ports each.
type Pool struct {
	Name             string        `json:"name"`
	Uplink           bool          `json:"uplink,omitempty"`
	Fleet            bool          `json:"fleet,omitempty"` // its addresses are blocks that a fleet has lent this host
	WholeAddress     bool          `json:"whole_address,omitempty"`
	PortsPerWorkload int           `json:"ports_per_workload,omitempty"`
	Inside           bool          `json:"inside,omitempty"` // its workloads have their IPv4 inside, unless they say otherwise
	CooldownSeconds  float64       `json:"cooldown_seconds"`
	Workloads        int           `json:"workloads"`
	Ports            int           `json:"ports"`                   // that can be assigned
	PortsUsed        int           `json:"ports_used"`              // that workloads have
	PortsCooling     int           `json:"ports_cooling"`           // given back, and not yet to be had
	PortsOfHost      int           `json:"ports_of_host,omitempty"` // that the host itself uses: not to be had until it stops
	Headroom         int           `json:"headroom"`                // workloads that would find ports_per_workload, or an address, free
	Drained          time.Time     `json:"drained,omitzero"`        // since then no new workload gets anything of it
	Addresses        []PoolAddress `json:"addresses"`
	Others           int           `json:"others,omitempty"` // addresses that are no fuller, where only some were asked for
}

// Barred is how many of its addresses are never assigned.
func (p Pool) Barred() (n int) {
	for _, a := range p.Addresses {
		if a.Barred != "" {
			n++
		}
	}
	return n
}

// PoolAddress is how full one address of a pool is.
type PoolAddress struct {
	Address      netip.Addr `json:"address"`
	Workloads    int        `json:"workloads"`
	Ports        int        `json:"ports"`
	PortsUsed    int        `json:"ports_used"`
	PortsCooling int        `json:"ports_cooling"`
	PortsOfHost  int        `json:"ports_of_host,omitempty"`
	// Barred is why nothing of it is assigned: somebody on the host's links holds
	// it. Empty: it is.
	Barred string `json:"barred,omitempty"`
}

// Pools is the answer to a question for all pools.
type Pools struct {
	Pools []Pool `json:"pools"`
}

// Drain is a pool, or the whole host, of which no new workload gets anything.
type Drain struct {
	Pool    string    `json:"pool,omitempty"` // empty: the host
	Since   time.Time `json:"since"`
	Left    int       `json:"left"`              // workloads that have something of it still
	Unknown bool      `json:"unknown,omitempty"` // no such pool is configured any more
}

// Drains are all that is drained, the host first.
type Drains struct {
	Drains []Drain `json:"drains"`
}

// Status is the daemon at a glance.
type Status struct {
	Version   string       `json:"version"`
	PID       int          `json:"pid"`
	Ready     bool         `json:"ready"`
	Started   time.Time    `json:"started"`
	Config    string       `json:"config"` // path of the file
	Prefix    netip.Prefix `json:"prefix,omitzero"`
	IPv4      netip.Addr   `json:"ipv4,omitzero"` // the translator's own
	IPv6      netip.Addr   `json:"ipv6,omitzero"`
	Device    Device       `json:"device"`
	Mappings  int          `json:"mappings"` // in the table, explicit and of workloads
	Workloads int          `json:"workloads"`
	// Verdicts counts packets by verdict or reason.
	Verdicts map[string]uint64 `json:"verdicts"`
	Reload   Reload            `json:"reload"`
	// Drains are what no new workload gets anything of.
	Drains []Drain `json:"drains,omitempty"`
	// FirstUse is what pools have given to sources that nobody announced.
	FirstUse []FirstUse `json:"first_use,omitempty"`
	// MAP is the rules of a border relay of MAP-T.
	MAP []MapRule `json:"map,omitempty"`
	// Shedding is who gives way; absent where nobody does.
	Shedding *Shedding `json:"shedding,omitempty"`
	// Limits are the budgets that were used up since the start, and how often.
	Limits []Limit `json:"limits,omitempty"`
	// Checks are what the daemon watches, such as routes and the rules against
	// spoofed sources.
	Checks []Check `json:"checks,omitempty"`
	// FastPath is what of it the kernel does by itself.
	FastPath FastPath `json:"fast_path,omitzero"`
	// Flows is what is recorded of who talked to whom.
	Flows FlowStatus `json:"flows,omitzero"`
	// Offload is FastPath by the name that it had: it goes in the release after next.
	Offload FastPath `json:"offload,omitzero"`
}

// FirstUseLabel is the label of workloads that have their assignment by first use; its value
// is the pool. Policies select by it.
const FirstUseLabel = "natless.io/first-use"

// FirstUse is what a pool has given to sources that nobody announced.
type FirstUse struct {
	Pool      string         `json:"pool"`
	Sources   []netip.Prefix `json:"sources"` // none: it gives nothing any more
	Workloads int            `json:"workloads"`
}

// MapRule is a rule of MAP-T, and what was translated by it since it came into force.
// The fast path has no part in it.
type MapRule struct {
	Rule    string       `json:"rule"` // in words
	IPv6    netip.Prefix `json:"ipv6"`
	IPv4    netip.Prefix `json:"ipv4"`
	CEs     uint64       `json:"ces"` // that there may be
	To4     uint64       `json:"to4"` // packets from CEs
	To6     uint64       `json:"to6"` // and to them
	Spoofed uint64       `json:"spoofed"`
	Outside uint64       `json:"outside"` // packets from ports that their CE has not
}

// Device is the translator's network device.
type Device struct {
	Name    string   `json:"name"`
	MTU     int      `json:"mtu"`
	Queues  int      `json:"queues"`
	Offload []string `json:"offload,omitempty"` // what the kernel granted
}

// Reload is what came of the last reload. At is zero before the first.
type Reload struct {
	At    time.Time `json:"at,omitzero"`
	Error string    `json:"error,omitempty"`
}

// Shedding is how a host that is overloaded has those give way who bring most to the daemon.
type Shedding struct {
	// Packets is how many each workload of normal priority may bring a second, each way.
	Packets float64 `json:"packets_per_second"`
	// Kernel says that what is more is dropped in front of the daemon's queues.
	Kernel bool `json:"kernel"`
	// Workloads are those that give way.
	Workloads []Shed `json:"workloads,omitempty"`
}

// Shed is somebody who gives way, one way.
type Shed struct {
	// Who is the workload's name or key, the IPv6 address of a mapping, or strangers.
	Who string `json:"who"`
	// Direction is sent or received.
	Direction string `json:"direction"`
	// Packets is how many were dropped since it gives way.
	Packets uint64 `json:"packets"`
}

// Limit is a budget, and how often somebody was refused because it was used up.
type Limit struct {
	What    string `json:"what"`   // is shared out, such as "icmp-errors too-big"
	Budget  string `json:"budget"` // whose share: workload, source, all-sources, …
	Refused uint64 `json:"refused"`
}

// Check is the state of one thing. State is ok, warn or fail; Detail says what
// is the matter and what to do.
type Check struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// Health is the answer to a question for health.
type Health struct {
	Ready bool `json:"ready"`
}
