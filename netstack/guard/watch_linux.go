package guard

import (
	"fmt"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/notices"
	"github.com/natless/natless/netstack/internal/routes"
)

// watchedGroups tell of all that decides where workloads are. With an interface go its
// IPv4 routes, of which the kernel says nothing then.
var (
	linkGroups  = []uint32{unix.RTNLGRP_LINK}
	route4Group = []uint32{unix.RTNLGRP_IPV4_ROUTE}
	otherGroups = []uint32{unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE}
)

// watch tells of changes of the host, of those that IPv4's default routes may go with, and
// of what others removed from our tables; own is where what we remove ourselves comes from.
// All other IPv4 routes, of which a router may have a million that change all the time, are
// of no interest.
func watch(own uint32, changed, outward, removed func()) (*notices.Listener, error) {
	l := &notices.Listener{}
	for _, of := range []struct {
		groups   []uint32
		concerns func(mdl.Message) bool
		tell     func()
	}{{otherGroups, nil, changed}, {linkGroups, nil, outward}, {route4Group, ofDefault, outward}} {
		if err := l.Listen(unix.NETLINK_ROUTE, of.groups, of.concerns, of.tell); err != nil {
			l.Close()
			return nil, fmt.Errorf("watch interfaces: %w", err)
		}
	}
	// A kernel without it fails when the tables are made.
	_ = l.Listen(unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES},
		func(m mdl.Message) bool { return m.Header.PID != own && ours(m) }, removed)
	return l, nil
}

func ofDefault(m mdl.Message) bool {
	r, ok := routes.Of(m)
	return !ok || r.Destination.Bits() == 0
}

// ours reports whether a message of nfnetlink tells that something of a table with
// our name went.
func ours(m mdl.Message) bool {
	const table = unix.NFNL_SUBSYS_NFTABLES << 8
	switch m.Header.Type {
	case table | unix.NFT_MSG_DELTABLE, table | unix.NFT_MSG_DELCHAIN, table | unix.NFT_MSG_DELRULE,
		table | unix.NFT_MSG_DELSET, table | unix.NFT_MSG_DELSETELEM:
	default:
		return false
	}
	if len(m.Data) < 4 { // struct nfgenmsg
		return false
	}
	ad, err := mdl.NewAttributeDecoder(m.Data[4:])
	for err == nil && ad.Next() {
		if ad.Type() == 1 { // the table's name, in each of them
			return ad.String() == tableName
		}
	}
	return false
}
