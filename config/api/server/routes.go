package server

import (
	"context"
	_ "embed"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

//go:embed openapi.yaml
var openAPI []byte

// route is one thing to ask. do gives what is answered as JSON; nil: nothing.
type route struct {
	pattern string
	query   []string // parameters that may be given
	early   bool     // is answered before the daemon is ready
	kind    kind     // whom it waits for
	do      func(*Server, *http.Request) (any, error)
}

func (s *Server) routes() []route {
	return []route{
		{pattern: "GET /v1/health", early: true, kind: health, do: (*Server).health},
		{pattern: "GET /v1/status", early: true, kind: status, do: (*Server).status},
		{pattern: "GET /v1/workloads", query: []string{"name", "network", "pool", "address", "container", "after", "limit"},
			do: (*Server).list},
		{pattern: "GET /v1/workloads/{container_id}/{interface}", do: (*Server).get},
		{pattern: "PUT /v1/workloads/{container_id}/{interface}", kind: change, do: (*Server).put},
		{pattern: "DELETE /v1/workloads/{container_id}/{interface}", kind: change, do: (*Server).delete},
		{pattern: "GET /v1/whois", query: []string{"address", "at"}, do: (*Server).whois},
		{pattern: "GET /v1/pools", do: (*Server).pools},
		{pattern: "GET /v1/explain", query: []string{"packet"}, do: (*Server).explain},
		{pattern: "GET /v1/watch", query: []string{"filter", "rate", "bytes", "all"}, kind: watch, do: (*Server).watch},
		{pattern: "POST /v1/reload", kind: slow, do: (*Server).reload},
		{pattern: "GET /v1/registry", kind: slow, do: (*Server).backup},
		{pattern: "GET /v1/pprof/{profile}", query: []string{"seconds"}, early: true, kind: slow, do: (*Server).profile},
		{pattern: "GET /v1/openapi.yaml", early: true, do: (*Server).description},
	}
}

// raw is an answer that is no JSON.
type raw struct {
	contentType string
	body        []byte
}

func (s *Server) handler(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := s.run(rt, r)
		if err != nil {
			fail(w, err)
			return
		}
		switch v := v.(type) {
		case nil:
			w.WriteHeader(http.StatusNoContent)
		case raw:
			w.Header().Set("Content-Type", v.contentType)
			w.Write(v.body)
		case attachment:
			s.serveAttachment(w, v)
		case stream:
			s.serveStream(w, r, v)
		default:
			answer(w, http.StatusOK, "application/json", v)
		}
	}
}

func (s *Server) run(rt route, r *http.Request) (any, error) {
	if !rt.early && !s.Ready() {
		return nil, &api.Problem{Code: api.CodeStarting, Detail: "natlessd is starting"}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("query", err.Error())
	}
	for name, values := range query {
		if !slices.Contains(rt.query, name) {
			return nil, invalid(name, "is not a parameter of "+r.URL.Path)
		}
		if len(values) > 1 {
			return nil, invalid(name, "is there twice")
		}
	}
	return rt.do(s, r)
}

func keyOf(r *http.Request) api.Key {
	return api.Key{ContainerID: r.PathValue("container_id"), Interface: r.PathValue("interface")}
}

func (s *Server) health(*http.Request) (any, error) {
	if !s.Ready() {
		return nil, &api.Problem{Code: api.CodeStarting, Detail: "natlessd is starting"}
	}
	return api.Health{Ready: true}, nil
}

func (s *Server) status(r *http.Request) (any, error) { return some(s.Status(r.Context())) }

// some hides v behind an interface, or leaves only the error.
func some[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (s *Server) workload(a *registry.Assignment) api.Workload {
	w := api.Workload{Key: a.Key, Serial: a.Serial, Request: a.Request, Pool: a.Pool, Address: a.Address, Ports: a.Ports, Since: a.Since}
	s.Complete(&w)
	return w
}

func (s *Server) list(r *http.Request) (any, error) {
	q := r.URL.Query()
	f := api.Filter{Name: q.Get("name"), Network: q.Get("network"), Pool: q.Get("pool"), Container: q.Get("container")}
	if a := q.Get("address"); a != "" {
		var err error
		if f.Address, err = netip.ParseAddr(a); err != nil {
			return nil, invalid("address", err.Error())
		}
	}
	limit := 1000
	if l := q.Get("limit"); l != "" {
		var err error
		if limit, err = strconv.Atoi(l); err != nil || limit < 1 || limit > maxPage {
			return nil, invalid("limit", "must be a number from 1 to 10000")
		}
	}
	found, next, err := s.Registry.List(f, q.Get("after"), limit)
	if err != nil {
		return nil, err
	}
	page := api.Page{Workloads: make([]api.Workload, len(found)), Next: next}
	for i, a := range found {
		page.Workloads[i] = s.workload(a)
	}
	return page, nil
}

func (s *Server) get(r *http.Request) (any, error) {
	a, err := s.Registry.Get(keyOf(r))
	if err != nil {
		return nil, err
	}
	return s.workload(a), nil
}

func (s *Server) put(r *http.Request) (any, error) {
	q, err := decodeRequest(r.Body)
	if err != nil {
		return nil, err
	}
	k, p := keyOf(r), peerOf(r.Context())
	a, err := s.Registry.Put(r.Context(), k, q)
	if err != nil {
		s.Log.Warn("workload was given nothing", "workload", k, "name", q.Name, "err", err, "uid", p.uid, "pid", p.pid)
		return nil, err
	}
	w := s.workload(a)
	s.Log.Info("workload has an assignment", "workload", k, "name", q.Name, "address", w.Address, "ports", api.PortsText(w.Ports), "ipv6", q.IPv6, "uid", p.uid, "pid", p.pid)
	return w, nil
}

func (s *Server) delete(r *http.Request) (any, error) {
	k, p := keyOf(r), peerOf(r.Context())
	err := s.Registry.Delete(r.Context(), k)
	if err == nil {
		s.Log.Info("workload gave its assignment back", "workload", k, "uid", p.uid, "pid", p.pid)
	}
	return nil, err
}

func (s *Server) whois(r *http.Request) (any, error) {
	q := r.URL.Query()
	a, err := netip.ParseAddrPort(q.Get("address"))
	if err != nil || !a.Addr().Is4() {
		return nil, invalid("address", "must be an IPv4 address and port, such as 198.51.100.7:4321")
	}
	var at time.Time
	if t := q.Get("at"); t != "" {
		if at, err = time.Parse(time.RFC3339Nano, t); err != nil {
			return nil, invalid("at", "must be a time such as 2026-01-02T15:04:05Z (RFC 3339)")
		}
		if at.Year() < 1970 || at.Year() > 2200 {
			return nil, invalid("at", "nobody was or will be there then")
		}
	}
	o, err := s.Registry.Whois(a, at)
	if err != nil {
		return nil, err
	}
	return api.Owner{Key: o.Key, Serial: o.Serial, Name: o.Request.Name, Network: o.Request.Network, Pool: o.Pool, IPv6: o.Request.IPv6,
		Address: o.Address, Ports: o.Ports, Since: o.Since, Until: o.Until}, nil
}

func (s *Server) pools(*http.Request) (any, error) {
	return api.Pools{Pools: s.Registry.Pools()}, nil
}

func (s *Server) explain(r *http.Request) (any, error) {
	words := r.URL.Query().Get("packet")
	if words == "" || len(words) > maxPacket {
		return nil, invalid("packet", "must be 1 to 4096 bytes of words")
	}
	e, err := s.Explain(r.Context(), words)
	if err != nil {
		return nil, invalid("packet", err.Error())
	}
	return e, nil
}

func (s *Server) reload(r *http.Request) (any, error) {
	// A caller that leaves must not stop halfway what it began.
	err := s.Reload(context.WithoutCancel(r.Context()))
	if disk := (*registry.WriteError)(nil); errors.As(err, &disk) {
		return nil, err
	}
	if err != nil {
		return nil, &api.Problem{Code: api.CodeReloadRefused, Detail: err.Error()}
	}
	return api.Reload{At: time.Now()}, nil
}

func (s *Server) description(*http.Request) (any, error) {
	return raw{"application/yaml", openAPI}, nil
}
