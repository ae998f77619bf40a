package attach

import (
	"fmt"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/notices"
	"github.com/natless/natless/netstack/internal/routes"
)

// watchedGroups tell of all that decides where packets come in, but for IPv4 routes.
var watchedGroups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_TC,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NEXTHOP,
}

// xfrmPolicyGroup tells of policies of IPsec.
const xfrmPolicyGroup = 4 // XFRMNLGRP_POLICY

// watch calls a function whenever the kernel says that something has changed. IPv4 routes,
// of which a router may have a million that change all the time, must concern somebody.
func watch(concerns func(routes.Route) bool, changed func()) (*notices.Listener, error) {
	l := &notices.Listener{}
	ofRoute := func(m mdl.Message) bool {
		r, ok := routes.Of(m)
		return !ok || concerns(r)
	}
	for _, of := range []struct {
		family   int
		groups   []uint32
		concerns func(mdl.Message) bool
		optional bool
	}{
		{unix.NETLINK_ROUTE, watchedGroups, nil, false},
		{unix.NETLINK_ROUTE, []uint32{unix.RTNLGRP_IPV4_ROUTE}, ofRoute, false},
		{unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES}, nil, true},
		{unix.NETLINK_XFRM, []uint32{xfrmPolicyGroup}, nil, true},
	} {
		if err := l.Listen(of.family, of.groups, of.concerns, changed); err != nil && !of.optional {
			l.Close()
			return nil, fmt.Errorf("watch the host: %w", err)
		}
	}
	return l, nil
}
