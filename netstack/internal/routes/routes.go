//go:build linux

// Package routes reads the kernel's routes one by one: a router may have a million. What
// they are looked at for may not enter here.
package routes

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// Route is one as a message tells of it.
type Route struct {
	Destination netip.Prefix
	Table       uint32
	Unicast     bool
	links       [8]int
	count       int // of them; more are too many
}

// Links are the interfaces that it leads by. There are none where it leads nowhere, by too
// many to tell, or where the kernel says only which object has its next hops.
func (r *Route) Links() []int {
	if r.count > len(r.links) {
		return nil
	}
	return r.links[:r.count]
}

const (
	sizeRoute = 12 // of struct rtmsg, and where its flags are
	flagsAt   = 8
)

// Of reads a message of RTM_NEWROUTE or RTM_DELROUTE; of others, of what the kernel
// remembers of a route (RTM_F_CLONED), and of what it cannot read, it gives false.
func Of(m netlink.Message) (r Route, ok bool) {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return r, false
	}
	return r, r.read(m.Data)
}

// read reads struct rtmsg and its attributes: family, length of the destination, …, table, …,
// type, flags.
func (r *Route) read(b []byte) bool {
	if len(b) < sizeRoute || binary.NativeEndian.Uint32(b[flagsAt:])&unix.RTM_F_CLONED != 0 {
		return false
	}
	to := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	} else if b[0] != unix.AF_INET {
		return false
	}
	*r = Route{Table: uint32(b[4]), Unicast: b[7] == unix.RTN_UNICAST}
	ok := each(b[sizeRoute:], unix.SizeofRtAttr, func(h, value []byte) bool {
		known := true
		switch binary.NativeEndian.Uint16(h[2:]) {
		case unix.RTA_DST:
			to, known = netip.AddrFromSlice(value)
		case unix.RTA_TABLE:
			if known = len(value) == 4; known {
				r.Table = binary.NativeEndian.Uint32(value)
			}
		case unix.RTA_OIF:
			if known = len(value) == 4; known {
				r.by(binary.NativeEndian.Uint32(value))
			}
		case unix.RTA_MULTIPATH: // struct rtnexthop each
			known = each(value, unix.SizeofRtNexthop, func(h, _ []byte) bool {
				r.by(binary.NativeEndian.Uint32(h[4:]))
				return true
			})
		}
		return known
	})
	var err error
	r.Destination, err = to.Prefix(int(b[1]))
	return ok && err == nil
}

func (r *Route) by(link uint32) {
	if r.count < len(r.links) {
		r.links[r.count] = int(link)
	}
	r.count++
}

// each takes b apart, in which what begins with a header that begins with its length stands
// one behind another.
func each(b []byte, header int, take func(h, value []byte) bool) bool {
	for len(b) >= header {
		length := int(binary.NativeEndian.Uint16(b))
		if length < header || length > len(b) || !take(b[:header], b[header:length]) {
			return false
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return true
}

// List lists routes. It belongs to one goroutine.
type List struct {
	socket *nl.NetlinkSocket
}

// sequence tells answers to who asked before from those that are asked for.
var sequence atomic.Uint32

// NewList makes one for this thread's network namespace.
func NewList() (*List, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := s.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		s.Close()
		return nil, err
	}
	return &List{s}, nil
}

// Close ends it.
func (l *List) Close() { l.socket.Close() }

// Each has see see the routes of a family in all tables, until it says false. Where they
// change meanwhile it begins anew, and begin is called again. What cannot be read is left out.
func (l *List) Each(family uint8, begin func(), see func(*Route) bool) error {
	_, err := dump.Whole(func() ([]struct{}, error) {
		begin()
		request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
		request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Seq: sequence.Add(1), Socket: l.socket}}
		var r Route
		return nil, request.ExecuteIter(unix.NETLINK_ROUTE, syscall.RTM_NEWROUTE, func(b []byte) bool {
			return !r.read(b) || b[0] != family || see(&r)
		})
	})
	return err
}
