//go:build linux

// Package nftsocket is a lasting connection to nftables that an error does not put
// out of step. What is said by it is its users'.
//
// The kernel answers every message of a transaction. Where the answers do not fit
// into the socket, or one of them is an error that ends the reading, some stay
// there, and everybody who asks later would take them for his own: so they are
// thrown away. Where it cannot even make the answers it gives one for all, and who
// waits for the rest would wait for ever, with the locks that he holds.
package nftsocket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

const (
	// sendBytes is the room for one transaction, receiveBytes that for the answers:
	// each takes nearly a KiB, and one that is an error repeats what it is about.
	sendBytes    = 32 << 20
	receiveBytes = 4 << 20
	// patience is for a transaction and its answers, which are all there when it has
	// been sent.
	patience = time.Minute
	// mostLeft bounds what is thrown away at a time.
	mostLeft = 1 << 16
)

// Conn is a connection in the network namespace of the thread that opened it. All
// that nftables.Conn has may be used; Drain belongs before lists are read.
type Conn struct {
	*nftables.Conn
	netlink *netlink.Conn
}

// Open opens one; it is to be closed.
func Open() (*Conn, error) {
	c := &Conn{}
	var err error
	c.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(n *netlink.Conn) error {
		c.netlink = n
		_ = n.SetWriteBuffer(sendBytes) // as large as it gets: most need little
		_ = n.SetReadBuffer(receiveBytes)
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return c, nil
}

// ID is what notifications of what is changed by it come from.
func (c *Conn) ID() uint32 { return c.netlink.PID() }

// Unchanged has read read what is one state of the rules: nothing of them changed
// meanwhile. read begins anew each time it is called.
func (c *Conn) Unchanged(read func() error) error { return dump.Unchanged(c.generation, read) }

// generation counts the transactions of all.
func (c *Conn) generation() (generation uint32, err error) {
	c.Drain()
	answers, err := c.netlink.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, 4), // struct nfgenmsg
	})
	if err != nil {
		return 0, nil // a kernel without nftables: what is read tells
	}
	for _, a := range answers {
		if len(a.Data) < 4 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(a.Data[4:])
		if err != nil {
			return 0, err
		}
		d.ByteOrder = binary.BigEndian
		for d.Next() {
			if d.Type() == unix.NFTA_GEN_ID {
				generation = d.Uint32()
			}
		}
		if err := d.Err(); err != nil {
			return 0, err
		}
	}
	return generation, nil
}

// Close closes it.
func (c *Conn) Close() error { return c.CloseLasting() }

// Flush makes the transaction, and gives up when the kernel does not answer.
func (c *Conn) Flush() error {
	if err := c.netlink.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	err := c.Conn.Flush()
	if err != nil {
		c.Drain()
	}
	return errors.Join(err, c.netlink.SetReadDeadline(time.Time{}))
}

// Drain throws away answers that nobody waits for any more.
func (c *Conn) Drain() {
	raw, err := c.netlink.SyscallConn()
	if err != nil {
		return // closed
	}
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		for range mostLeft {
			_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				return // there is none
			}
		}
	})
}
