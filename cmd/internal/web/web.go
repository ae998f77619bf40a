// Package web is the daemon's HTTP listener for Prometheus and for people: one
// address, bounded in time and in how much is under way, and nothing but GET.
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

	"golang.org/x/net/netutil"
)

// Bounds: whoever is slow, or one too many, must not cost a dataplane beside.
const (
	connections = 64               // open at a time; more wait in the kernel's queue
	concurrent  = 8                // requests being answered; more are told to come back
	readTimeout = 5 * time.Second  // for a request
	timeout     = 30 * time.Second // for an answer
	idleTimeout = 2 * time.Minute  // longer than Prometheus waits between scrapes
	grace       = 2 * time.Second  // for answers under way at the end
	maxHeader   = 16 << 10
)

// Server is a task: Run it once.
type Server struct {
	address netip.AddrPort
	http    http.Server
	ready   chan struct{}
	bound   net.Addr // once ready
}

// New makes a listener that will answer GET and HEAD with handler.
func New(address netip.AddrPort, handler http.Handler, log *slog.Logger) *Server {
	s := &Server{address: address, ready: make(chan struct{})}
	s.http = http.Server{
		Handler:           guard(handler),
		ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout,
		WriteTimeout: timeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug), // what strangers send is no event
	}
	return s
}

// guard lets few requests in at a time, and none that would change anything.
func guard(next http.Handler) http.Handler {
	slots := make(chan struct{}, concurrent)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "there is nothing to change here: GET only", http.StatusMethodNotAllowed)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, fmt.Sprintf("%d requests are being answered: try again", concurrent), http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
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
	err = s.http.Serve(netutil.LimitListener(l, connections))
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
