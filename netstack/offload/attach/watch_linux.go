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
	unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// watcher calls changed for each burst of changes until it is closed.
type watcher struct {
	conn *mdl.Conn
	done sync.WaitGroup
}

func watch(changed func()) (*watcher, error) {
	conn, err := mdl.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	for _, g := range watchedGroups {
		if err := conn.JoinGroup(g); err != nil {
			conn.Close()
			return nil, fmt.Errorf("watch interfaces: netlink group %d: %w", g, err)
		}
	}
	w := &watcher{conn: conn}
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
	return w, nil
}

func (w *watcher) close() {
	w.conn.Close()
	w.done.Wait()
}
