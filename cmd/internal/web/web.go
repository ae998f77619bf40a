// Package web is the daemon's HTTP listener for Prometheus and for people: one
// address, bounded in time and in how much is under way, in all and for each that
// asks, and nothing but GET. A scrape gets in whatever others do there.
// What is shown there is its handler's business: counters, templates and state
// may not enter here, nor anything that changes something.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/natless/natless/translator/budget/admit"
)

// Bounds: whoever is slow, or one too many, must not cost a dataplane beside, nor
// a scrape.
const (
	connections = 256                   // open at a time; beyond them the one that has waited longest, of who has the most, goes
	scrapes     = 2                     // requests for metrics being answered, of one source one; more wait
	concurrent  = 4                     // all other requests
	perSource   = 2                     // of these, of one source
	patience    = 10 * time.Second      // how long they wait
	unread      = 32                    // answers that their askers are still to take
	takeTime    = 20 * time.Millisecond // that each asker has, however many wait
	readTimeout = 5 * time.Second       // for a request
	timeout     = 30 * time.Second      // for an answer
	idleTimeout = 2 * time.Minute       // longer than Prometheus waits between scrapes
	grace       = 2 * time.Second       // for answers under way at the end
	maxHeader   = 16 << 10
)

// Server is a task: Run it once.
type Server struct {
	address     netip.AddrPort
	http        http.Server
	door        *door
	connections *admit.Connections[netip.Prefix]
	ready       chan struct{}
	bound       net.Addr // once ready
}

// New makes a listener that will answer GET and HEAD with handler.
func New(address netip.AddrPort, handler http.Handler, log *slog.Logger) *Server {
	s := &Server{address: address, ready: make(chan struct{}), door: newDoor(handler)}
	s.http = http.Server{
		Handler:           s.door,
		ConnContext:       withConn,
		ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout,
		WriteTimeout: timeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug), // what strangers send is not worth a line
	}
	s.connections = admit.Guard(&s.http, connections, func(_ context.Context, c net.Conn) (netip.Prefix, bool) {
		return admit.Source(c.RemoteAddr()), false
	})
	s.door.serve = s.connections.Serve
	return s
}

// Stats counts since the start.
type Stats struct {
	Evicted uint64 // connections that said nothing, closed for others
	Unread  uint64 // connections closed with an answer that was not taken
	Refused uint64 // requests that waited too long
}

// Stats is what was counted so far.
func (s *Server) Stats() Stats {
	return Stats{Evicted: s.connections.Evicted(), Unread: s.door.unread.Evicted(),
		Refused: s.door.scrapes.Refused() + s.door.others.Refused()}
}

// Ready is closed when the listener is there.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr is where it listens, once it is ready.
func (s *Server) Addr() net.Addr {
	<-s.ready
	return s.bound
}

// Run listens until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address.String())
	if err != nil {
		return listenError(s.address, err)
	}
	s.bound = l.Addr()
	close(s.ready)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if s.http.Shutdown(late) != nil {
			s.http.Close() // an answer that nobody takes
		}
	})
	err = s.http.Serve(l)
	if stop() { // it was not ctx
		return fmt.Errorf("listener %s: %w", s.address, err)
	}
	<-stopped
	return nil
}

func listenError(a netip.AddrPort, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = ": another program listens there: end it, or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = ": this host does not have the address"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		remedy = ": choose a port from 1024 on"
	}
	return fmt.Errorf("metrics.listen: %w%s", err, remedy)
}
