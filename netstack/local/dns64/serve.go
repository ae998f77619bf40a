package dns64

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Serve answers on both listeners until ctx is done, and closes them. The loops
// are our own, and not miekg's, for what must hold beside a dataplane: a bound
// on all that is under way, no goroutine for what is beyond it, no panic that
// leaves, no periodic wake-up.
func (s *Server) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { udp.Close(); tcp.Close(); s.Close() })()

	failed := make(chan error, 2)
	running.Go(func() { failed <- s.serveUDP(&running, udp) })
	running.Go(func() { failed <- s.serveTCP(ctx, &running, tcp) })
	err := <-failed
	if ctx.Err() != nil {
		return nil
	}
	udp.Close()
	tcp.Close()
	return err
}

func (s *Server) serveUDP(running *sync.WaitGroup, conn net.PacketConn) error {
	buf := make([]byte, maxQuery)
	for failures := 0; ; {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			// One datagram may cause an error (ICMP, reported by the socket),
			// a hundred in a row are a socket that is gone.
			if failures++; errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || failures > 100 {
				return err
			}
			continue
		}
		failures = 0
		send := func(answer []byte) {
			if answer != nil {
				conn.WriteTo(answer, from) // lost like any datagram when it fails
			}
		}
		answer, rest := s.begin(append([]byte(nil), buf[:n]...), address(from), true)
		if rest == nil {
			send(answer)
			continue
		}
		running.Go(func() { send(rest()) })
	}
}

// address is that of a UDP or TCP peer.
func address(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr()
	case *net.TCPAddr:
		return a.AddrPort().Addr()
	}
	return netip.Addr{}
}

func (s *Server) serveTCP(ctx context.Context, running *sync.WaitGroup, ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		who := s.client(address(conn.RemoteAddr()))
		if !s.connections.take(who, s.options.Now()) {
			s.Stats.Dropped.Add(1)
			conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { s.connections.release(who, who.class == stranger, s.options.Now()) }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.serveConn(conn, who)
		})
	}
}

// serveConn answers the queries of one connection as their answers come, not
// one after the other (RFC 7766 6.2.1.1). Each has its deadlines, so that a
// client that is slow either way costs one of its connections for a bounded
// time.
func (s *Server) serveConn(conn net.Conn, who client) {
	w := &replies{Conn: conn}
	var waiting sync.WaitGroup
	defer waiting.Wait()
	places := make(chan struct{}, maxPipelined)
	from, timeout := address(conn.RemoteAddr()), readTimeout
	for range maxQueries {
		places <- struct{}{}
		query, err := readQuery(conn, timeout)
		if err != nil {
			return
		}
		answer, rest := s.begin(query, from, false)
		if rest == nil {
			<-places
		}
		switch {
		case rest != nil:
			waiting.Go(func() {
				defer func() { <-places }()
				w.send(rest())
			})
		case answer == nil || w.send(answer) != nil || who.class == stranger:
			return
		}
		timeout = idleTimeout
	}
}

func readQuery(conn net.Conn, timeout time.Duration) ([]byte, error) {
	conn.SetReadDeadline(time.Now().Add(timeout))
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	conn.SetReadDeadline(time.Now().Add(readTimeout))
	n := binary.BigEndian.Uint16(length[:])
	if n > maxQuery {
		return nil, errors.New("too long for a query")
	}
	query := make([]byte, n)
	_, err := io.ReadFull(conn, query)
	return query, err
}

// replies writes whole answers to a connection, for any number of goroutines.
type replies struct {
	net.Conn
	mu sync.Mutex
}

// send writes one answer. When it fails the connection is closed, since half
// of one may have gone.
func (r *replies) send(answer []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.SetWriteDeadline(time.Now().Add(readTimeout))
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer))), answer...)
	_, err := r.Write(framed)
	if err != nil {
		r.Close()
	}
	return err
}
