package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchedGroups are rtnetlink's groups (RTNLGRP_*). Proxy neighbours are not
// announced by the kernel in any of them.
var watchedGroups = []uint32{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// scope is what notifications must be about to concern the manager; other
// changes on a busy host must not wake it.
type scope struct {
	names    map[string]bool // links whose state matters
	indexes  map[int32]bool  // interfaces whose forwarding matters
	uplink   string
	link     int32               // its index
	gateways map[netip.Addr]bool // those that are known
}

// netlinkWatcher reads notifications until it is closed.
type netlinkWatcher struct {
	conn     *mdl.Conn // rtnetlink
	nft      *mdl.Conn // nfnetlink; nil where the kernel has none
	done     sync.WaitGroup
	scope    atomic.Pointer[scope]
	overruns atomic.Uint64
	changed  func()
	hops     atomic.Pointer[hops] // which a new gateway makes stale; nil until somebody reads them
	peers    func()               // told when the uplink's peers must be told of it
}

// watch subscribes to changes of links, addresses, routes, rules and sysctls
// in this thread's network namespace.
func watch(changed, peers func()) (*netlinkWatcher, error) {
	conn, err := mdl.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("watch netlink: %w", err)
	}
	_ = conn.SetOption(mdl.ExtendedAcknowledge, true) // better messages; not worth failing for
	for _, g := range watchedGroups {
		if err := conn.JoinGroup(g); err != nil {
			conn.Close()
			return nil, fmt.Errorf("watch netlink group %d: %w", g, err)
		}
	}
	w := &netlinkWatcher{conn: conn, changed: changed, peers: peers}
	w.done.Go(func() { w.loop(conn, (*scope).concerns) })
	if nft, err := mdl.Dial(unix.NETLINK_NETFILTER, nil); err == nil {
		if nft.JoinGroup(unix.NFNLGRP_NFTABLES) == nil {
			w.nft = nft
			w.done.Go(func() { w.loop(nft, (*scope).concernsTable) })
		} else {
			nft.Close()
		}
	}
	return w, nil
}

func (w *netlinkWatcher) close() error {
	err := w.conn.Close()
	if w.nft != nil {
		err = errors.Join(err, w.nft.Close())
	}
	w.done.Wait()
	return err
}

func (w *netlinkWatcher) loop(conn *mdl.Conn, concerns func(*scope, mdl.Message) bool) {
	for {
		msgs, err := conn.Receive()
		switch {
		case err == nil:
			for _, m := range msgs {
				if hops := w.hops.Load(); hops != nil && w.scope.Load().gateway(m) {
					hops.stale.Store(true)
					w.changed()
				}
				if w.scope.Load().notifiesPeers(m) {
					w.peers()
				}
				if concerns(w.scope.Load(), m) {
					w.changed()
					break
				}
			}
		case errors.Is(err, unix.ENOBUFS):
			// The kernel dropped notifications: any of them may have been ours.
			w.overruns.Add(1)
			if hops := w.hops.Load(); hops != nil {
				hops.stale.Store(true)
			}
			w.changed()
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		default:
			return // closed
		}
	}
}

// concerns reports whether a notification may ask for a change. Without a scope
// all do.
func (s *scope) concerns(m mdl.Message) bool {
	if s == nil {
		return true
	}
	d := m.Data
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return len(d) >= unix.SizeofIfInfomsg && s.names[stringAttribute(d[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME)]
	case unix.RTM_DELROUTE: // struct rtmsg: the protocol is the sixth byte
		return len(d) >= unix.SizeofRtMsg && d[5] == Protocol
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR: // struct ifaddrmsg: first the family, last the interface
		return len(d) >= unix.SizeofIfAddrmsg && (d[0] == unix.AF_INET || int32(binary.NativeEndian.Uint32(d[4:8])) == s.link)
	case unix.RTM_NEWNETCONF: // struct netconfmsg is one byte, padded to four
		return len(d) >= 4 && s.netconf(d[4:])
	}
	return false
}

// Events of IFLA_EVENT in linux/if_link.h with which the kernel announces its own
// addresses, in the hope that others do so, too.
const (
	eventBondingFailover = 3
	eventNotifyPeers     = 4
)

// notifiesPeers reports whether a notification is such an event of the uplink.
func (s *scope) notifiesPeers(m mdl.Message) bool {
	if s == nil || s.uplink == "" || m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return false
	}
	attributes := m.Data[unix.SizeofIfInfomsg:]
	if stringAttribute(attributes, unix.IFLA_IFNAME) != s.uplink {
		return false
	}
	ad, err := mdl.NewAttributeDecoder(attributes)
	for err == nil && ad.Next() {
		if ad.Type() == unix.IFLA_EVENT && len(ad.Bytes()) == 4 {
			return ad.Uint32() == eventBondingFailover || ad.Uint32() == eventNotifyPeers
		}
	}
	return false
}

// gateway reports whether a notification is about a next hop that is not known yet,
// or about the last of one perhaps: the default route that goes. Other gateways
// that go are only noticed with the next that comes: a router's routes change
// often, and what is held too long harms nobody.
func (s *scope) gateway(m mdl.Message) bool {
	d := m.Data
	if s == nil || len(d) < unix.SizeofRtMsg || d[0] != unix.AF_INET { // struct rtmsg: family, length of the destination
		return false
	}
	isDefault := d[1] == 0
	switch m.Header.Type {
	case unix.RTM_DELROUTE:
		return isDefault
	case unix.RTM_NEWROUTE:
		ad, err := mdl.NewAttributeDecoder(d[unix.SizeofRtMsg:])
		for err == nil && ad.Next() {
			if a, ok := netip.AddrFromSlice(ad.Bytes()); ok && ad.Type() == unix.RTA_GATEWAY {
				return !s.gateways[a]
			}
		}
		return isDefault
	}
	return false
}

// concernsTable reports whether a message of nfnetlink tells that something of a
// table with our name went. What is new there, we made.
func (s *scope) concernsTable(m mdl.Message) bool {
	const table = unix.NFNL_SUBSYS_NFTABLES << 8
	switch m.Header.Type {
	case table | unix.NFT_MSG_DELTABLE, table | unix.NFT_MSG_DELCHAIN, table | unix.NFT_MSG_DELRULE,
		table | unix.NFT_MSG_DELSET, table | unix.NFT_MSG_DELSETELEM:
		// struct nfgenmsg, then the table's name, attribute 1 in each of them
		return len(m.Data) >= 4 && stringAttribute(m.Data[4:], 1) == nftTableName
	}
	return false
}

const (
	netconfaIfindex = 1 // NETCONFA_IFINDEX of linux/netconf.h
	netconfaAll     = -1
)

func (s *scope) netconf(attributes []byte) bool {
	ad, err := mdl.NewAttributeDecoder(attributes)
	for err == nil && ad.Next() {
		if ad.Type() == netconfaIfindex && len(ad.Bytes()) == 4 {
			index := int32(binary.NativeEndian.Uint32(ad.Bytes()))
			return index == netconfaAll || s.indexes[index]
		}
	}
	return false
}

func stringAttribute(attributes []byte, kind uint16) string {
	ad, err := mdl.NewAttributeDecoder(attributes)
	for err == nil && ad.Next() {
		if ad.Type() == kind {
			return ad.String()
		}
	}
	return ""
}
