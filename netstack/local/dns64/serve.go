package dns64

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
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
	s.Close()
	return err
}

func (s *Server) serveUDP(running *sync.WaitGroup, conn net.PacketConn) error {
	buf := make([]byte, 4096)
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
		select {
		case s.slots <- struct{}{}:
		default:
			s.Stats.Dropped.Add(1)
			continue
		}
		query := append([]byte(nil), buf[:n]...)
		running.Go(func() {
			defer func() { <-s.slots }()
			if answer := s.Answer(query, true); answer != nil {
				conn.WriteTo(answer, from) // lost like any datagram when it fails
			}
		})
	}
}

func (s *Server) serveTCP(ctx context.Context, running *sync.WaitGroup, ln net.Listener) error {
	free := make(chan struct{}, maxConnections)
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		select {
		case free <- struct{}{}:
		default:
			s.Stats.Dropped.Add(1)
			conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-free }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.serveConn(conn)
		})
	}
}

// serveConn answers one query after the other (RFC 7766). Each has its
// deadlines, so that a client that is slow either way costs one of the
// bounded connections for a bounded time.
func (s *Server) serveConn(conn net.Conn) {
	timeout := readTimeout
	for range maxQueries {
		conn.SetReadDeadline(time.Now().Add(timeout))
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		conn.SetReadDeadline(time.Now().Add(readTimeout))
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer := s.Answer(query, false)
		if answer == nil {
			return
		}
		conn.SetWriteDeadline(time.Now().Add(readTimeout))
		if _, err := conn.Write(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))); err != nil {
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
		timeout = idleTimeout
	}
}
