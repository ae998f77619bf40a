//go:build linux

package dataplane_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// wire is a packet socket at a device.
type wire struct {
	t  *testing.T
	fd int
}

func newWire(t *testing.T, ns *netns.NS, device string) *wire {
	t.Helper()
	w := &wire{t: t}
	var err error
	ns.Do(func() {
		var i *net.Interface
		if i, err = net.InterfaceByName(device); err != nil {
			return
		}
		proto := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8)
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return
		}
		err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: i.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(w.fd) })
	timeout := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	return w
}

// incoming is the next frame that came in, and not what we sent ourselves.
func (w *wire) incoming() []byte {
	w.t.Helper()
	b := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		if err != nil {
			w.t.Fatal("nothing comes: ", err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
			return b[:n]
		}
	}
}

// ipv4 is a UDP packet with its Ethernet header, from who has a tag.
func ipv4(tag mapping.Tag, src, dst string, sport, dport uint16, data []byte) []byte {
	b := make([]byte, 14+28, 14+28+len(data))
	tag.Put(b[6:])
	b[12] = 8
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(data)))
	copy(ip[12:], netip.MustParseAddr(src).AsSlice())
	copy(ip[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip[:20], 0))
	binary.BigEndian.PutUint16(ip[20:], sport)
	binary.BigEndian.PutUint16(ip[22:], dport)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(data)))
	return append(b, data...)
}

// TestInside: a workload's IPv4 comes by the TAP and leaves by the host's routes, and
// the answer comes back by the TAP under its name; as do errors of ours about it.
func TestInside(t *testing.T) { eachIO(t, testInside) }

func testInside(t *testing.T, io tun.IO) {
	netns.Require(t, netns.Root, "ip")
	n := newTopology(t, tun.Config{IO: io}, nil)
	inside := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:6::7/128"), IPv4: netip.MustParsePrefix("198.51.100.7/32"), Inside: true}
	err := n.translator.Edit(func(table *mapping.Table) (*mapping.Table, error) { return table.Insert(inside) })
	if err != nil {
		t.Fatal(err)
	}
	tag := n.translator.Table().Get(inside.IPv6).Tag()
	w := newWire(t, n.x, "natless4")
	conn, port := listenUDP(t, n.s4)
	number := netip.MustParseAddrPort("0.0.0.0:" + port).Port()

	frame := ipv4(tag, "198.51.100.7", server4, 4000, number, []byte("hello"))
	if _, err := unix.Write(w.fd, frame); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	got, from, err := conn.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:got]) != "hello" || from.Addr().Unmap().String() != "198.51.100.7" || from.Port() != 4000 {
		t.Fatalf("%q from %v: %v", b[:got], from, err)
	}
	if _, err := conn.WriteToUDPAddrPort([]byte("and back"), from); err != nil {
		t.Fatal(err)
	}
	back := w.incoming()
	if mapping.TagOf(back) != tag || !bytes.HasSuffix(back, []byte("and back")) || back[14+8] != 62 { // the host's hop, and ours
		t.Errorf("% x", back)
	}

	frame[14+8] = 1
	ip := frame[14:34]
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
	if _, err := unix.Write(w.fd, frame); err != nil {
		t.Fatal(err)
	}
	if answer := w.incoming(); mapping.TagOf(answer) != tag || answer[34] != 11 {
		t.Errorf("% x", answer)
	}
	tag.Put(frame[6:])
	copy(frame[14+12:], netip.MustParseAddr("198.51.100.8").AsSlice())
	if _, err := unix.Write(w.fd, frame); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the counters", func() bool {
		s := n.plane.Snapshot()
		s.Add(n.inside.Snapshot())
		v := s.Verdicts[dataplane.Across]
		traffic := n.plane.Traffic(uint32(tag & 0xffffff))
		traffic.Add(n.inside.Traffic(uint32(tag & 0xffffff)))
		return v[translator.Pass4].Packets == 1 && v[translator.Deliver4].Packets == 1 && v[translator.HopLimitExceeded].Packets == 1 &&
			v[translator.BadChecksum].Packets == 1 && s.CrossDropped == 0 &&
			traffic.Sent.Packets == 1 && traffic.Received.Packets == 1
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestPairWaits: neither device is read before both are there: what waits in its queues
// could not be given to the other.
func TestPairWaits(t *testing.T) {
	netns.Require(t, netns.Root, "ip")
	for _, late := range []bool{false, true} { // the TAP is
		ns, tr, hold := netns.New(t, "x"), newTranslator(t), make(chan struct{})
		open := func(waits bool, open func() (*tun.Device, error)) func() (*tun.Device, error) {
			return func() (*tun.Device, error) {
				if waits {
					<-hold
				}
				return open()
			}
		}
		plane := dataplane.New(dataplane.Config{Translator: tr, Open: open(!late, func() (d *tun.Device, err error) {
			ns.Do(func() { d, err = tun.Open(tun.Config{Name: "natless0"}) })
			return d, err
		})})
		inside := dataplane.New(dataplane.Config{Translator: tr, Inside: true, FirstQueue: 1, Open: open(late, func() (*tun.Device, error) {
			return openTAP(ns, tun.Config{})
		})})
		plane.Pair(inside)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		for _, d := range []*dataplane.Dataplane{plane, inside} {
			go func() { ended <- d.Run(ctx) }()
		}
		early := plane
		if !late {
			early = inside
		}
		eventually(t, "the first device", func() bool { return early.Device() != nil })
		select {
		case <-early.Ready():
			t.Error("it is read, and the other one is not there")
		case <-time.After(100 * time.Millisecond):
		}
		close(hold)
		for _, d := range []*dataplane.Dataplane{plane, inside} {
			select {
			case <-d.Ready():
			case err := <-ended:
				t.Fatal(err)
			}
		}
		cancel()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	}
}

// openTAP opens the TAP in a namespace, as the engine does.
func openTAP(ns *netns.NS, c tun.Config) (d *tun.Device, err error) {
	c.Name, c.TAP = "natless4", true
	ns.Do(func() {
		if d, err = tun.Open(c); err == nil {
			err = route.SetUpInside(c.Name)
		}
	})
	return d, err
}
