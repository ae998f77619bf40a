package dns64

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/miekg/dns"
)

// echo is an upstream for fuzzing: it gives the same bytes to every query, made
// to look like its answer as far as they go.
type echo struct {
	reply, out []byte
	stream     bool
}

func (e *echo) Write(q []byte) (int, error) {
	n := len(q)
	if e.stream {
		q = q[2:]
	}
	r := append([]byte(nil), e.reply...)
	if len(r) > 2 {
		copy(r, q[:2])
	}
	m, asked := new(dns.Msg), new(dns.Msg)
	if m.Unpack(r) == nil && asked.Unpack(q) == nil {
		m.Response, m.Question = true, asked.Question
		if packed, err := m.Pack(); err == nil {
			r = packed
		}
	}
	if e.stream {
		r = append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...)
	}
	e.out = r
	return n, nil
}

func (e *echo) Read(p []byte) (int, error) {
	if len(e.out) == 0 {
		return 0, io.EOF
	}
	n := copy(p, e.out)
	if e.out = e.out[n:]; !e.stream {
		e.out = nil
	}
	return n, nil
}

func (e *echo) ReadFrom(p []byte) (int, net.Addr, error)  { n, err := e.Read(p); return n, nil, err }
func (e *echo) WriteTo(p []byte, _ net.Addr) (int, error) { return e.Write(p) }
func (*echo) Close() error                                { return nil }
func (*echo) LocalAddr() net.Addr                         { return &net.UDPAddr{} }
func (*echo) RemoteAddr() net.Addr                        { return &net.UDPAddr{} }
func (*echo) SetDeadline(time.Time) error                 { return nil }
func (*echo) SetReadDeadline(time.Time) error             { return nil }
func (*echo) SetWriteDeadline(time.Time) error            { return nil }
