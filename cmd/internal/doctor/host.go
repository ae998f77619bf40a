package doctor

import (
	"context"
	"net/netip"

	"github.com/natless/natless/cmd/internal/portlimits"
	"github.com/natless/natless/config/api"
)

// Host is what the doctor sees of the machine; the real one is in
// host_linux.go, a made-up one beside the tests.
type Host interface {
	// Sysctl reads a value by its key with slashes, "" when there is none.
	Sysctl(key string) string
	// Settable says why a sysctl cannot be set, at its path below /proc/sys or where
	// that is mounted.
	Settable(path string) error
	// DeviceNode says why /dev/net/tun cannot be used, or nil.
	DeviceNode() error
	// Links are the network interfaces.
	Links() ([]Link, error)
	// RouteTo is the interface that packets to an address leave by.
	RouteTo(netip.Addr) (device string, err error)
	// Chains are nftables' base chains that packets pass on their way through
	// the host, those of iptables-nft among them.
	Chains() ([]Chain, error)
	// LegacyTables are those of the older iptables that are in use, "filter" say.
	LegacyTables() []string
	// AntiSpoofing reports whether the daemon's own rules are there.
	AntiSpoofing() (bool, error)
	// FastPath lists the programs of the fast path that stand at interfaces,
	// whoever attached them, each with its place.
	FastPath() ([]string, error)
	// Modules and Processes are what runs, by name.
	Modules() []string
	Processes() []string
	// Echo sends an echo request and waits for the reply.
	Echo(context.Context, netip.Addr) error
	// Source is the address from which this host would send to another.
	Source(to netip.Addr) (netip.Addr, error)
	// Held is the addresses on the host's links that nobody can be given, and why.
	Held() (map[netip.Addr]string, error)
	// NextHop is the IPv4 router that packets leave to by an interface; "": by any.
	NextHop(uplink string) (netip.Addr, error)
	// RoundTrip sends an echo request with identifier 0 from any address, and looks
	// for its reply.
	RoundTrip(ctx context.Context, from, to netip.Addr) (RoundTrip, error)
	// Nameservers are those of this host.
	Nameservers() ([]netip.AddrPort, error)
	// AskUpstream asks a name server for localhost, and says why it has no answer.
	AskUpstream(context.Context, netip.AddrPort) error
	// UplinkAddr is the IPv4 address of an interface that workloads can share.
	UplinkAddr(name string) (netip.Addr, error)
	// Listen says why one cannot listen on a TCP address.
	Listen(netip.AddrPort) error
	// Neighbours gives the MAC addresses of other hosts on an interface's link that
	// answer ARP for one of the addresses.
	Neighbours(ctx context.Context, iface string, addrs []netip.Addr) (map[netip.Addr]string, error)
	// Resolve asks a resolver for IPv6 addresses.
	Resolve(ctx context.Context, server netip.AddrPort, name string) ([]netip.Addr, error)
	// PortLimits reads what the container in a network namespace was told of its
	// ports, by the names of the sysctls under net.ipv4.
	PortLimits(netns string) (func(name string) (string, error), error)
	// SourceIn is the address that the kernel in a network namespace sends from
	// to another.
	SourceIn(netns string, to netip.Addr) (netip.Addr, error)
	// Inside says what a workload has inside otherwise than it was made.
	Inside(api.Workload) ([]string, error)
	// Synchronised reports whether something keeps the clock right.
	Synchronised() (bool, error)
	// FreeSpace is what is left on the file system of a path, in bytes.
	FreeSpace(path string) (uint64, error)
	// Modified is when a file was changed last; the zero time if unknown.
	Modified(path string) int64
}

// Link is a network interface.
type Link struct {
	Name      string
	Kind      string // "tun", "veth", …
	Bridge    string // that it is a port of
	MTU       int
	Up        bool
	QueueFull uint64 // packets dropped since the transmit queue was full
	Sent      uint64 // packets
}

// Chain is a base chain of nftables.
type Chain struct {
	Family, Table, Name string
	Hook                string // forward, prerouting or postrouting
	DropsByDefault      bool
	Accepts             bool // its table has a rule that accepts what comes from or goes to the translator's device
	Masquerades         bool // whatever the source
}

func (c Chain) String() string { return c.Family + " " + c.Table + " " + c.Name }

// limits are the sysctls that hold a container to its ports.
var limits = []string{portlimits.Range, portlimits.Reserved}
