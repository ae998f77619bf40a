//go:build linux

// Package load makes numbered datagrams and connections between the network
// namespaces of a test, and says what arrived. Nothing but tests may use it.
package load

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// Datagrams is a flow of numbered datagrams at a steady rate.
type Datagrams struct {
	t              testing.TB
	conn           net.Conn
	receiver       *net.UDPConn
	sent, received atomic.Int64
	stop, stopped  chan struct{}
}

// SendDatagrams sends one datagram each millisecond from one namespace to an
// address in another until Finish is called.
func SendDatagrams(t testing.TB, from, to *netns.NS, address string) *Datagrams {
	t.Helper()
	d := &Datagrams{t: t, stop: make(chan struct{}), stopped: make(chan struct{})}
	var err error
	to.Do(func() { d.receiver, err = net.ListenUDP("udp", nil) })
	if err != nil {
		t.Fatal(err)
	}
	d.receiver.SetReadBuffer(4 << 20)
	_, port, _ := net.SplitHostPort(d.receiver.LocalAddr().String())
	from.Do(func() { d.conn, err = net.Dial("udp", net.JoinHostPort(address, port)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.conn.Close(); d.receiver.Close() })
	go d.receive()
	go d.send()
	Within(t, 3*time.Second, "the first datagram to "+address, func() bool { return d.received.Load() > 0 })
	return d
}

func (d *Datagrams) send() {
	defer close(d.stopped)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	packet := make([]byte, 200)
	for n := int64(0); ; n++ {
		select {
		case <-d.stop:
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(packet, uint64(n))
		if _, err := d.conn.Write(packet); err == nil { // an error is an ICMP message about an earlier one
			d.sent.Add(1)
		}
	}
}

func (d *Datagrams) receive() {
	packet, seen := make([]byte, 2048), map[uint64]bool{}
	for {
		n, _, err := d.receiver.ReadFrom(packet)
		if err != nil {
			return
		}
		if number := binary.BigEndian.Uint64(packet); n == 200 && !seen[number] {
			seen[number] = true
			d.received.Add(1)
		}
	}
}

// Finish stops sending and says how many did not arrive.
func (d *Datagrams) Finish() (sent, lost int64) {
	close(d.stop)
	<-d.stopped
	for last := int64(-1); last != d.received.Load(); time.Sleep(200 * time.Millisecond) {
		last = d.received.Load()
	}
	return d.sent.Load(), d.sent.Load() - d.received.Load()
}

// Stream is a TCP connection on which data flows until Finish.
type Stream struct {
	t       testing.TB
	written atomic.Int64
	watched atomic.Bool // somebody waits until it moves
	stop    chan struct{}
	seed    maphash.Seed
	sums    [2]chan uint64 // of what was written and what arrived
	errs    [2]error
	ends    [2]net.Conn
}

// StartStream connects from one namespace to an address in another and sends 64 kB
// at a time, up to 128 megabits a second, or a gigabit while Flows waits: more would
// only keep processors from what is tested.
func StartStream(t testing.TB, from, to *netns.NS, address string) *Stream {
	t.Helper()
	return start(t, from, to, address, 1<<16, 4*time.Millisecond)
}

// StartPaced sends a kilobyte each millisecond, which fills no queue: what is
// lost then, something else lost.
func StartPaced(t testing.TB, from, to *netns.NS, address string) *Stream {
	t.Helper()
	return start(t, from, to, address, 1000, time.Millisecond)
}

func start(t testing.TB, from, to *netns.NS, address string, size int, pause time.Duration) *Stream {
	t.Helper()
	l := Listen(t, to)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s := &Stream{t: t, stop: make(chan struct{}), seed: maphash.MakeSeed(), sums: [2]chan uint64{make(chan uint64, 1), make(chan uint64, 1)}}
	var conn net.Conn
	var err error
	from.Do(func() { conn, err = net.DialTimeout("tcp", net.JoinHostPort(address, port), 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	go func() {
		var h maphash.Hash
		h.SetSeed(s.seed)
		_, s.errs[1] = io.Copy(&h, peer)
		s.sums[1] <- h.Sum64()
	}()
	s.ends = [2]net.Conn{conn, peer}
	go s.write(conn, size, pause)
	return s
}

// write writes a block again and again, each time with another number in it.
func (s *Stream) write(conn net.Conn, size int, pause time.Duration) {
	var h maphash.Hash
	h.SetSeed(s.seed)
	block := make([]byte, size)
	io.ReadFull(rand.NewChaCha8([32]byte{1}), block)
	defer func() { conn.(*net.TCPConn).CloseWrite(); s.sums[0] <- h.Sum64() }()
	for number := uint64(0); ; number++ {
		select {
		case <-s.stop:
			return
		default:
		}
		binary.BigEndian.PutUint64(block, number)
		h.Write(block)
		n, err := conn.Write(block)
		s.written.Add(int64(n))
		if err != nil {
			s.errs[0] = err
			return
		}
		if s.watched.Load() {
			time.Sleep(pause / 8)
		} else {
			time.Sleep(pause)
		}
	}
}

// Written is how many bytes went into the connection so far.
func (s *Stream) Written() int64 { return s.written.Load() }

// Retransmitted is how many segments were sent again so far.
func (s *Stream) Retransmitted() (n uint32) {
	s.t.Helper()
	raw, err := s.ends[0].(*net.TCPConn).SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) {
			var info *unix.TCPInfo
			if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				n = info.Total_retrans - info.Dsack_dups // the others had arrived after all
			}
		})
		err = errors.Join(err, controlErr)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// Flows waits until the stream moves.
func (s *Stream) Flows(d time.Duration) time.Duration {
	s.t.Helper()
	s.watched.Store(true)
	defer s.watched.Store(false)
	before := s.written.Load() + 16<<20 // more than buffers take
	return Within(s.t, d, "16 MB on a connection", func() bool { return s.written.Load() > before })
}

// Finish ends the connection and compares what was sent with what arrived.
func (s *Stream) Finish() {
	s.t.Helper()
	close(s.stop)
	var sums [2]uint64
	for i := range sums {
		select {
		case sums[i] = <-s.sums[i]:
		case <-time.After(20 * time.Second):
			s.t.Fatal("a connection does not end")
		}
	}
	s.ends[0].Close()
	s.ends[1].Close()
	if sums[0] != sums[1] || s.errs[0] != nil || s.errs[1] != nil {
		s.t.Errorf("after %d bytes: writing %v, reading %v, equal %v", s.written.Load(), s.errs[0], s.errs[1], sums[0] == sums[1])
	}
}

// Listen listens on any TCP port in ns until the test ends.
func Listen(t testing.TB, ns *netns.NS) net.Listener {
	t.Helper()
	return ListenOn(t, ns, ":0")
}

// ListenOn listens on a TCP address of a namespace until the test ends.
func ListenOn(t testing.TB, ns *netns.NS, address string) (l net.Listener) {
	t.Helper()
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

const patience = 6

// Within waits until done says so, fails the test when that takes too long, and
// gives the time that it took. How long it may take is said for a machine that does
// nothing else; others have patience times as long.
func Within(t testing.TB, d time.Duration, what string, done func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !done() {
		if time.Since(start) > patience*d {
			t.Fatalf("%s: not within %d times %v", what, patience, d)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}
