// Package tun is the TUN device, and the TAP: opening it, virtio-net headers and offloads,
// queues that read and write packets in place, and the cutting of superpackets
// where the kernel takes none. What a packet means, and addresses, routes and
// the MTU of the device, may not enter here.
package tun

import (
	"errors"
	"fmt"

	"github.com/natless/natless/translator"
)

// LinkLen is the size of an Ethernet header.
const LinkLen = 14

// bufferSize holds the longest superpacket with room for the translator before
// and behind it.
const bufferSize = translator.Headroom + 1<<16 + translator.Tailroom

// Errors that callers decide by.
var (
	// ErrStopped is what Read answers after Stop.
	ErrStopped = errors.New("queue stopped")
	// ErrGone says that somebody deleted the device; Open makes a new one.
	ErrGone = errors.New("device was deleted")
	// ErrBusy says that another process holds the device.
	ErrBusy = errors.New("device is in use")
)

// MissingError says that the machine lacks something a device needs, and what
// to do about it.
type MissingError struct {
	What   string // "CAP_NET_ADMIN", "/dev/net/tun", "IPv6"
	Remedy string
	Err    error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is missing (%v): %s", e.What, e.Err, e.Remedy)
}

func (e *MissingError) Unwrap() error { return e.Err }

// Queue is one queue of a device, which packets come from and go to in batches.
// All methods but Counters belong to the one goroutine that owns the queue, which
// must be locked to its thread from the first Read on.
//
// Shape: a packet is IP from Start to End, ordinary or a superpacket, as its Offload
// says. In front of Start a TAP has the Ethernet header: Read gives it, Write wants it
// there, and no offset counts it. Its buffer is the queue's own. A packet that
// Read or Buffer gives has translator.Headroom before Start and room for the
// longest packet and translator.Tailroom behind that. One that Write gets needs 10
// bytes before Start, or before the Ethernet header, for the virtio-net header, which
// is put there.
//
// Ownership: what Read and Buffer give belongs to the caller until Write, and every
// packet goes back by Write, once, in any order and in any batch. The slice that
// Read gives is the queue's, until the next Read; the one that Write gets is the
// caller's again when Write returns.
//
// Errors: with an error, Read gives no packets, and the owner reads no more; what it
// still has it may write. A packet that cannot be written is counted, for a router
// has nobody to tell.
type Queue interface {
	// Read waits for at least one packet and gives those that are there. A batch
	// has one packet where each costs a system call of its own, so that one buffer
	// is always in the cache. fresh says that time has passed: the queue waited, or
	// gave a bounded number of packets since it last said so. The error is
	// ErrStopped, ErrGone or one that names the device.
	Read() (packets []*translator.Packet, fresh bool, err error)

	// Write gives packets to the kernel in their order, at the latest with the next
	// Read, and takes all of them back. One that is empty (Start is End) is only
	// taken back. What the kernel refuses with EINVAL is written again, segmented
	// and with complete checksums.
	Write(packets []*translator.Packet)

	// Buffer is one more packet, empty, with Start and End at translator.Headroom.
	Buffer() *translator.Packet

	// Counters may be read at any time by anyone.
	Counters() *Counters
}

// Buffers keeps packets and hands out the one used last, whose bytes are likeliest
// to be in the cache. The zero value is ready.
type Buffers struct{ free []*translator.Packet }

// Buffer is an empty packet with room for the longest one.
func (b *Buffers) Buffer() *translator.Packet {
	if len(b.free) == 0 {
		return &translator.Packet{Buf: make([]byte, bufferSize), Start: translator.Headroom, End: translator.Headroom}
	}
	p := b.free[len(b.free)-1]
	b.free = b.free[:len(b.free)-1]
	return p
}

// Release takes back a packet of Buffer.
func (b *Buffers) Release(p *translator.Packet) {
	p.Start, p.End, p.Offload = translator.Headroom, translator.Headroom, translator.Offload{}
	b.free = append(b.free, p)
}
