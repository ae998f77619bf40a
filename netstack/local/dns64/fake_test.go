package dns64

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// behaviour is how an upstream answers: over UDP and TCP, with whole packets, so
// that nothing is beyond it. No packet is silence.
type behaviour struct {
	udp, tcp func(q *dns.Msg) [][]byte // tcp nil: refused
}

// fake is an upstream with a behaviour. It counts what it is asked.
type fake struct {
	behaviour
	netip.AddrPort         // of one with sockets
	sixes, others, streams atomic.Int32
}

func (f *fake) count(q *dns.Msg) {
	if q.Question[0].Qtype == dns.TypeAAAA {
		f.sixes.Add(1)
	} else {
		f.others.Add(1)
	}
}

// serve answers on one connection, whose reads over UDP are datagrams.
func (f *fake) serve(c net.Conn, network string) {
	defer c.Close()
	if network == "tcp" {
		f.stream(c)
		return
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		for _, p := range f.replies(f.udp, buf[:n]) {
			c.Write(p)
		}
	}
}

func (f *fake) replies(b func(q *dns.Msg) [][]byte, raw []byte) [][]byte {
	q := new(dns.Msg)
	if q.Unpack(raw) != nil {
		return nil
	}
	f.count(q)
	return b(q)
}

// misbehaving is one with sockets on loopback.
func misbehaving(t testing.TB, b behaviour) *fake {
	t.Helper()
	f := &fake{AddrPort: freePort(t), behaviour: b}
	pc, err := net.ListenPacket("udp", f.String())
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, p := range f.replies(b.udp, buf[:n]) {
				pc.WriteTo(p, from)
			}
		}
	})
	t.Cleanup(func() { pc.Close(); running.Wait() })
	if b.tcp == nil {
		return f
	}
	ln, err := net.Listen("tcp", f.String())
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.streams.Add(1)
			running.Go(func() { f.serve(c, "tcp") })
		}
	})
	t.Cleanup(func() { ln.Close() })
	return f
}

func (f *fake) stream(c net.Conn) {
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		raw := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, raw); err != nil {
			return
		}
		for _, p := range f.replies(f.tcp, raw) {
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
		}
	}
}

func packed(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}
