// Package route makes the kernel bring packets to the translator's device and
// take away what comes out of it: the link, routes, policy rules, proxy
// neighbours, nftables and the sysctls that forwarding needs. It computes what
// should be there, compares that with what is there, and applies the
// difference; it watches, puts back what others take away, and removes all it
// made. It reads no packet and knows no workload: who may have which address
// is said to it as prefixes.
//
// What it makes is marked, so that a start after a kill finds and adopts it:
// routes, rules and proxy neighbours by the protocol number Protocol, nftables
// by the table name natless, sysctls by a file in Config.StateDir that holds
// their values from before. That file is written before a value is changed; it
// lies under /run, which is emptied by the same reboot that resets the values.
package route

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
)

const (
	// Protocol marks our routes, rules and proxy neighbours ("ip route show
	// proto 110"; 'n'). rtnetlink(7): above 4 it is for whoever adds routes.
	Protocol = 110

	// maxProxies bounds the proxy neighbours on an uplink. What has more
	// addresses must be routed to this host.
	maxProxies       = 4096
	maxProxyWarnings = 8

	// defaultTxQueueLen is packets that wait for one queue's thread. The kernel's
	// 500 is a burst of 3 ms at 170 kpps.
	defaultTxQueueLen = 4096
	defaultStateDir   = "/run/natless"
	defaultSysctlDir  = "/proc/sys"
)

// Config is what stays the same while a manager runs.
type Config struct {
	Device        string       // the TUN device; somebody else opens it
	TxQueueLen    int          // of the device, in packets; default 4096
	ManageSysctls bool         // false: sysctls are only checked
	SysctlDir     string       // where they are written; default /proc/sys
	Leave         bool         // Run leaves all it made to its successor, or to Cleanup
	StateDir      string       // where the values of sysctls from before are kept; default /run/natless
	Log           *slog.Logger // default slog.Default()

	// Assigned reports whether a workload has a port of the host's address, and
	// InUse is told which ports the host uses, of those that none has; whenever
	// it is told, it must hold for what is assigned after that. Both may be
	// called at any time while the manager runs or is being Set, and must not
	// wait for who calls that.
	Assigned func(netip.Addr, uint16) bool `json:"-"`
	InUse    func(InUse)                   `json:"-"`
}

// Desired is what the kernel should do for the translator. Invalid addresses
// and prefixes mean that there is none.
type Desired struct {
	MTU                      int            // of the device; default 1500, at least 1280
	Uplink                   string         // answer ARP for the IPv4 addresses below on this interface; optional
	Uplinks                  []string       // more interfaces that IPv4 comes from and goes to, where nobody is answered
	Fabric                   []string       // interfaces by any of which may come what the routes lead to by another of them
	Prefix                   netip.Prefix   // RFC 6052 translation prefix
	IPv4, IPv6               netip.Addr     // the translator's own: routed to the device, never owned by the kernel
	ICMPSource4, ICMPSource6 netip.Prefix   // RFC 6791
	Mapped4                  []netip.Prefix // the IPv4 side of mappings, and whole pools
	Blocks6                  []netip.Prefix // the host's addresses on a fabric without IPv4, for what it was lent; none: there is IPv4
	HostPool                 HostPool       // the host's own IPv4 address as a pool
	Served                   Served         // what others are to be told of
	AntiSpoofing             bool           // drop IPv6 packets to the translator with another's source
}

// Served are prefixes with a route to the device in a table of its own, which no rule leads
// to: a routing daemon announces what is in it, and nothing when the device is gone.
type Served struct {
	Table, Metric int
	Prefixes      []netip.Prefix
}

func (c Config) withDefaults() (Config, error) {
	if c.Device == "" || len(c.Device) > 15 {
		return c, fmt.Errorf("device name %q: must have 1 to 15 characters", c.Device)
	}
	if c.TxQueueLen == 0 {
		c.TxQueueLen = defaultTxQueueLen
	}
	if c.StateDir == "" {
		c.StateDir = defaultStateDir
	}
	if c.SysctlDir == "" {
		c.SysctlDir = defaultSysctlDir
	}
	if c.Assigned == nil {
		c.Assigned = func(netip.Addr, uint16) bool { return false }
	}
	if c.InUse == nil {
		c.InUse = func(InUse) {}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c, nil
}

// Validate says what is wrong with d, as Set would before it changes anything.
func (d Desired) Validate() error {
	_, err := d.validate()
	return err
}

func (d Desired) validate() (Desired, error) {
	if d.MTU == 0 {
		d.MTU = 1500
	}
	var errs []error
	if d.MTU < 1280 || d.MTU > 65535 {
		errs = append(errs, fmt.Errorf("device mtu %d: must be 1280 (RFC 8200 section 5) to 65535", d.MTU))
	}
	check := func(what string, p netip.Prefix, four bool) {
		if p.IsValid() && (p.Addr().Is4() != four || p != p.Masked()) {
			errs = append(errs, fmt.Errorf("%s %v: wrong family or bits beyond its length", what, p))
		}
	}
	check("prefix", d.Prefix, false)
	check("icmp source", d.ICMPSource4, true)
	check("icmp source", d.ICMPSource6, false)
	if d.ICMPSource6.IsValid() && d.ICMPSource6.Bits() < 16 {
		errs = append(errs, fmt.Errorf("icmp source %v: longer than a network has, at most a /16", d.ICMPSource6))
	}
	check("own address", single(d.IPv4), true)
	check("own address", single(d.IPv6), false)
	for _, p := range d.Mapped4 {
		check("mapped ipv4", p, true)
		if p.Bits() <= 0 {
			errs = append(errs, fmt.Errorf("mapped ipv4 %v: would take the default route", p))
		}
	}
	for _, p := range d.Blocks6 {
		check("address on the fabric", p, false)
		if p.Bits() < 16 {
			errs = append(errs, fmt.Errorf("address on the fabric %v: longer than a network has, at most a /16", p))
		}
	}
	errs = append(errs, d.HostPool.validate())
	return d, errors.Join(errs...)
}

// single is a's prefix of full length; invalid when a is.
func single(a netip.Addr) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, a.BitLen())
}
