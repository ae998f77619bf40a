package translator

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
	"github.com/natless/natless/translator/policy"
)

// UDPZeroChecksum says what to do with IPv4 UDP without a checksum
// (RFC 7915 4.5, RFC 6936).
type UDPZeroChecksum uint8

// The four ways, as the config key udp_zero_checksum names them.
const (
	RejectZeroChecksum UDPZeroChecksum = iota
	DropZeroChecksum
	CalculateZeroChecksum
	ForwardZeroChecksum
)

// Config is how packets are translated. The zero value of a field is its
// default where one is named.
type Config struct {
	IPv4, IPv6               netip.Addr     // the translator's own addresses
	Host4                    netip.Addr     // the host's own IPv4 address, where workloads share it with the host; optional
	Pools4                   []netip.Prefix // IPv4 addresses that only workloads have: see rules 1.1.ours-source4, 1.1.ours-nobody4
	ICMPSource4, ICMPSource6 netip.Prefix   // sources for errors from untranslatable hops (RFC 6791); optional
	MTU4, MTU6               int            // next-hop MTU of each side; default 1500
	LowestMTU6               int            // longest IPv6 packet made from IPv4 with DF=0; default 1280
	UDPZeroChecksum          UDPZeroChecksum
	ZeroTrafficClass         bool           // traffic class and TOS become 0 instead of being copied
	AllowNonGlobal           bool           // private IPv4 under 64:ff9b::/96
	Client                   bool           // the workloads speak IPv4, over an IPv6-only link (RFC 6877): nothing hairpins
	ErrorRate, ErrorBurst    int            // ICMP errors of ours a second, to each workload and prefix of strangers; default 100, 50
	ErrorTotalRate           int            // to all workloads, and to all strangers of a family; default 10000, or ErrorRate if that is more
	ErrorTotalBurst          int            // default 5000, or ErrorBurst if that is more
	Policy                   *policy.Table  // what workloads are held to; nil: nothing
	FirstUse                 []netip.Prefix // whose packets get the verdict FirstUse, of workloads that have no mapping
	Rules                    *mapt.Rules    // of MAP-T, whose CEs are workloads besides those of the table; nil: none
	Edge                     Edge           // how what is IPv4 leaves and comes where the network has none; see Ascend
	Key                      [16]byte       // of the tags in echo trailers and the hash over fragments; keep it secret
}

// Bounds of the MTUs: RFC 791 3.2, RFC 8200 5, and the 16 bits of a length.
const (
	minMTU4 = 68
	minMTU6 = 1280
	maxMTU  = 65535
)

// withDefaults fills in the fields that were left zero.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&c.MTU4, 1500}, {&c.MTU6, 1500}, {&c.LowestMTU6, minMTU6},
		{&c.ErrorRate, 100}, {&c.ErrorBurst, 50},
		{&c.ErrorTotalRate, max(10_000, c.ErrorRate)}, {&c.ErrorTotalBurst, max(5000, c.ErrorBurst)},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return c
}

// Filled is c with its defaults, as Translator.Config gives it.
func (c Config) Filled() Config { return c.withDefaults() }

// Validate says everything that is wrong with c, as New and Reload would.
func (c Config) Validate() error { return c.withDefaults().check() }

// check finds everything that is wrong with c, whose defaults are filled in.
func (c Config) check() error {
	var errs []error
	refuse := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }

	if !c.IPv4.Is4() {
		refuse("own IPv4 address %v: give the translator an IPv4 address of its own", c.IPv4)
	} else if never4(mapping.Addr4From(c.IPv4)) {
		refuse("own IPv4 address %v: is never translated, choose a unicast address", c.IPv4)
	}
	if !c.IPv6.Is6() || c.IPv6.Is4In6() {
		refuse("own IPv6 address %v: give the translator an IPv6 address of its own", c.IPv6)
	} else if never6(mapping.Addr6From(c.IPv6)) {
		refuse("own IPv6 address %v: is never translated, choose a global or unique local one", c.IPv6)
	}
	if c.Host4.IsValid() && (!c.Host4.Is4() || c.Host4 == c.IPv4) {
		refuse("host's IPv4 address %v: is no IPv4 address, or the translator's own", c.Host4)
	}
	if p := c.ICMPSource4; p != (netip.Prefix{}) && (!p.IsValid() || !p.Addr().Is4() || p != p.Masked()) {
		refuse("ICMP source pool %v: is no IPv4 prefix without host bits", p)
	}
	for _, p := range c.Pools4 {
		if !p.IsValid() || !p.Addr().Is4() {
			refuse("pool %v: is no IPv4 prefix", p)
		}
	}
	if p := c.ICMPSource6; p != (netip.Prefix{}) && (!p.IsValid() || !p.Addr().Is6() || p != p.Masked()) {
		refuse("ICMP source pool %v: is no IPv6 prefix without host bits", p)
	}
	if c.MTU4 < minMTU4 || c.MTU4 > maxMTU {
		refuse("IPv4 MTU %d: choose from %d to %d", c.MTU4, minMTU4, maxMTU)
	}
	if c.MTU6 < minMTU6 || c.MTU6 > maxMTU {
		refuse("IPv6 MTU %d: choose from %d to %d", c.MTU6, minMTU6, maxMTU)
	} else if c.LowestMTU6 < minMTU6 || c.LowestMTU6 > c.MTU6 {
		refuse("lowest IPv6 MTU %d: choose from %d to the IPv6 MTU, %d", c.LowestMTU6, minMTU6, c.MTU6)
	}
	if c.Rules != nil && c.Client {
		refuse("MAP-T rules: they are a border relay's, and a client's workloads have none")
	}
	for _, p := range c.FirstUse {
		if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() {
			refuse("sources of first use %v: is no IPv6 prefix", p)
		}
	}
	if c.UDPZeroChecksum > ForwardZeroChecksum {
		refuse("UDP zero checksum %d: no such way", c.UDPZeroChecksum)
	}
	if c.ErrorRate < 1 || c.ErrorRate > 1e6 || c.ErrorBurst < 1 || c.ErrorBurst > 1e6 {
		refuse("ICMP error rate %d and burst %d: choose from 1 to 1000000", c.ErrorRate, c.ErrorBurst)
	} else if c.ErrorTotalRate < c.ErrorRate || c.ErrorTotalRate > 1e6 || c.ErrorTotalBurst < c.ErrorBurst || c.ErrorTotalBurst > 1e6 {
		refuse("ICMP error rate %d and burst %d for all: choose from those for one, %d and %d, to 1000000",
			c.ErrorTotalRate, c.ErrorTotalBurst, c.ErrorRate, c.ErrorBurst)
	}
	return errors.Join(errs...)
}

var (
	errNoTable = errors.New("no table: give an empty one where nothing is mapped")
	errNoDMR   = errors.New("MAP-T rules: the table has no prefix (RFC 6052), which is the CEs' default mapping rule (RFC 7599 5.1)")
)

// snapshot is a configuration and a table as the hot path reads them.
type snapshot struct {
	table     *mapping.Table
	own6      mapping.Addr6
	own4      uint32
	host4     uint32 // 0: none
	mtu4      int
	mtu6      int
	prefix    bool // the table has an RFC 6052 prefix
	global    bool // which is the well-known one: global addresses alone
	zeroClass bool
	client    bool
	inside    bool          // some workload has its IPv4 address inside
	half      bool          // this is the half of an edge toward the fabric
	hop       uint8         // how much less the hop limit is 6→4
	fabric    *Translator   // that half; nil: there is no edge
	ours      ranges4       // addresses that are routed to us whether or not a workload has them
	pooled6   bool          // there is an ICMP source pool of IPv6,
	sources6  mapping.Addr6 // this,
	mask6     mapping.Addr6 // and its addresses are alike in these bits
	policy    *policy.Table // nil: nobody is held to any
	rules     *mapt.Rules   // nil: none
	first     []prefix6     // who may have an assignment by first use
	violations
	denials violations // packets that policies denied, by the slot of who is held to them

	config Config
}

func newSnapshot(c Config, table *mapping.Table) (*snapshot, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	if table == nil {
		return nil, errNoTable
	}
	prefix := table.Prefix()
	if err := c.checkRules(prefix); err != nil {
		return nil, err
	}
	sources6, mask6 := pool6(c)
	host4 := uint32(0)
	if c.Host4.IsValid() {
		host4 = mapping.Addr4From(c.Host4)
	}
	return &snapshot{
		host4:     host4,
		table:     table,
		own4:      mapping.Addr4From(c.IPv4),
		own6:      mapping.Addr6From(c.IPv6),
		mtu4:      c.MTU4,
		mtu6:      c.MTU6,
		prefix:    prefix.IsValid(),
		global:    c.globalOnly(prefix),
		hop:       1,
		zeroClass: c.ZeroTrafficClass,
		client:    c.Client,
		inside:    table.AnyInside() && !c.Client,
		ours:      ours4(c),
		pooled6:   c.ICMPSource6.IsValid(),
		sources6:  sources6,
		mask6:     mask6,
		policy:    c.Policy,
		rules:     c.Rules,
		first:     prefixes6(c.FirstUse),
		config:    c,
	}, nil
}

// checkRules says what is wrong with rules of MAP-T beside a prefix (RFC 6052).
func (c Config) checkRules(prefix netip.Prefix) error {
	if c.Rules != nil && !prefix.IsValid() {
		return errNoDMR
	}
	for _, r := range c.Rules.All() {
		if r.IPv6.Overlaps(prefix) {
			return fmt.Errorf("MAP-T rule %v: overlaps the prefix, %v: an address there would be a CE's and a server's", r, prefix)
		}
	}
	return nil
}

// globalOnly says that addresses which are not global have no place in the prefix, or in
// that of the fabric, where they go next.
func (c Config) globalOnly(prefix netip.Prefix) bool {
	return (prefix == wellKnown || c.Edge.Prefix == wellKnown) && !c.AllowNonGlobal // rules 1.1.non-global-knob, 1.10.non-global
}

// with is s with another table, of the same configuration.
func (s *snapshot) with(table *mapping.Table) *snapshot {
	next := *s
	prefix := table.Prefix()
	next.table, next.prefix = table, prefix.IsValid()
	next.global = s.config.globalOnly(prefix)
	next.inside = table.AnyInside() && !s.client
	return &next
}

// wellKnown is the well-known prefix (RFC 6052 2.1).
var wellKnown = netip.MustParsePrefix("64:ff9b::/96")
