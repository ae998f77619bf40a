// Package admit gives the connections of an HTTP server places in a room, so that
// those who open many and say nothing push out themselves and nobody else. It
// stands beside its budget since both netstack and config serve HTTP and neither
// may know the other; who an owner is, and what is served, may not enter here.
package admit

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/natless/natless/translator/budget"
)

// Connections are those of one server. Make them with Guard.
type Connections[K comparable] struct {
	room   budget.Room[K]
	guests sync.Map // of net.Conn: its *budget.Guest[K], while it is open
}

type guestKey struct{}

// Guard gives the connections of a server, which does not serve yet, so many
// places. One may be closed for another at any time but between Serve and its
// end: who sends a header letter by letter, waits for a turn, or takes an answer
// slowly is waiting all the while. So fewer may be served at a time than there
// are places. owner may use what the server's ConnContext, called first, made of
// the context; ours are connections that need no place.
func Guard[K comparable](s *http.Server, most int, owner func(context.Context, net.Conn) (k K, ours bool)) *Connections[K] {
	c := &Connections[K]{room: budget.Room[K]{Most: most}}
	first := s.ConnContext
	s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if first != nil {
			ctx = first(ctx, conn)
		}
		k, ours := owner(ctx, conn)
		if ours {
			return ctx
		}
		g := c.room.Enter(k, func() { conn.Close() })
		if g == nil {
			conn.Close() // all others are being answered
			return ctx
		}
		c.guests.Store(conn, g)
		return context.WithValue(ctx, guestKey{}, g)
	}
	s.ConnState = func(conn net.Conn, state http.ConnState) {
		if state != http.StateClosed && state != http.StateHijacked {
			return
		}
		if g, ok := c.guests.LoadAndDelete(conn); ok {
			g.(*budget.Guest[K]).Leave()
		}
	}
	return c
}

// Serve says that a request of the connection with this context is being answered,
// until done is called.
func (c *Connections[K]) Serve(ctx context.Context) (done func()) {
	if g, ok := ctx.Value(guestKey{}).(*budget.Guest[K]); ok {
		return g.Serve()
	}
	return func() {}
}

// Evicted is how many connections were closed for others.
func (c *Connections[K]) Evicted() uint64 { return c.room.Evicted() }

// Len is how many are open.
func (c *Connections[K]) Len() int { return c.room.Len() }

// Source is where a TCP connection comes from: an IPv4 address, or an IPv6 /64,
// of which one host may have all.
func Source(a net.Addr) netip.Prefix {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := t.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits)
	return p
}
