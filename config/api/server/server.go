// Package server answers the API of config/api on a unix socket: who may ask,
// how much, and in which words the answer is. What the answers are is its
// caller's business: it asks a registry and a few functions.
package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// Bounds of what the server takes; none is met in ordinary use.
const (
	maxBody   = 64 << 10 // bytes of a request
	maxHeader = 16 << 10
	maxPacket = 4 << 10 // bytes of words to explain
	maxPage   = 10_000  // workloads in an answer
)

// Registry is what the server asks of *registry.Registry.
type Registry interface {
	Put(context.Context, api.Key, api.Request) (*registry.Assignment, error)
	Delete(context.Context, api.Key) error
	Get(api.Key) (*registry.Assignment, error)
	List(f api.Filter, after string, limit int) (page []*registry.Assignment, next string, err error)
	Whois(netip.AddrPort, time.Time) (*registry.Assignment, error)
	Had(a netip.Addr, port int, at time.Time) (found, before []*registry.Assignment, err error)
	Pools() []api.Pool
	Drain(pool string) (api.Drain, error)
	Undrain(pool string) error
	Drains() []api.Drain
	Backup() (*registry.Copy, error)
}

// Options are what a server answers from. All fields but Blocks, PutBlocks, Relay, PutRules, PatchRules, Watch, Flows, Identify,
// Leads, Complete, Profiles, Group and Log are needed.
type Options struct {
	Registry Registry
	Status   func(context.Context) (api.Status, error)
	// Blocks are what a fleet has lent, and PutBlocks has others held; nil: there are none.
	Blocks    func() api.Blocks
	PutBlocks func(context.Context, api.BlockSet) (api.Blocks, error)
	// Relay is what a relay goes by, PutRules tells it other rules, and PatchRules what is another
	// in them; nil: this is none.
	Relay      func() (api.Relay, error)
	PutRules   func(context.Context, api.RuleSet) (api.Relay, error)
	PatchRules func(context.Context, api.RuleDelta) (api.Relay, error)
	Explain    func(ctx context.Context, words string) (api.Explanation, error) // an error is the words' fault
	Reload     func(context.Context) error                                      // an error is the config's fault; nothing has changed
	Watch      func(context.Context, api.Watch, Send) error                     // sends until ctx is done; nil: nothing can be watched
	Flows      func(context.Context, api.FlowFilter, Send) error                // sends what is wanted; nil: flows are off
	Policies   func(api.PolicyQuestion) (api.Policies, error)                   // nil: there are none
	Ready      func() bool
	// Identify says who besides workloads has an address or its port (-1: any), and
	// what else there is to say of it; nil: nobody.
	Identify func(a netip.Addr, port int) (owners []api.Owner, detail string)
	// Leads is the IPv4 address that relays lead to one of this host's in a fabric.
	Leads    func(netip.Addr) (netip.Addr, bool)
	Complete func(*api.Workload) // adds what the registry does not know: prefix and traffic
	Profiles bool                // profiles of the process may be taken
	Group    int                 // GID that may ask, besides root; 0: none
	Log      *slog.Logger
}

// Server is the API. Make it with New, then Run it.
type Server struct {
	Options
	http   http.Server
	mux    *http.ServeMux
	kinds  map[string]kind // of the mux's patterns
	limits limits
	inside inside
	began  time.Time
	ending context.Context // done when streams are to end
	end    context.CancelFunc
}

// New makes a server; it does nothing before Run.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Complete == nil {
		o.Complete = func(*api.Workload) {}
	}
	s := &Server{Options: o, mux: http.NewServeMux(), kinds: map[string]kind{}, inside: newInside(), began: time.Now()}
	s.ending, s.end = context.WithCancel(context.Background())
	for _, r := range s.routes() {
		s.mux.HandleFunc(r.pattern, s.handler(r))
		s.kinds[r.pattern] = r.kind
	}
	s.http = http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ConnContext:       withPeer,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	s.limits.init(&s.http)
	return s
}

// Run answers on the listener until ctx is done, and closes it. Answers under
// way get a few seconds to finish.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		s.end()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		stopped <- s.http.Shutdown(grace)
	})
	go s.http.Serve(s.inside) // until the other ends
	err := s.http.Serve(l)
	s.inside.Close()
	if stop() { // it was not ctx
		return fmt.Errorf("api: %w", err)
	}
	if err := <-stopped; err != nil {
		return errors.Join(fmt.Errorf("api: answers were cut off: %w", err), s.http.Close())
	}
	return nil
}

// serve is the door: who asks, and whether it is too much.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	p := peerOf(r.Context())
	if !p.may(s.Group) {
		fail(w, &api.Problem{Code: api.CodeForbidden, Detail: fmt.Sprintf("user %d is neither root nor in the group of api.group", p.uid)})
		return
	}
	h, pattern := s.mux.Handler(r)
	most := int64(maxBody)
	switch pattern {
	case putBlocks:
		most = maxBlocks
	case putRules, patchRules:
		most = maxRules
	}
	if err := readWhole(w, r, most); err != nil {
		fail(w, err)
		return
	}
	end, err := s.limits.begin(r.Context(), p, s.kinds[pattern])
	if err != nil {
		fail(w, err)
		return
	}
	t := &turn{ResponseWriter: w, end: sync.OnceFunc(end), unread: func() (leave func()) { return s.limits.keep(p) }}
	defer t.over()
	w = t
	if pattern == "" {
		s.unknown(w, r, h)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// readWhole reads a request's body before its turn comes: who sends it slowly
// keeps up himself.
func readWhole(w http.ResponseWriter, r *http.Request, most int64) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	r.Body = io.NopCloser(bytes.NewReader(b))
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("body", fmt.Sprintf("did not come in time, or ended too early: %d bytes of it are here", len(b)))
	}
	return err
}

// unknown answers what no route is for: the path does not exist, or not with
// this method.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request, h http.Handler) {
	meant := statusOnly{header: http.Header{}}
	h.ServeHTTP(&meant, r)
	if meant.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", meant.header.Get("Allow"))
		fail(w, &api.Problem{Code: api.CodeMethodNotAllowed, Detail: r.Method + " is not for " + r.URL.Path + ", but " +
			meant.header.Get("Allow")})
		return
	}
	fail(w, &api.Problem{Code: api.CodeNotFound, Detail: r.URL.Path + " does not exist; see /v1/openapi.yaml"})
}

// statusOnly is a ResponseWriter that keeps status and header.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(b []byte) (int, error) { return io.Discard.Write(b) }
