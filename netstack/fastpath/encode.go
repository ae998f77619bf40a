//go:build linux

package fastpath

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"sync"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Tables is what the programs translate by.
type Tables struct {
	Table  *mapping.Table
	Config translator.Config // as Translator.Config gives it, defaults filled in

	// Interface is the index of the interface, on the host's side, that the
	// workload of a mapping sends through; 0 where it is not known. What
	// comes in by another one, and all while it is not known, is passed on. Fabric
	// stands for any of Host.Fabric.
	Interface func(mapping.Mapping) int

	// Inside is where a workload with IPv4 inside sends it: at its own interface, also
	// where that is the port of a bridge; 0 where it is not known, which drops it.
	// nil: none have it.
	Inside func(mapping.Mapping) int

	Host Host
}

// Host is what the programs must know of the host to do what it would do.
type Host struct {
	// Device is the index of the translator's device, which forwards both
	// families. What the host would not lead to it is passed on, and the way of
	// a translated packet is that of one which comes out of it. With 0 it is that
	// of one which comes in where this one did, and nothing else is asked for.
	Device int

	// Via is whose routing decides while the device is gone and Alone is true:
	// nothing else had a way of its own inside the prefix and the mappings.
	Via   int
	Alone bool

	// Uplinks are the interfaces that IPv4 packets come from and go to, none or
	// too many for being asked for: all. Others are passed on.
	Uplinks [maxUplinks]int

	// Fabric are the interfaces by any of which packets come in of workloads whose
	// interface is Fabric: hosts that have several ways to this one.
	Fabric [maxUplinks]int

	// Inside is the TAP of workloads with IPv4 inside; 0: there is none. Steer has all
	// of their IPv4 go by the daemon.
	Inside int
	Steer  bool

	// Strict says that an IPv4 packet must come in by the interface that the
	// host would send to its source by (rp_filter=1).
	Strict bool
}

// Fabric is where a workload is whose packets come in by any interface of the fabric. No
// interface has that index.
const Fabric = 2147483646

// UnsupportedError says why the programs cannot do what the daemon does, so that
// they pass everything on.
type UnsupportedError struct{ Why string }

func (e *UnsupportedError) Error() string { return "no fast path: " + e.Why }

// Constants of bpf/layout.h.
const (
	flagEnabled        = 1
	flagGlobalOnly     = 2
	flagZeroClass      = 4
	flagMappedInPrefix = 8
	flagCountShared    = 16
	flagStrictSource   = 32
	flagAlone          = 64
	flagSteer          = 128
	flagEdge           = 256
	flagOursInFabric   = 512

	keyOurs  = 64
	keyBlock = 256

	flagShared = 1
	flagHoles  = 2
	flagInside = 4

	flagInside4 = flagInside // of an entry4
	flagClient4 = 8

	keyBySlot = 1 << 31

	nearWords  = 1024
	portSizes  = 17
	maxLengths = len(programConfig{}.Levels6)
	maxUplinks = len(programConfig{}.Uplinks)
)

// fibSkipNeighbour is BPF_FIB_LOOKUP_SKIP_NEIGH.
const fibSkipNeighbour = 4

// state is what must be known of the contents to edit them.
type state struct {
	lengths6 [129]int                   // mappings with a prefix of that length
	lengths4 [33]int                    // IPv4 prefixes, shared addresses counting once
	inPrefix int                        // mappings whose IPv6 prefix overlaps the prefix
	inFabric int                        // or that of an edge's fabric
	shared   map[uint32]*[portSizes]int // by address: its blocks of ports of each size
	near     [nearWords]uint64
	ours     [33]int // blocks of ours with a prefix of that length
}

// contents is what lies in the maps.
type contents struct {
	keys6     []programKey6
	entries6  []programEntry6
	keys4     []programKey4
	entries4  []programEntry4
	keysPort  []programKeyPort
	ownerPort []programEntry4

	keysInside []uint32
	inside     []programEntryInside
}

// supported says what is in the way of a fast path.
func supported(t *Tables) error {
	switch {
	case !t.Table.Prefix().IsValid():
		return &UnsupportedError{"there is no RFC 6052 prefix"}
	case t.Config.Client:
		return &UnsupportedError{"workloads speak IPv4 here"}
	case !t.Config.IPv4.Is4() || !t.Config.IPv6.Is6() || t.Config.MTU4 == 0 || t.Config.MTU6 == 0 || t.Config.LowestMTU6 == 0:
		return errors.New("fast path: the configuration lacks defaults: take the translator's")
	}
	return nil
}

// encode is t as it lies in the maps: what workloads send by, and beside it, on another
// processor, what is sent to them by.
func encode(t *Tables) (*contents, *state) {
	n := t.Table.Len()
	c := &contents{keys6: make([]programKey6, 0, n), entries6: make([]programEntry6, 0, n)}
	at := blocksOf(t.Config.Edge)
	var six sync.WaitGroup
	six.Go(func() {
		for e := range t.Table.Entries() {
			key, entry := encode6(t, e.Mapping(), e)
			c.keys6, c.entries6 = append(c.keys6, key), append(c.entries6, entry)
		}
		at.encode6(c)
	})
	defer six.Wait()
	return c, c.encodeOthers(t)
}

// encodeOthers encodes all but the IPv6 side.
func (c *contents) encodeOthers(t *Tables) *state {
	s := &state{shared: map[uint32]*[portSizes]int{}}
	for e := range t.Table.Entries() {
		m := e.Mapping()
		s.count(t, m, 1)
		if m.Ports.IsZero() {
			c.keys4, c.entries4 = append(c.keys4, key4(m.IPv4)), append(c.entries4, encode4(m, e))
		}
		for k := range portKeys(m) {
			c.keysPort, c.ownerPort = append(c.keysPort, k), append(c.ownerPort, encodePort(m, e, k))
		}
		if m.Inside {
			_, entry := encode6(t, m, e)
			keys, inside := encodeInside(t, m, e, entry)
			for _, k := range keys {
				c.keysInside, c.inside = append(c.keysInside, k), append(c.inside, inside)
			}
		}
	}
	for _, p := range ours4(t.Config) {
		s.ours[p.Bits()]++
		s.markNear(p)
		c.keys4, c.entries4 = append(c.keys4, ourKey(p)), append(c.entries4, programEntry4{})
	}
	blocksOf(t.Config.Edge).encode(c)
	for a := range s.shared {
		c.keys4, c.entries4 = append(c.keys4, programKey4{Length: 32, V4: a}), append(c.entries4, s.head(a))
	}
	return s
}

// ours4 are the blocks of addresses that are ours, whatever mappings there are.
func ours4(c translator.Config) (blocks []netip.Prefix) {
	seen := map[netip.Prefix]bool{}
	all := append(slices.Clone(c.Pools4), c.ICMPSource4, netip.PrefixFrom(c.IPv4, 32))
	for _, b := range c.Edge.Blocks { // rule 1.10.ours
		all = append(all, b.IPv4)
	}
	for _, r := range c.Rules.All() { // rule 1.8.ours
		all = append(all, r.IPv4)
	}
	for _, p := range all {
		if p = p.Masked(); p.IsValid() && !seen[p] {
			seen[p] = true
			blocks = append(blocks, p)
		}
	}
	return blocks
}

func ourKey(p netip.Prefix) programKey4 {
	key := key4(p)
	key.Length |= keyOurs
	return key
}

// markNear says that there may be something about the addresses of p.
func (s *state) markNear(p netip.Prefix) {
	for i := range uint32(1) << max(16-p.Bits(), 0) {
		a := mapping.Addr4From(p.Addr()) + i<<16
		s.near[a>>22] |= 1 << (a >> 16 & 63)
	}
}

// count brings s up to date when n mappings m, 1 or −1, come.
func (s *state) count(t *Tables, m mapping.Mapping, n int) {
	s.lengths6[m.IPv6.Bits()] += n
	if m.IPv6.Overlaps(t.Table.Prefix()) {
		s.inPrefix += n
	}
	if overlapsFabric(t, m.IPv6) {
		s.inFabric += n
	}
	v4 := mapping.Addr4From(m.IPv4.Addr())
	if n > 0 {
		s.markNear(m.IPv4)
	}
	if m.Ports.IsZero() {
		s.lengths4[m.IPv4.Bits()] += n
		return
	}
	sizes := s.shared[v4]
	if sizes == nil {
		sizes = new([portSizes]int)
		s.shared[v4] = sizes
		s.lengths4[32]++
	}
	for k := range portKeys(m) {
		sizes[k.Size] += n
	}
	if *sizes == [portSizes]int{} {
		delete(s.shared, v4)
		s.lengths4[32]--
	}
}

// head is the entry of a shared address, which says what sizes of blocks to look for.
func (s *state) head(v4 uint32) (e programEntry4) {
	for size, n := range s.shared[v4] {
		if n > 0 {
			e.Sizes |= 1 << size
		}
	}
	return e
}

// config is the configuration that goes with s.
func (s *state) config(t *Tables, fibFlags uint32, counters int) (c programConfig, err error) {
	own6, prefix := mapping.Addr6From(t.Config.IPv6), t.Table.Prefix()
	p, mask := mapping.Addr6From(prefix.Addr()), mask6(prefix.Bits())
	c = programConfig{
		Flags: flagEnabled, PrefixLength: uint32(prefix.Bits()),
		PrefixHi: p.Hi, PrefixLo: p.Lo, PrefixMaskHi: mask.Hi, PrefixMaskLo: mask.Lo,
		OwnHi: own6.Hi, OwnLo: own6.Lo, Own4: mapping.Addr4From(t.Config.IPv4),
		Mtu4: uint32(t.Config.MTU4), Mtu6: uint32(t.Config.MTU6), Lowest6: uint32(t.Config.LowestMTU6),
		FibFlags: fibFlags, Device: uint32(t.Host.Device), Via: uint32(t.Host.Via), Counters: uint32(counters),
		Inside: uint32(t.Host.Inside),
	}
	o := t.Config.Policy.Offsets()
	c.PolicyNumbers, c.PolicyChunks, c.PolicyValues, c.PolicyRows = o.Numbers, o.Chunks, o.Values, o.Rows
	c.PolicyPages, c.PolicyLeaves, c.PolicyCells, c.PolicyRanges = o.Pages, o.Leaves, o.Cells, o.Ranges
	for i, u := range t.Host.Uplinks {
		c.Uplinks[i], c.Fabric[i] = uint32(u), uint32(t.Host.Fabric[i])
	}
	if t.Config.Host4.IsValid() {
		c.Host4 = mapping.Addr4From(t.Config.Host4)
	}
	source := netip.PrefixFrom(t.Config.IPv6, 128)
	if t.Config.ICMPSource6.IsValid() {
		source = t.Config.ICMPSource6
	}
	putRules(&c, t.Config.Rules)
	at, bits := mapping.Addr6From(source.Addr()), mask6(source.Bits())
	c.SourceHi, c.SourceLo, c.SourceMaskHi, c.SourceMaskLo = at.Hi, at.Lo, bits.Hi, bits.Lo
	for _, f := range []struct {
		set  bool
		flag uint32
	}{
		{(prefix == WellKnown || t.Config.Edge.Prefix == WellKnown) && !t.Config.AllowNonGlobal, flagGlobalOnly},
		{t.Config.ZeroTrafficClass, flagZeroClass},
		{s.inPrefix > 0, flagMappedInPrefix},
		{s.inFabric > 0, flagOursInFabric},
		{counters == 1, flagCountShared},
		{t.Host.Strict, flagStrictSource},
		{t.Host.Alone, flagAlone},
		{t.Host.Steer, flagSteer},
	} {
		if f.set {
			c.Flags |= f.flag
		}
	}
	if err := fabricConfig(t, &c); err != nil {
		return c, err
	}
	return c, s.levels(&c)
}

// levels lists the lengths in use, longest first.
func (s *state) levels(c *programConfig) error {
	for length := 128; length >= 0; length-- {
		if s.lengths6[length] == 0 {
			continue
		}
		if int(c.Count6) == maxLengths {
			return &UnsupportedError{fmt.Sprintf("mappings have IPv6 prefixes of over %d lengths", maxLengths)}
		}
		mask := mask6(length)
		l := &c.Levels6[c.Count6]
		l.MaskHi, l.MaskLo, l.Length = mask.Hi, mask.Lo, uint32(length)
		c.Count6++
	}
	for length := 32; length >= 0; length-- {
		if s.lengths4[length] == 0 {
			continue
		}
		if int(c.Count4) == maxLengths {
			return &UnsupportedError{fmt.Sprintf("mappings have IPv4 prefixes of over %d lengths", maxLengths)}
		}
		l := &c.Levels4[c.Count4]
		l.Mask, l.Length = ^uint32(0)<<(32-length), uint32(length)
		c.Count4++
	}
	for length, n := range s.ours {
		if n == 0 {
			continue
		}
		l := &c.Ours4[c.CountOurs4]
		l.Mask, l.Length = ^uint32(0)<<(32-length), uint32(length)
		c.CountOurs4++
	}
	return nil
}

// WellKnown is the prefix that stands for no address that is not global (RFC 6052 3.1).
var WellKnown = netip.MustParsePrefix("64:ff9b::/96")

func mask6(length int) mapping.Addr6 {
	return mapping.Addr6{Hi: ^uint64(0) << max(64-length, 0), Lo: ^uint64(0) << min(128-length, 64)}
}

func key6(p netip.Prefix) programKey6 {
	a := mapping.Addr6From(p.Addr())
	return programKey6{Length: uint32(p.Bits()),
		Word: [4]uint32{uint32(a.Hi >> 32), uint32(a.Hi), uint32(a.Lo >> 32), uint32(a.Lo)}}
}

func key4(p netip.Prefix) programKey4 {
	return programKey4{Length: uint32(p.Bits()), V4: mapping.Addr4From(p.Addr())}
}

func encode6(t *Tables, m mapping.Mapping, e *mapping.Entry) (programKey6, programEntry6) {
	entry := programEntry6{
		V4: mapping.Addr4From(m.IPv4.Addr()), Slot: e.Slot(),
		Length4: uint8(m.IPv4.Bits()), Policy: e.Policy(),
	}
	if t.Interface != nil {
		entry.Ifindex = uint32(t.Interface(m))
	}
	if e.Shared() {
		run := e.EchoRange()
		entry.Flags, entry.First, entry.Last = flagShared, run.First, run.Last
		entry.IdBase, entry.IdMask = e.IdentificationRange()
		entry.Client = uint8(bits.TrailingZeros(uint(e.ClientPorts())))
	}
	if e.Inside() {
		entry.Flags |= flagInside
	}
	if m.Ports.Len() > 1 {
		entry.Flags |= flagHoles
		for k := range portKeys(m) {
			entry.Sizes |= 1 << k.Size
		}
	}
	return key6(m.IPv6), entry
}

func encode4(m mapping.Mapping, e *mapping.Entry) programEntry4 {
	a := mapping.Addr6From(m.IPv6.Addr())
	entry := programEntry4{Hi: a.Hi, Lo: a.Lo, Slot: e.Slot(), Length6: uint32(m.IPv6.Bits()), Policy: e.Policy()}
	if m.Inside {
		entry.Flags = flagInside4
	}
	return entry
}

// encodePort is the owner of a block of ports, all of which are client ports or none.
func encodePort(m mapping.Mapping, e *mapping.Entry, k programKeyPort) programEntry4 {
	entry := encode4(m, e)
	if e.Client(k.Base) && e.Client(k.Base|uint16(1<<k.Size-1)) {
		entry.Flags |= flagClient4
	}
	return entry
}

// portKeys cuts the ports of m into aligned blocks of powers of two.
func portKeys(m mapping.Mapping) func(func(programKeyPort) bool) {
	return func(yield func(programKeyPort) bool) {
		for r := range m.Ports.Runs() {
			for first, end := int(r.First), int(r.Last)+1; first < end; {
				size := min(bits.TrailingZeros32(uint32(first)|1<<16), bits.Len32(uint32(end-first))-1)
				if !yield(programKeyPort{V4: mapping.Addr4From(m.IPv4.Addr()), Base: uint16(first), Size: uint16(size)}) {
					return
				}
				first += 1 << size
			}
		}
	}
}
