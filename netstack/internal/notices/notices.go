//go:build linux

// Package notices tells of netlink's notifications: that something has changed,
// not what. What is to be done about it may not enter here.
package notices

import (
	"errors"
	"fmt"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Listener calls back for each burst of changes until it is closed. The zero
// Listener hears nothing yet.
type Listener struct {
	conns []*netlink.Conn
	done  sync.WaitGroup
}

// Listen joins multicast groups of a netlink family (NETLINK_ROUTE, …) in this
// thread's network namespace. tell is called, from one goroutine for each call of
// Listen, when a message concerns the caller, or when some were dropped, of which
// any may. A nil concerns is for all messages.
func (l *Listener) Listen(family int, groups []uint32, concerns func(netlink.Message) bool, tell func()) error {
	conn, err := netlink.Dial(family, nil)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := conn.JoinGroup(g); err != nil {
			conn.Close()
			return fmt.Errorf("netlink group %d: %w", g, err)
		}
	}
	l.conns = append(l.conns, conn)
	l.done.Go(func() {
		for receive(conn, concerns, tell) {
		}
	})
	return nil
}

// receive hears of one burst, and reports whether there can be another.
func receive(conn *netlink.Conn, concerns func(netlink.Message) bool, tell func()) bool {
	msgs, err := conn.Receive()
	switch {
	case errors.Is(err, unix.ENOBUFS): // some were dropped
		tell()
		return true
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return true
	case err != nil:
		return false // closed
	case concerns == nil:
		tell()
		return true
	}
	for _, m := range msgs {
		if concerns(m) {
			tell()
			break
		}
	}
	return true
}

// Close ends it; no callback is under way when it returns.
func (l *Listener) Close() {
	for _, c := range l.conns {
		c.Close()
	}
	l.done.Wait()
}
