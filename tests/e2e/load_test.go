//go:build linux

package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// datagrams is a flow of numbered datagrams at a steady rate.
type datagrams struct {
	t              testing.TB
	conn           net.Conn
	receiver       *net.UDPConn
	sent, received atomic.Int64
	stop, stopped  chan struct{}
}

// sendDatagrams sends one datagram each millisecond from one namespace to an
// address in another until finish is called.
func sendDatagrams(t testing.TB, from, to *netns.NS, address string) *datagrams {
	t.Helper()
	d := &datagrams{t: t, stop: make(chan struct{}), stopped: make(chan struct{})}
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
	within(t, 3*time.Second, "the first datagram to "+address, func() bool { return d.received.Load() > 0 })
	return d
}

func (d *datagrams) send() {
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

func (d *datagrams) receive() {
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

// finish stops sending and says how many did not arrive.
func (d *datagrams) finish() (sent, lost int64) {
	close(d.stop)
	<-d.stopped
	for last := int64(-1); last != d.received.Load(); time.Sleep(200 * time.Millisecond) {
		last = d.received.Load()
	}
	return d.sent.Load(), d.sent.Load() - d.received.Load()
}

// stream is a TCP connection on which data flows until finish.
type stream struct {
	t       testing.TB
	written atomic.Int64
	stop    chan struct{}
	sums    [2]chan [32]byte // of what was written and what arrived
	errs    [2]error
	ends    [2]net.Conn
}

func startStream(t testing.TB, from, to *netns.NS, address string) *stream {
	t.Helper()
	l := listen(t, to)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s := &stream{t: t, stop: make(chan struct{}), sums: [2]chan [32]byte{make(chan [32]byte, 1), make(chan [32]byte, 1)}}
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
		h := sha256.New()
		_, s.errs[1] = io.Copy(h, peer)
		s.sums[1] <- [32]byte(h.Sum(nil))
	}()
	s.ends = [2]net.Conn{conn, peer}
	go s.write(conn)
	return s
}

func (s *stream) write(conn net.Conn) {
	h, source, block := sha256.New(), newPattern(), make([]byte, 1<<16)
	defer func() { conn.(*net.TCPConn).CloseWrite(); s.sums[0] <- [32]byte(h.Sum(nil)) }()
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		io.ReadFull(source, block)
		h.Write(block)
		n, err := conn.Write(block)
		s.written.Add(int64(n))
		if err != nil {
			s.errs[0] = err
			return
		}
	}
}

// flows waits until the stream moves.
func (s *stream) flows(d time.Duration) time.Duration {
	s.t.Helper()
	before := s.written.Load() + 16<<20 // more than buffers take
	return within(s.t, d, "16 MB on a connection", func() bool { return s.written.Load() > before })
}

// finish ends the connection and compares what was sent with what arrived.
func (s *stream) finish() {
	s.t.Helper()
	close(s.stop)
	var sums [2][32]byte
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
