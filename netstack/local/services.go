package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/budget/admit"
	"github.com/natless/natless/translator/mapping"
)

// healthConnections bounds health checks at a time, per family. Beyond them the
// one goes that has waited longest, of the source that has the most.
const healthConnections = 64

// readTime is how long a health check may take to ask.
const readTime = 2 * time.Second

// listen opens what the configuration asks for, and gives what serves it.
func (s *Stack) listen() (services []func(context.Context) error, err error) {
	if s.resolver != nil {
		udp, err := s.host.ListenUDP(netip.AddrPortFrom(s.addr[1], 53))
		if err != nil {
			return nil, err
		}
		tcp, err := s.host.ListenTCP(netip.AddrPortFrom(s.addr[1], 53))
		if err != nil {
			return nil, err
		}
		services = append(services, func(ctx context.Context) error { return s.resolver.Serve(ctx, udp, tcp) })
	}
	if s.config.HealthPort == 0 {
		return services, nil
	}
	for at, a := range s.addr {
		if !a.IsValid() {
			continue
		}
		ln, err := s.host.ListenTCP(netip.AddrPortFrom(a, s.config.HealthPort))
		if err != nil {
			return nil, err
		}
		services = append(services, func(ctx context.Context) error { return s.serveHealth(ctx, ln, at) })
	}
	return services, nil
}

// serveHealth answers load balancers over HTTP. Whoever is slow loses the
// connection.
func (s *Stack) serveHealth(ctx context.Context, ln net.Listener, at int) error {
	server := &http.Server{
		Handler:           s.checks(),
		ReadHeaderTimeout: readTime, ReadTimeout: readTime,
		WriteTimeout: 2 * time.Second, IdleTimeout: 15 * time.Second,
		MaxHeaderBytes: 4 << 10,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	c := admit.Guard(server, healthConnections, func(_ context.Context, conn net.Conn) (translator.Sender, bool) {
		return s.senderOf(conn), false
	})
	s.health[at].Store(c)
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("health: %w", err)
}

func (s *Stack) checks() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.config.Ready != nil {
			if err := s.config.Ready(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		io.WriteString(w, "ready\n")
	})
	return mux
}

// prefix is the translator's RFC 6052 prefix, as it is now.
type prefix struct{ *translator.Translator }

func (p prefix) Network() netip.Prefix { return p.Table().Prefix() }

func (p prefix) Embed(v4 netip.Addr) (netip.Addr, bool) {
	t := p.Table()
	if !t.Prefix().IsValid() {
		return netip.Addr{}, false
	}
	return t.Embed(mapping.Addr4From(v4)).Addr(), true
}

func (p prefix) Extract(v6 netip.Addr) (netip.Addr, bool) {
	v4, ok := p.Table().Extract(mapping.Addr6From(v6))
	return mapping.Addr4(v4), ok
}

// workload gives one IPv6 address for all that are mapped to the same IPv4
// address and ports.
func (p prefix) workload(v6 netip.Addr) (netip.Addr, bool) {
	a := mapping.Addr6From(v6)
	e := p.Table().Lookup6(a)
	if e == nil {
		return netip.Addr{}, false
	}
	return e.To6(e.To4(a)).Addr(), true
}

func (p prefix) Translatable(v4 netip.Addr) bool { return p.Embeddable(v4) }
