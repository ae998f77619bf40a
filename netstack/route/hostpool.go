package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator/ports"
)

// How the host shares its own IPv4 address with workloads.
//
// The kernel looks into its local table first, and there the host's address
// ends every search. So policy rules stand before that table: what comes to
// the address and one of the pool's ports is looked up in a table of ours,
// which leads to the device. When that table is empty, because the device went
// with a killed daemon, the search goes on as if nothing were there.
//
// The kernel's rule for its local table has priority 0, and nothing is less.
// Rules of one priority stand in the order in which they came, so ours have
// priority 0 too, and the kernel's is made anew behind them, the same to the
// bit, before the one in front goes. So the host's own addresses never hang on
// a rule of ours: who takes away what is marked as ours (systemd-networkd does
// so with all that is not "proto kernel"), while the daemon lives or when it is
// dead, leaves what the kernel began with; "ip rule flush" takes no rule of
// priority 0. Nothing has to be put back at the end.
//
// What that costs: to a rule that somebody adds without a priority the kernel
// gives the second rule's less one (fib_default_rule_pref), which is 0 as long as
// any stands before the local table's. Such rules come behind the local table,
// where they belong, but in the order in which they are added instead of the
// opposite, which wg-quick counts on. That is said in the log.
//
// What has no port in the place where policy rules look is copied to the
// device in nftables, and the host keeps the original: echo replies, ICMP
// errors, fragments. Nobody has to decide whose it is. The host drops silently
// the echo replies and errors that it has no socket for, and the translator
// those that belong to no workload. So the host's own pings live, whatever
// their identifiers, and nothing is remembered. Echo requests stay the host's:
// it answers them.
//
// Fragments that the host reassembles all the same end in the guard, which
// drops what is for the pool's ports: the kernel would answer with "port
// unreachable" or a reset. For the same reason the guard keeps the workloads'
// connections alive while the daemon is restarted.
const (
	// HostPoolTable is the routing table with the route to the device.
	HostPoolTable = 110
	// The priority of our policy rules, which is that of the kernel's own rule
	// for the local table.
	divertPriority = 0
	// These mark packets with the host's address from the device while the
	// kernel checks their source, to others and to the host itself. Only where
	// rp_filter is on for all.
	forwardMark = 0x6e61746c
	selfMark    = 0x6e61746d
)

// HostPool is the host's own IPv4 address, shared. An invalid Addr is none.
type HostPool struct {
	Addr  netip.Addr
	Ports ports.Set // those of the workloads
	// Stays: it is no pool any more, but workloads have ports of the address; they
	// do not follow when the uplink has another.
	Stays bool
}

func (h HostPool) validate() error {
	if !h.Addr.IsValid() {
		return nil
	}
	var errs []error
	if !h.Addr.Is4() || h.Ports.IsZero() {
		errs = append(errs, fmt.Errorf("host pool %v: needs an IPv4 address and ports", h.Addr))
	}
	if h.Ports.Contains(0) {
		errs = append(errs, fmt.Errorf("host pool %v: ports %v: must be 1 to 65535", h.Addr, h.Ports))
	}
	return errors.Join(errs...)
}

// lastPort cannot be named in a policy rule (fib_rule_port_range_valid in
// linux/fib_rules.h refuses it), so what is for it is copied like a fragment.
const (
	lastPort     = 65535
	copyLastPort = "copy port 65535"
)

// portProtocols have ports where TCP has them.
var portProtocols = []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE}

const protocolSet = "protocols" // portProtocols in nftables

func protocols() nftSet {
	s := nftSet{Set: nftables.Set{Name: protocolSet, KeyType: nftables.TypeInetProto}}
	for _, p := range portProtocols {
		s.elements = append(s.elements, nftables.SetElement{Key: []byte{p}})
	}
	return s
}

var protocolNames = map[byte]string{
	unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp",
	unix.IPPROTO_DCCP: "dccp", unix.IPPROTO_UDPLITE: "udplite",
}

// rule is a policy rule (IPv4) of ours.
type rule struct {
	priority int
	to       netip.Addr  // invalid: any
	proto    byte        // 0: any
	ports    ports.Range // zero: any
	mark     uint32      // 0: any
	iif      string      // "": any
	table    int
}

func (r rule) String() string {
	s := fmt.Sprintf("rule %d", r.priority)
	if r.to.IsValid() {
		s += " to " + r.to.String()
	}
	if r.iif != "" {
		s += " iif " + r.iif
	}
	if r.mark != 0 {
		s += fmt.Sprintf(" fwmark %#x", r.mark)
	}
	if r.proto != 0 {
		s += fmt.Sprintf(" %s dport %v", protocolNames[r.proto], r.ports)
	}
	return fmt.Sprintf("%s lookup %d", s, r.table)
}

func (rule) rank() int { return 6 }

// kernelLocalRule is that something looks up the local table. Made, it is the
// rule that every kernel starts with: priority 0, all, lookup local. It is
// wanted always, and never removed: without it a host has no IPv4 at all, not
// even 127.0.0.1, and an earlier version of ours might have been the last that
// held it. Where somebody else has moved it, or made it selective, theirs holds.
type kernelLocalRule struct{}

func (kernelLocalRule) String() string { return "rule 0 lookup local" }
func (kernelLocalRule) rank() int      { return 1 }

// localBehind is that the local table's rule of priority 0, and what others have
// behind it there, stand behind all of ours.
type localBehind struct{}

func (localBehind) String() string { return "rule 0 lookup local again, behind ours" }
func (localBehind) rank() int      { return 7 }

// spareRules are rules of others of priority 0 that stand there again further
// behind: those in front go.
type spareRules struct{}

func (spareRules) String() string { return "rules of priority 0 that stand there again" }
func (spareRules) rank() int      { return 8 }

// wantHostPool adds the objects that share the host's address.
func wantHostPool(s state, d Desired, f facts) {
	h := d.HostPool
	s.add(kernelLocalRule{})
	if !h.Addr.IsValid() {
		return
	}
	s.add(route{dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), table: HostPoolTable}, localBehind{})
	for _, r := range divertRules(h.Addr, h.Ports) {
		s.add(r)
	}
	if f.rpFilter {
		// The check looks up the way back with the interface to which the packet
		// goes as where it comes from: lo when it is for the host. The packet's
		// own lookup comes from the device, and must not match.
		s.add(rule{priority: divertPriority, to: h.Addr, mark: forwardMark, table: HostPoolTable},
			rule{priority: divertPriority, to: h.Addr, mark: selfMark, iif: "lo", table: HostPoolTable})
	}
}

// divertRules lead what is for ports to the device.
func divertRules(a netip.Addr, set ports.Set) (rules []rule) {
	for r := range set.Subtract(ports.Of(ports.Single(lastPort))).Runs() {
		for _, proto := range portProtocols {
			rules = append(rules, rule{priority: divertPriority, to: a, proto: proto, ports: r, table: HostPoolTable})
		}
	}
	return rules
}

// requeue says what must be done about the order of rules of priority 0: one of
// ours that comes is behind all others at first.
func requeue(have, want state) {
	if !want[localBehind{}] {
		return
	}
	for o := range want {
		if _, isRule := o.(rule); isRule && !have[o] {
			delete(have, localBehind{})
		}
	}
	if !have[localBehind{}] {
		have.add(spareRules{}) // as soon as there is another behind
	}
}

const (
	copyChain  = "copy"
	guardChain = "guard"
	markChain  = "mark"
	unmarkIn   = "unmark-input"
	unmarkFwd  = "unmark-forward"
)

// hostPoolDef is the table ip natless, see the top of this file.
func hostPoolDef(d Desired, f facts) nftDef {
	filter := func(name string, hook *nftables.ChainHook, priority int) nftables.Chain {
		p := nftables.ChainPriority(priority)
		return nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &p}
	}
	def := nftDef{family: nftables.TableFamilyIPv4, sets: []nftSet{protocols()}, chains: []nftables.Chain{
		// Before connection tracking, which a copy must not meet twice.
		filter(copyChain, nftables.ChainHookPrerouting, -301),
		filter(guardChain, nftables.ChainHookInput, -301),
	}}
	copyRules(&def, d, f)
	guardRules(&def, d.HostPool)
	if f.rpFilter {
		def.chains = append(def.chains,
			filter(markChain, nftables.ChainHookPrerouting, -140), // behind everybody's mangle
			filter(unmarkFwd, nftables.ChainHookForward, -301),
			filter(unmarkIn, nftables.ChainHookInput, -301))
		markRules(&def, d.HostPool, f)
	}
	return def
}

// Offsets in the IPv4 header (RFC 791 3.1) and, behind an ICMP header of eight
// bytes, in the packet that an ICMP error quotes. What workloads send has no
// IPv4 options, so the quoted header has 20 bytes.
const (
	offFragment, offProtocol, offSource, offDestination = 6, 9, 12, 16

	icmpType, icmpID     = 0, 4
	quoted               = 8
	quotedTransport      = quoted + 20
	icmpEchoReply        = 0
	icmpEcho             = 8
	quotedVersionAndSize = 0x45
)

// icmpErrors are the types that translate: unreachable, time exceeded,
// parameter problem (RFC 792).
var icmpErrors = []byte{3, 11, 12}

func network(offset, length uint32) []expr.Any {
	return load(expr.PayloadBaseNetworkHeader, offset, length)
}

func transport(offset, length uint32) []expr.Any {
	return load(expr.PayloadBaseTransportHeader, offset, length)
}

func copyRules(def *nftDef, d Desired, f facts) {
	h := d.HostPool
	host := h.Addr.AsSlice()
	device := binary.NativeEndian.AppendUint32(nil, uint32(f.device))
	const c = copyChain
	def.add(c, "not what the translator sends", meta(expr.MetaKeyIIF), is(device...), verdict(expr.VerdictReturn))
	def.add(c, fmt.Sprintf("not what is not for %v", h.Addr), network(offDestination, 4), isNot(host...), verdict(expr.VerdictReturn))
	// A gateway must be named, and is not used on a device without link layer.
	// RFC 7600 4.8: the IPv4 dummy address stands for none.
	gateway := netip.AddrFrom4([4]byte{192, 0, 0, 8})
	if d.IPv4.IsValid() {
		gateway = d.IPv4
	}
	dup := []expr.Any{
		&expr.Counter{},
		&expr.Immediate{Register: 1, Data: gateway.AsSlice()},
		&expr.Immediate{Register: 2, Data: device},
		&expr.Dup{RegAddr: 1, RegDev: 2, IsRegDevSet: true},
	}
	isICMP := slices.Concat(meta(expr.MetaKeyL4PROTO), is(unix.IPPROTO_ICMP))
	hasPorts := slices.Concat(meta(expr.MetaKeyL4PROTO), oneOf(protocolSet))
	if h.Ports.Contains(lastPort) {
		def.add(c, fmt.Sprintf("%s to device %d", copyLastPort, f.device), hasPorts,
			transport(2, 2), is(be16(lastPort)...), dup, verdict(expr.VerdictReturn))
	}
	def.add(c, "not what has its ports: policy rules take that",
		network(offProtocol, 1), isNot(unix.IPPROTO_ICMP),
		network(offFragment, 2), mask([]byte{0x3f, 0xff}), is(0, 0), verdict(expr.VerdictReturn))
	def.add(c, fmt.Sprintf("copy later fragments to device %d", f.device), hasPorts,
		network(offFragment, 2), mask([]byte{0x1f, 0xff}), isNot(0, 0), dup)
	// Of long echo replies to a workload that has the address inside.
	def.add(c, fmt.Sprintf("copy later fragments of icmp to device %d", f.device), isICMP,
		network(offFragment, 2), mask([]byte{0x1f, 0xff}), isNot(0, 0), dup)
	for p := range h.Ports.Runs() {
		def.add(c, fmt.Sprintf("copy first fragments to ports %v to device %d", p, f.device), hasPorts,
			transport(2, 2), within(p), dup)
		def.add(c, fmt.Sprintf("copy echo replies with identifiers %v to device %d", p, f.device), isICMP,
			transport(icmpType, 1), is(icmpEchoReply), transport(icmpID, 2), within(p), dup)
		for _, t := range icmpErrors {
			errorAbout := slices.Concat(isICMP, transport(icmpType, 1), is(t),
				transport(quoted, 1), is(quotedVersionAndSize),
				transport(quoted+offSource, 4), is(host...))
			def.add(c, fmt.Sprintf("copy icmp errors %d about ports %v to device %d", t, p, f.device), errorAbout,
				transport(quoted+offProtocol, 1), oneOf(protocolSet), transport(quotedTransport, 2), within(p), dup)
			def.add(c, fmt.Sprintf("copy icmp errors %d about echo identifiers %v to device %d", t, p, f.device), errorAbout,
				transport(quoted+offProtocol, 1), is(unix.IPPROTO_ICMP),
				transport(quotedTransport, 1), is(icmpEcho), transport(quotedTransport+icmpID, 2), within(p), dup)
		}
	}
}

func guardRules(def *nftDef, h HostPool) {
	for p := range h.Ports.Runs() {
		def.add(guardChain, fmt.Sprintf("drop to %v ports %v: not the host's", h.Addr, p),
			network(offDestination, 4), is(h.Addr.AsSlice()...),
			meta(expr.MetaKeyL4PROTO), oneOf(protocolSet), transport(2, 2), within(p),
			counted(expr.VerdictDrop))
	}
}

// markRules let a policy rule confirm to rp_filter that the host's address may
// come from the device; the mark goes right after.
func markRules(def *nftDef, h HostPool, f facts) {
	device := binary.NativeEndian.AppendUint32(nil, uint32(f.device))
	from := slices.Concat(meta(expr.MetaKeyIIF), is(device...), network(offSource, 4), is(h.Addr.AsSlice()...))
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	setMark := func(v uint32) []expr.Any {
		return []expr.Any{&expr.Immediate{Register: 1, Data: u32(v)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
	}
	def.add(markChain, fmt.Sprintf("mark %v from device %d to itself for rp_filter", h.Addr, f.device),
		from, network(offDestination, 4), is(h.Addr.AsSlice()...), setMark(selfMark), verdict(expr.VerdictReturn))
	def.add(markChain, fmt.Sprintf("mark %v from device %d for rp_filter", h.Addr, f.device),
		from, setMark(forwardMark))
	def.add(unmarkFwd, "forget the mark for rp_filter", meta(expr.MetaKeyMARK), is(u32(forwardMark)...), setMark(0))
	def.add(unmarkIn, "forget the mark for rp_filter", meta(expr.MetaKeyMARK), is(u32(selfMark)...), setMark(0))
}
