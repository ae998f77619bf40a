// Package tun is the TUN device: opening it, virtio-net headers and offloads,
// queues that read and write packets in place, and the cutting of superpackets
// where the kernel takes none. What a packet means, and addresses, routes and
// the MTU of the device, may not enter here.
package tun

import (
	"errors"
	"fmt"

	"github.com/natless/natless/translator"
)

// bufferSize holds the longest superpacket with room for the translator before
// and behind it.
const bufferSize = translator.Headroom + 1<<16 + translator.Tailroom

// Errors that callers decide by.
var (
	// ErrStopped is what Next answers after Stop.
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

// Queue is one queue of a device. All methods but Counters belong to the one
// goroutine that owns the queue, which must be locked to its thread from the
// first Next on. The interface is a pull of single packets and not of batches,
// so that the plain implementation can use one buffer, always in the cache,
// while another has many reads in flight.
type Queue interface {
	// Next waits for a packet. It belongs to the caller until Write or Release.
	// fresh says that a batch begins: the queue waited, or a bounded number of
	// packets passed since the last fresh one. The error is ErrStopped, ErrGone
	// or one that names the device.
	Next() (p *translator.Packet, fresh bool, err error)

	// Buffer is an empty packet (Start and End at translator.Headroom) that
	// belongs to the caller until Write or Release.
	Buffer() *translator.Packet

	// Write gives the packet to the kernel, at the latest with the next Next.
	// What the kernel refuses with EINVAL
	// is written again, segmented and with complete checksums; other errors
	// are counted, for a router has nobody to tell.
	Write(p *translator.Packet)

	// Release takes back a packet that is not to be written.
	Release(p *translator.Packet)

	// Counters may be read at any time by anyone.
	Counters() *Counters
}

// Batcher is a Queue that has read more packets than Next gave.
type Batcher interface {
	// Ready is the packet that Next gave last and those that it will give
	// without waiting. They may be looked at, until the next Next.
	Ready() []*translator.Packet
}

// buffers keeps packets for one queue and hands out the one used last, whose
// bytes are likeliest to be in the cache.
type buffers struct{ free []*translator.Packet }

func (b *buffers) get() *translator.Packet {
	if len(b.free) == 0 {
		return &translator.Packet{Buf: make([]byte, bufferSize), Start: translator.Headroom, End: translator.Headroom}
	}
	p := b.free[len(b.free)-1]
	b.free = b.free[:len(b.free)-1]
	return p
}

func (b *buffers) put(p *translator.Packet) {
	p.Start, p.End, p.Offload = translator.Headroom, translator.Headroom, translator.Offload{}
	b.free = append(b.free, p)
}
