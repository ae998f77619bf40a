package guard

import (
	"errors"
	"fmt"
	"sync"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchedGroups tell of all that decides where workloads are.
var watchedGroups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
}

// watcher calls back for each burst of changes until it is closed.
type watcher struct {
	conns []*mdl.Conn
	done  sync.WaitGroup
}

// watch tells of changes of the host, and of what others removed from our tables;
// own is where what we remove ourselves comes from.
func watch(own uint32, changed, removed func()) (*watcher, error) {
	w := &watcher{}
	all := func(mdl.Message) bool { return true }
	if err := w.listen(unix.NETLINK_ROUTE, watchedGroups, all, changed); err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	// A kernel without it fails when the tables are made.
	_ = w.listen(unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES}, func(m mdl.Message) bool { return m.Header.PID != own && ours(m) }, removed)
	return w, nil
}

func (w *watcher) listen(family int, groups []uint32, concerns func(mdl.Message) bool, tell func()) error {
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
			msgs, err := conn.Receive()
			switch {
			case errors.Is(err, unix.ENOBUFS): // some were dropped: any may concern us
				tell()
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			case err != nil:
				return // closed
			}
			for _, m := range msgs {
				if concerns(m) {
					tell()
					break
				}
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

// ours says whether a message of nfnetlink tells that something of a table with
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
