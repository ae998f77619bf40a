//go:build linux

package dataplane_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
)

// ways are the two directions of a flow: who opens it, to which address, and
// who hears it.
func (n *topology) ways() []struct {
	direction dataplane.Direction
	from, to  *netns.NS
	address   string
} {
	return []struct {
		direction dataplane.Direction
		from, to  *netns.NS
		address   string
	}{
		{dataplane.To4, n.w6, n.s4, server6},
		{dataplane.To6, n.s4, n.w6, workload4},
	}
}

func TestTCP(t *testing.T) { eachIO(t, testTCP) }

func testTCP(t *testing.T, io tun.IO) {
	for _, queues := range []int{1, 2} {
		n := newTopology(t, tun.Config{IO: io, Queues: queues}, nil)
		for _, way := range n.ways() {
			before := n.plane.Snapshot().Superpackets
			port, sum := listenTCP(t, way.to)
			conn := dial(t, way.from, "tcp", net.JoinHostPort(way.address, port))
			const size = 32 << 20
			want := stream(t, conn, size)
			conn.Close()
			if <-sum != want {
				t.Errorf("%d queues, %v: what arrived is not what was sent", queues, way.direction)
			}
			after := n.plane.Snapshot()
			if after.Superpackets-before < 100 {
				t.Errorf("%d queues, %v: only %d superpackets", queues, way.direction, after.Superpackets-before)
			}
			verdict := translator.Forward4
			if way.direction == dataplane.To6 {
				verdict = translator.Forward6
			}
			if got := after.Verdicts[way.direction][verdict]; got.Bytes < size || got.Packets < size/65536 {
				t.Errorf("%d queues, %v: counted %+v", queues, way.direction, got)
			}
			n.sameByMapping()
			if after.Device.Segmented != 0 || after.Device.WriteErrors != nil || after.Unsegmentable != 0 {
				t.Errorf("%d queues, %v: the kernel refused packets: %+v", queues, way.direction, after.Device)
			}
		}
	}
}

// sameByMapping holds what was counted for the only mapping there is against
// what was counted in all.
func (n *topology) sameByMapping() {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // packets may be under way
		got, all := n.plane.Traffic(1), n.plane.Snapshot().Verdicts
		want := dataplane.Traffic{Sent: all[dataplane.To4][translator.Forward4], Received: all[dataplane.To6][translator.Forward6]}
		if got == want && got.Sent.Packets > 0 {
			return
		}
		if time.Now().After(end) {
			n.t.Errorf("the mapping has %+v, want %+v", got, want)
			return
		}
	}
}

func stream(t *testing.T, conn net.Conn, size int) [32]byte {
	t.Helper()
	hash, block := sha256.New(), bytes.Repeat([]byte("natless "), 1<<17)
	for sent := 0; sent < size; sent += len(block) {
		block[sent>>20&0xffff]++
		hash.Write(block)
		if _, err := conn.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	return [32]byte(hash.Sum(nil))
}

// Datagrams sent as one superpacket (UDP_SEGMENT, udp(7)) pass as one and
// arrive as they were.
func TestUDPSuperpackets(t *testing.T) { eachIO(t, testUDPSuperpackets) }

func testUDPSuperpackets(t *testing.T, io tun.IO) {
	n := newTopology(t, tun.Config{IO: io}, nil)
	if !n.plane.Device().Offloads().USO {
		t.Skip("the kernel offers no UDP segmentation offload to TUN (Linux 6.2)")
	}
	for _, way := range n.ways() {
		before := n.plane.Snapshot()
		server, port := listenUDP(t, way.to)
		client := dial(t, way.from, "udp", net.JoinHostPort(way.address, port)).(*net.UDPConn)
		control(t, client, unix.SOL_UDP, unix.UDP_SEGMENT, 1200)
		payload := bytes.Repeat([]byte("0123456789"), 1200)
		for i := range 10 {
			payload[0] = byte(i)
			if _, err := client.Write(payload); err != nil {
				t.Fatal(err)
			}
			receive(t, server, payload, 1200)
		}
		after := n.plane.Snapshot()
		if got := after.Superpackets - before.Superpackets; got != 10 {
			t.Errorf("%v: %d superpackets", way.direction, got)
		}
		if after.Device.Segmented != 0 {
			t.Errorf("%v: %d superpackets were refused by the kernel", way.direction, after.Device.Segmented)
		}
	}
}

// receive wants payload in datagrams of size bytes.
func receive(t *testing.T, conn *net.UDPConn, payload []byte, size int) {
	t.Helper()
	buffer := make([]byte, 65536)
	for len(payload) > 0 {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		want := payload[:min(size, len(payload))]
		if !bytes.Equal(buffer[:got], want) {
			t.Fatalf("datagram of %d bytes is not the one of %d bytes sent", got, len(want))
		}
		payload = payload[len(want):]
	}
}

func control(t *testing.T, conn *net.UDPConn, level, option, value int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err == nil {
		err2 := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), level, option, value) })
		if err == nil {
			err = err2
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Datagrams longer than the MTU pass as fragments; IPv4 ones without DF become
// fragments where lowest_ipv6_mtu wants it.
func TestFragments(t *testing.T) { eachIO(t, testFragments) }

func testFragments(t *testing.T, io tun.IO) {
	n := newTopology(t, tun.Config{IO: io}, nil)
	for _, way := range n.ways() {
		server, port := listenUDP(t, way.to)
		client := dial(t, way.from, "udp", net.JoinHostPort(way.address, port)).(*net.UDPConn)
		if way.direction == dataplane.To6 {
			control(t, client, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
		}
		before := n.plane.Snapshot().Fragments
		for _, size := range []int{1400, 5000, 60000} {
			payload := bytes.Repeat([]byte{byte(size)}, size)
			if _, err := client.Write(payload); err != nil {
				t.Fatal(err)
			}
			receive(t, server, payload, size)
		}
		if made := n.plane.Snapshot().Fragments - before; (made >= 2) != (way.direction == dataplane.To6) {
			t.Errorf("%v: %d fragments made here", way.direction, made)
		}
	}
}

func TestStopWhileIdle(t *testing.T) { eachIO(t, testStopWhileIdle) }

func testStopWhileIdle(t *testing.T, io tun.IO) {
	n := newTopology(t, tun.Config{IO: io, Queues: 2}, nil)
	time.Sleep(300 * time.Millisecond) // router solicitations and the like are over
	start := time.Now()
	if err := n.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second { // no packet comes to wake it; a busy machine takes a while to remove a device
		t.Errorf("took %v", took)
	}
	if out, err := n.x.Command("ip", "link", "show", "natless0").CombinedOutput(); err == nil {
		t.Errorf("the device is still there: %s", out)
	}
}

// A deleted device comes back while a connection goes on.
func TestDeletedDeviceComesBack(t *testing.T) { eachIO(t, testDeletedDeviceComesBack) }

func testDeletedDeviceComesBack(t *testing.T, io tun.IO) {
	n := newTopology(t, tun.Config{IO: io, Queues: 2}, nil)
	port, sum := listenTCP(t, n.s4)
	conn := dial(t, n.w6, "tcp", net.JoinHostPort(server6, port))
	first := sha256.New()
	write := func(count int) {
		for range count {
			block := make([]byte, 1<<20)
			first.Write(block)
			if _, err := conn.Write(block); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(16)
	before := n.plane.Snapshot()
	n.x.IP("link del natless0")
	start := time.Now()
	for n.x.Command("ip", "link", "show", "natless0").Run() != nil {
		if time.Since(start) > 10*time.Second { // a tenth of a second, where nothing else changes links
			t.Fatal("the device did not come back")
		}
	}
	n.route()
	write(16)
	conn.Close()
	if <-sum != [32]byte(first.Sum(nil)) {
		t.Error("what arrived is not what was sent")
	}
	after := n.plane.Snapshot()
	if after.Reopened != 1 {
		t.Errorf("reopened %d times", after.Reopened)
	}
	if a, b := after.Verdicts[0][translator.Forward4].Bytes, before.Verdicts[0][translator.Forward4].Bytes; a < b+16<<20 {
		t.Errorf("counters went from %d to %d bytes", b, a)
	}
}

// echo is a local stack that knows ping, and no more.
type echo struct {
	queue chan []byte
	full  atomic.Bool
}

func (e *echo) Deliver(packet []byte) bool {
	if e.full.Load() {
		return false
	}
	select {
	case e.queue <- bytes.Clone(packet):
		return true
	default:
		return false
	}
}

func (e *echo) answer(plane *dataplane.Dataplane) {
	for packet := range e.queue {
		b := header.IPv4(packet)
		if packet[0]>>4 != 4 || b.Protocol() != 1 || b.Payload()[0] != 8 {
			continue
		}
		from, to := b.SourceAddress(), b.DestinationAddress()
		b.SetSourceAddress(to)
		b.SetDestinationAddress(from)
		icmp := header.ICMPv4(b.Payload())
		icmp.SetType(header.ICMPv4EchoReply)
		icmp.SetChecksum(0)
		icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
		p := &translator.Packet{Buf: make([]byte, translator.Headroom+len(packet)), Start: translator.Headroom}
		p.End = p.Start + copy(p.Buf[p.Start:], packet)
		plane.Inject(p)
	}
}

func TestLocal(t *testing.T) { eachIO(t, testLocal) }

func testLocal(t *testing.T, io tun.IO) {
	stack := &echo{queue: make(chan []byte, 64)}
	n := newTopology(t, tun.Config{IO: io}, stack)
	go stack.answer(n.plane)
	defer close(stack.queue)
	n.s4.Run("ping", "-c", "3", "-i", "0.1", "-W", "1", own4)
	if got := n.plane.Snapshot().Verdicts[dataplane.To6][translator.Local].Packets; got != 3 {
		t.Errorf("counted %d packets", got)
	}
	stack.full.Store(true)
	if n.s4.Command("ping", "-c", "2", "-i", "0.1", "-W", "1", own4).Run() == nil {
		t.Error("a full queue answered")
	}
	if got := n.plane.Snapshot().LocalDropped; got != 2 {
		t.Errorf("counted %d dropped packets", got)
	}
	n.stop()
	if err := n.plane.Inject(&translator.Packet{}); err == nil {
		t.Error("injected into no device")
	}
}

type watcher struct{ batches, read, translated atomic.Int64 }

func (w *watcher) Begin(_ int, now time.Time) {
	if d := time.Since(now); d >= 0 && d < time.Second {
		w.batches.Add(1)
	}
}

func (w *watcher) Read(int, *translator.Packet) { w.read.Add(1) }

func (w *watcher) Translated(_ int, p *translator.Packet, v translator.Verdict, _ uint32) {
	if v == translator.Forward4 && p.Bytes()[0]>>4 == 4 {
		w.translated.Add(1)
	}
}

func TestObserver(t *testing.T) {
	n := newTopology(t, tun.Config{}, nil)
	var w watcher
	n.plane.Observe(&w)
	n.w6.Run("ping", "-c", "3", "-i", "0.05", server6)
	if w.read.Load() < 6 || w.translated.Load() != 3 || w.batches.Load() < 6 {
		t.Errorf("saw %d read, %d translated, in %d batches", w.read.Load(), w.translated.Load(), w.batches.Load())
	}
	n.plane.Observe(nil)
	n.w6.Run("ping", "-c", "1", server6)
	seen := w.read.Load()
	n.w6.Run("ping", "-c", "3", "-i", "0.05", server6)
	if w.read.Load() != seen {
		t.Error("goes on seeing packets")
	}
}

// Errors of ours leave through the device, and every drop has its reason.
func TestRepliesAndDropsAreCounted(t *testing.T) {
	n := newTopology(t, tun.Config{}, nil)
	out, _ := n.w6.Command("ping", "-c", "1", "-t", "2", "-W", "1", server6).CombinedOutput()
	if !bytes.Contains(out, []byte("Time exceeded: Hop limit")) {
		t.Errorf("ping says %s", out)
	}
	s := n.plane.Snapshot()
	if got := s.Replied[dataplane.To4][translator.HopLimitExceeded]; got != 1 {
		t.Errorf("%d replies counted", got)
	}
	if got := s.Verdicts[dataplane.To4][translator.HopLimitExceeded].Packets; got != 1 {
		t.Errorf("%d drops counted", got)
	}
	if text := fmt.Sprint(dataplane.To4, dataplane.To6); text != "6→4 4→6" {
		t.Error(text)
	}
}

// The end while a deleted device cannot be made anew is an end like any other.
func TestStopWhileReopening(t *testing.T) {
	ns := netns.New(t, "x")
	var opened atomic.Int64
	failing := make(chan struct{})
	plane := dataplane.New(dataplane.Config{Translator: newTranslator(t), Open: func() (d *tun.Device, err error) {
		switch opened.Add(1) {
		case 1:
			ns.Do(func() { d, err = tun.Open(tun.Config{Name: "natless0"}) })
			return d, err
		case 2:
			close(failing)
		}
		return nil, errors.New("not now")
	}})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- plane.Run(ctx) }()
	<-plane.Ready()
	ns.IP("link del natless0")
	<-failing
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
