package attach

import (
	"errors"
	"fmt"
	"sync"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchedGroups tell of all that decides where packets come in.
var watchedGroups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
	unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_TC,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// Groups of other families: rules of nftables, and policies of IPsec.
const (
	nftablesGroup   = 7 // NFNLGRP_NFTABLES
	xfrmPolicyGroup = 4 // XFRMNLGRP_POLICY
)

// watcher calls a function whenever the kernel says that something has changed.
type watcher struct {
	conns []*mdl.Conn
	done  sync.WaitGroup
}

func watch(changed func()) (*watcher, error) {
	w := &watcher{}
	for _, of := range []struct {
		family   int
		groups   []uint32
		optional bool
	}{
		{unix.NETLINK_ROUTE, watchedGroups, false},
		{unix.NETLINK_NETFILTER, []uint32{nftablesGroup}, true},
		{unix.NETLINK_XFRM, []uint32{xfrmPolicyGroup}, true},
	} {
		err := w.join(of.family, of.groups, changed)
		if err != nil && !of.optional {
			w.close()
			return nil, fmt.Errorf("watch the host: %w", err)
		}
	}
	return w, nil
}

func (w *watcher) join(family int, groups []uint32, changed func()) error {
	conn, err := mdl.Dial(family, nil)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := conn.JoinGroup(g); err != nil {
			conn.Close()
			return fmt.Errorf("netlink group %d: %w", g, err)
		}
	}
	w.conns = append(w.conns, conn)
	w.done.Go(func() {
		for {
			_, err := conn.Receive()
			switch {
			case err == nil, errors.Is(err, unix.ENOBUFS): // some were dropped: any may concern us
				changed()
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			default:
				return // closed
			}
		}
	})
	return nil
}

func (w *watcher) close() {
	for _, c := range w.conns {
		c.Close()
	}
	w.done.Wait()
}
