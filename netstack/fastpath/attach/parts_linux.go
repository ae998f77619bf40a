package attach

import (
	"cmp"
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath"
)

// What the kernel says of a destination holds for all that have the same routes, in whichever
// table, by gateways, as long as nothing but the destination decides, and of several ways a
// flow's hash: see fastpath.Parts.

// sizeMessage is how long what a route's or a rule's message begins with is (struct rtmsg,
// fib_rule_hdr).
const sizeMessage = 12

const (
	ruleInverted  = 1 << 1 // FIB_RULE_INVERT
	nextHopObject = 30     // RTA_NH_ID
)

// parting is what becomes Parts.
type parting struct {
	routes map[netip.Prefix]*routesTo
	mixed  map[netip.Prefix]bool // where more than the destination decides
}

// routesTo are those to one prefix, in all tables.
type routesTo struct {
	gateway bool
	several bool
	apart   bool               // it has what others have not
	seen    map[[2]uint32]bool // by table and metric
}

// partsOf reads how the host parts destinations. On an error there are none.
func partsOf(conn *mdl.Conn) fastpath.Parts {
	all := fastpath.Parts{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		p := parting{map[netip.Prefix]*routesTo{}, map[netip.Prefix]bool{}}
		if family == unix.AF_INET && forwardsByPathMTU() {
			continue
		}
		if p.read(conn, family, unix.RTM_GETROUTE, p.route) != nil || p.read(conn, family, unix.RTM_GETRULE, p.rule) != nil {
			return nil
		}
		p.into(all)
	}
	return all
}

// forwardsByPathMTU says that what the host has learnt of the path to an address for itself
// holds for what it forwards.
func forwardsByPathMTU() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward_use_pmtu")
	return err != nil || len(b) == 0 || b[0] != '0'
}

func (p *parting) read(conn *mdl.Conn, family uint8, what uint16, each func(header []byte, d *mdl.AttributeDecoder) error) error {
	request := mdl.Message{Header: mdl.Header{Type: mdl.HeaderType(what), Flags: mdl.Request | mdl.Dump}, Data: make([]byte, sizeMessage)}
	request.Data[0] = family
	all, err := dump.Messages(conn, request)
	for _, m := range all {
		if len(m.Data) < sizeMessage || m.Data[0] != family {
			continue
		}
		d, err := mdl.NewAttributeDecoder(m.Data[sizeMessage:])
		if err != nil {
			return err
		}
		if err := each(m.Data[:sizeMessage], d); err != nil {
			return err
		}
	}
	return err
}

// route takes a route: family, lengths of destination and source, TOS, table, …, type, flags.
func (p *parting) route(h []byte, d *mdl.AttributeDecoder) error {
	var to []byte
	var key [2]uint32
	gateway, several, mixed := false, false, h[2] != 0 || h[3] != 0
	object := false
	key[0] = uint32(h[4])
	for d.Next() {
		switch d.Type() {
		case unix.RTA_DST:
			to = d.Bytes()
		case unix.RTA_TABLE:
			key[0] = d.Uint32()
		case unix.RTA_PRIORITY:
			key[1] = d.Uint32()
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			gateway = true
		case unix.RTA_MULTIPATH:
			several = true
		case nextHopObject:
			object = true // of which the kernel need not say what it is
		}
	}
	at, err := destination(h[0], to, h[1])
	if err != nil {
		return errors.Join(err, d.Err())
	}
	r := p.routes[at]
	if r == nil {
		r = &routesTo{seen: map[[2]uint32]bool{}}
		p.routes[at] = r
	}
	if binary.NativeEndian.Uint32(h[8:])&unix.RTM_F_CLONED != 0 { // an exception
		r.apart = r.apart || h[0] == unix.AF_INET
		return d.Err()
	}
	r.gateway = r.gateway || (gateway || several) && h[7] == unix.RTN_UNICAST
	r.several = r.several || several
	if mixed || object && !gateway && !several || r.seen[key] {
		p.mixed[at] = true
	}
	r.seen[key] = true
	return d.Err()
}

// rule takes a rule: family, lengths of destination and source, TOS, …, flags.
func (p *parting) rule(h []byte, d *mdl.AttributeDecoder) error {
	var to []byte
	more := h[2] != 0 || h[3] != 0
	for d.Next() {
		switch d.Type() {
		case unix.FRA_DST:
			to = d.Bytes()
		case unix.FRA_UNSPEC, unix.FRA_PAD, unix.FRA_TABLE, unix.FRA_PRIORITY, unix.FRA_PROTOCOL, unix.FRA_GOTO,
			unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
		default: // it asks for more, or for what is not known here
			more = true
		}
	}
	at, err := destination(h[0], to, h[1])
	if err != nil {
		return errors.Join(err, d.Err())
	}
	if binary.NativeEndian.Uint32(h[8:])&ruleInverted != 0 {
		more, at = true, netip.PrefixFrom(at.Addr(), 0).Masked()
	}
	if more {
		p.mixed[at] = true
	} else if p.routes[at] == nil {
		p.routes[at] = &routesTo{} // who is in it meets a rule more
	}
	return d.Err()
}

// destination is a prefix of a family; without an address, all of it.
func destination(family byte, b []byte, length byte) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(b)
	switch {
	case ok:
	case family == unix.AF_INET:
		a = netip.IPv4Unspecified()
	default:
		a = netip.IPv6Unspecified()
	}
	return a.Prefix(int(length))
}

// into adds the parts of a family, if they are not too many: those that are led alike, and
// what is in them and is not.
func (p *parting) into(all fastpath.Parts) {
	for m := range p.mixed {
		if p.routes[m] == nil {
			p.routes[m] = &routesTo{}
		}
	}
	order := slices.SortedFunc(maps.Keys(p.routes), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	type above struct {
		prefix         netip.Prefix
		mixed, several bool
		led            fastpath.Led
	}
	var within []above // what the prefix at hand is in, the shortest first
	parts, classes := fastpath.Parts{}, 0
	for _, at := range order {
		for len(within) > 0 && !within[len(within)-1].prefix.Contains(at.Addr()) {
			within = within[:len(within)-1]
		}
		var in above
		if len(within) > 0 {
			in = within[len(within)-1]
		}
		r := p.routes[at]
		now := above{at, in.mixed || p.mixed[at], in.several || r.several, fastpath.Apart}
		switch {
		case !r.gateway || r.apart || now.mixed:
		case now.several:
			now.led = fastpath.Several
		default:
			now.led = fastpath.Alike
		}
		if now.led != fastpath.Apart {
			classes++
		}
		if now.led != fastpath.Apart || in.led != fastpath.Apart {
			parts[at] = now.led
		}
		within = append(within, now)
	}
	if len(parts) <= fastpath.MaxParts && classes <= fastpath.MaxClasses/2 {
		maps.Copy(all, parts)
	}
}
