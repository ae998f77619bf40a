package dns64

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

var (
	errCut       = errors.New("answer cut, and not to be had over TCP")
	errMalformed = errors.New("malformed answer")
)

// biggerUDP is the buffer to offer where TCP is refused: fragments are better
// than nothing.
const biggerUDP = 4096

// exchange asks one server over UDP and, when the answer is cut, over TCP.
func (s *Server) exchange(ctx context.Context, u *upstream, q question, edns bool) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(q.name, q.qtype)
	m.RecursionDesired, m.CheckingDisabled = q.rd, q.cd
	if edns {
		m.SetEdns0(maxUDP, q.do)
	}
	r, err := s.datagram(ctx, u, m)
	if err != nil || !r.Truncated {
		return r, err
	}
	r, err = s.stream(ctx, u, m)
	if err == nil && !r.Truncated {
		return r, nil
	}
	if !edns || ctx.Err() != nil {
		return nil, errCut
	}
	m.IsEdns0().SetUDPSize(biggerUDP)
	if r, err = s.datagram(ctx, u, m); err == nil && !r.Truncated {
		return r, nil
	}
	return nil, errCut
}

// until has a connection's reads and writes fail when ctx is done.
func until(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}

// datagram asks over UDP. A message that is not an answer to m does not count: it may be
// late, or forged, and the right one may still come (RFC 5452 section 9).
func (s *Server) datagram(ctx context.Context, u *upstream, m *dns.Msg) (*dns.Msg, error) {
	s.Stats.Upstream.Add(1)
	packed, err := m.Pack()
	if err != nil {
		return nil, err
	}
	conn, err := s.options.Dial(ctx, "udp", u.address.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer until(ctx, conn)()
	if _, err := conn.Write(packed); err != nil {
		return nil, err
	}
	buf := make([]byte, biggerUDP)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		r, err := s.understand(buf[:n], m)
		if err == nil && r == nil {
			continue
		}
		return r, err
	}
}

// understand gives the answer to m, or nil when it is none.
func (s *Server) understand(raw []byte, m *dns.Msg) (*dns.Msg, error) {
	if len(raw) < headerLength || binary.BigEndian.Uint16(raw) != m.Id {
		s.Stats.Failures[Mismatched].Add(1)
		return nil, nil
	}
	r := new(dns.Msg)
	if err := r.Unpack(raw); err != nil {
		if raw[2]&0x82 == 0x82 { // cut, possibly in the middle of a record
			return &dns.Msg{MsgHdr: dns.MsgHdr{Id: m.Id, Response: true, Truncated: true}}, nil
		}
		return nil, errMalformed
	}
	if !answers(r, m) {
		s.Stats.Failures[Mismatched].Add(1)
		return nil, nil
	}
	return r, nil
}

// answers says that r is an answer to m. In whatever case the name comes back;
// and some errors come without the question.
func answers(r, m *dns.Msg) bool {
	if !r.Response || r.Opcode != m.Opcode {
		return false
	}
	if len(r.Question) == 0 {
		return r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError
	}
	a, b := r.Question[0], m.Question[0]
	return len(r.Question) == 1 && a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// stream asks over TCP, on a connection that is there if possible (RFC 7766
// 6.2.1). Such a one may have been closed at the other end in the meantime.
func (s *Server) stream(ctx context.Context, u *upstream, m *dns.Msg) (*dns.Msg, error) {
	s.Stats.Upstream.Add(1)
	packed, err := m.Pack()
	if err != nil {
		return nil, err
	}
	packed = append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
	for {
		conn, kept := u.streams.take(), true
		if conn == nil {
			kept = false
			if conn, err = s.options.Dial(ctx, "tcp", u.address.String()); err != nil {
				return nil, err
			}
		}
		r, err := s.streamOn(ctx, conn, packed, m)
		if err == nil {
			if kept {
				s.Stats.Reused.Add(1)
			}
			u.streams.keep(s.ctx, conn)
			return r, nil
		}
		conn.Close()
		if !kept || ctx.Err() != nil {
			return nil, err
		}
	}
}

func (s *Server) streamOn(ctx context.Context, conn net.Conn, packed []byte, m *dns.Msg) (*dns.Msg, error) {
	stop := until(ctx, conn)
	defer stop()
	if _, err := conn.Write(packed); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, raw); err != nil {
		return nil, err
	}
	r, err := s.understand(raw, m)
	if err == nil && r == nil {
		err = errMalformed
	}
	if !stop() && err == nil {
		err = ctx.Err() // its deadline is, or is about to be, in the past: of no use to others
	}
	return r, err
}

// streams are connections to one server between questions, a few and not for
// long.
type streams struct {
	mu   sync.Mutex
	idle []*idleStream
}

type idleStream struct {
	net.Conn
	timer *time.Timer
}

const (
	maxIdleStreams = 4
	streamIdle     = 5 * time.Second
)

// take gives the connection that was used last, or nil.
func (s *streams) take() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) == 0 {
		return nil
	}
	last := s.idle[len(s.idle)-1]
	s.idle = s.idle[:len(s.idle)-1]
	last.timer.Stop()
	return last.Conn
}

// keep keeps a connection for the next question.
func (s *streams) keep(ctx context.Context, conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) >= maxIdleStreams || ctx.Err() != nil {
		conn.Close()
		return
	}
	i := &idleStream{Conn: conn}
	i.timer = time.AfterFunc(streamIdle, func() { s.drop(i) })
	s.idle = append(s.idle, i)
}

func (s *streams) drop(i *idleStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := slices.Index(s.idle, i); at >= 0 {
		s.idle = slices.Delete(s.idle, at, at+1)
		i.Close()
	}
}

// close closes those that are idle.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.idle {
		i.timer.Stop()
		i.Close()
	}
	s.idle = nil
}
