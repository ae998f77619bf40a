package attach

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/notices"
)

// watchedGroups tell of all that decides where packets come in.
var watchedGroups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
	unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_TC,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NEXTHOP,
}

// xfrmPolicyGroup tells of policies of IPsec.
const xfrmPolicyGroup = 4 // XFRMNLGRP_POLICY

// watch calls a function whenever the kernel says that something has changed.
func watch(changed func()) (*notices.Listener, error) {
	l := &notices.Listener{}
	for _, of := range []struct {
		family   int
		groups   []uint32
		optional bool
	}{
		{unix.NETLINK_ROUTE, watchedGroups, false},
		{unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES}, true},
		{unix.NETLINK_XFRM, []uint32{xfrmPolicyGroup}, true},
	} {
		if err := l.Listen(of.family, of.groups, nil, changed); err != nil && !of.optional {
			l.Close()
			return nil, fmt.Errorf("watch the host: %w", err)
		}
	}
	return l, nil
}
