package server

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
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
		{pattern: "GET /v1/workloads", query: []string{"name", "network", "pool", "address", "within", "container", "start", "after", "limit"},
			do: (*Server).list},
		{pattern: "GET /v1/workloads/{container_id}/{interface}", do: (*Server).get},
		{pattern: "PUT /v1/workloads/{container_id}/{interface}", kind: change, do: (*Server).put},
		{pattern: "DELETE /v1/workloads/{container_id}/{interface}", kind: change, do: (*Server).delete},
		{pattern: "GET /v1/whois", query: []string{"address", "at"}, do: (*Server).whois},
		{pattern: "GET /v1/owners", query: []string{"address", "port", "at"}, do: (*Server).owners},
		{pattern: "GET /v1/pools", query: []string{"addresses"}, do: (*Server).pools},
		{pattern: "GET /v1/blocks", do: (*Server).blocks},
		{pattern: putBlocks, kind: slow, do: (*Server).putBlocks},
		{pattern: "GET /v1/relay", kind: slow, do: (*Server).relay},
		{pattern: putRules, kind: slow, do: (*Server).putRules},
		{pattern: patchRules, kind: change, do: (*Server).patchRules},
		{pattern: "GET /v1/drains", do: (*Server).drains},
		{pattern: "PUT /v1/drains/host", kind: change, do: (*Server).drain},
		{pattern: "DELETE /v1/drains/host", kind: change, do: (*Server).undrain},
		{pattern: "PUT /v1/drains/pools/{pool}", kind: change, do: (*Server).drain},
		{pattern: "DELETE /v1/drains/pools/{pool}", kind: change, do: (*Server).undrain},
		{pattern: "GET /v1/policies", query: []string{"workload", "direction", "remote", "proto", "port"}, do: (*Server).policies},
		{pattern: "GET /v1/explain", query: []string{"packet"}, do: (*Server).explain},
		{pattern: "GET /v1/watch", query: []string{"filter", "rate", "bytes", "all", "sample"}, kind: watch, do: (*Server).watch},
		{pattern: "GET /v1/flows", query: []string{"workload", "remote", "port", "proto", "verdict", "since", "open", "follow"}, kind: watch,
			do: (*Server).flows},
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
	next        string        // of a page of rows
	clock       time.Duration // likewise; 0: none
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
			w.Header().Set("Content-Length", strconv.Itoa(len(v.body)))
			if v.next != "" {
				w.Header().Set(api.RowsNext, v.next)
			}
			if v.clock > 0 {
				w.Header().Set(api.RowsClock, strconv.FormatFloat(v.clock.Seconds(), 'f', 9, 64))
			}
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
	if inside := a.Inside(); inside.IsValid() {
		w.Inside = &api.Inside{Address: inside}
	}
	s.Complete(&w)
	return w
}

func (s *Server) list(r *http.Request) (any, error) {
	q := r.URL.Query()
	f := api.Filter{Name: q.Get("name"), Network: q.Get("network"), Pool: q.Get("pool"), Container: q.Get("container"), Start: q.Get("start")}
	if a := q.Get("address"); a != "" {
		var err error
		if f.Address, err = netip.ParseAddr(a); err != nil {
			return nil, invalid("address", err.Error())
		}
	}
	if p := q.Get("within"); p != "" {
		var err error
		if f.Within, err = netip.ParsePrefix(p); err != nil {
			return nil, invalid("within", err.Error())
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
	if len(found) == 0 && f.Pool != "" {
		if err := s.known(f.Pool); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(r.Header.Get("Accept"), api.RowsType) {
		return s.rows(found, next), nil
	}
	if strings.HasPrefix(r.Header.Get("Accept"), api.LinesType) {
		return s.lines(found, next)
	}
	page := api.Page{Workloads: make([]api.Workload, len(found)), Next: next}
	for i, a := range found {
		page.Workloads[i] = s.workload(a)
	}
	return page, nil
}

// rows is a page of a table.
func (s *Server) rows(found []*registry.Assignment, next string) raw {
	clock := time.Since(s.began)
	b := make([]byte, 0, 1024+256*len(found))
	b = append(append(b, strings.Join(api.RowColumns, "\t")...), '\n')
	for _, a := range found {
		w := s.workload(a)
		b = w.Append(b)
	}
	return raw{api.RowsType, b, next, clock}
}

// lines is a page of which nothing need be understood at once.
func (s *Server) lines(found []*registry.Assignment, next string) (any, error) {
	b := bytes.NewBuffer(make([]byte, 0, 1024+512*len(found)))
	encoder := json.NewEncoder(b)
	for _, a := range found {
		if err := encoder.Encode(s.workload(a)); err != nil {
			return nil, err
		}
	}
	return raw{contentType: api.LinesType, body: b.Bytes(), next: next}, nil
}

// known refuses a pool that is not there: who asks for its workloads has misspelt it.
func (s *Server) known(pool string) error {
	var names []string
	for _, p := range s.Registry.Pools() {
		if p.Name == pool {
			return nil
		}
		names = append(names, p.Name)
	}
	if names == nil {
		return invalid("pool", fmt.Sprintf("there is no pool %q: none is configured", pool))
	}
	return invalid("pool", fmt.Sprintf("there is no pool %q: there are %s", pool, strings.Join(names, ", ")))
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
	s.Log.Info("workload has an assignment", "workload", k, "name", q.Name, "address", w.Address, "ports", api.PortsText(w.Ports),
		"ipv6", q.IPv6, "uid", p.uid, "pid", p.pid)
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
	at, err := moment(q.Get("at"))
	if err != nil {
		return nil, err
	}
	o, err := s.Registry.Whois(a, at)
	if err != nil {
		return nil, err
	}
	return asOwner(o), nil
}

func asOwner(o *registry.Assignment) api.Owner {
	detail := ""
	if pool := o.Request.Labels[api.FirstUseLabel]; pool != "" {
		detail = "a source that nobody announced: pool " + pool + " gave it this by its first packet (first_use)"
	}
	return api.Owner{Key: o.Key, Detail: detail, Serial: o.Serial, Name: o.Request.Name, Network: o.Request.Network, Pool: o.Pool, IPv6: o.Request.IPv6,
		Address: o.Address, Ports: o.Ports, Inside: o.Inside().IsValid(), Since: o.Since, Until: o.Until}
}

// moment is a time that was asked for; empty is the zero time.
func moment(s string) (at time.Time, err error) {
	if s == "" {
		return at, nil
	}
	if at, err = time.Parse(time.RFC3339Nano, s); err != nil {
		return at, invalid("at", "must be a time such as 2026-01-02T15:04:05Z (RFC 3339)")
	}
	if at.Year() < 1970 || at.Year() > 2200 {
		return at, invalid("at", "nobody was or will be there then")
	}
	return at, nil
}

// owners is whois of whole addresses, and of what belongs to no workload.
func (s *Server) owners(r *http.Request) (any, error) {
	q := r.URL.Query()
	a, err := netip.ParseAddr(q.Get("address"))
	if err != nil || a.Zone() != "" {
		return nil, invalid("address", "must be an IPv4 or IPv6 address, such as 198.51.100.7 or 2001:db8:6::2")
	}
	port := -1
	if p := q.Get("port"); p != "" {
		if port, err = strconv.Atoi(p); err != nil || port < 0 || port > 65535 {
			return nil, invalid("port", "must be a number from 0 to 65535")
		}
	}
	at, err := moment(q.Get("at"))
	if err != nil {
		return nil, err
	}
	return s.Owners(a, port, at)
}

// Owners says who has an address, or its port (-1: any), or had it at a time; the zero time
// is now.
func (s *Server) Owners(a netip.Addr, port int, at time.Time) (answer api.Owners, err error) {
	a, answer.Owners = a.Unmap(), []api.Owner{}
	if s.Leads != nil {
		if leads, ok := s.Leads(a); ok {
			answer.Address, a = leads, leads
		}
	}
	found, before, err := s.Registry.Had(a, port, at)
	if err != nil {
		return answer, err
	}
	for _, o := range found {
		answer.Owners = append(answer.Owners, asOwner(o))
	}
	if s.Identify != nil {
		others, detail := s.Identify(a, port)
		answer.Owners, answer.Detail = append(answer.Owners, others...), detail
	}
	if len(answer.Owners) == 0 {
		for _, o := range before {
			answer.Before = append(answer.Before, asOwner(o))
		}
	}
	return answer, nil
}

func (s *Server) pools(r *http.Request) (any, error) {
	pools := s.Registry.Pools()
	text := r.URL.Query().Get("addresses")
	if text == "" {
		return api.Pools{Pools: pools}, nil
	}
	most, err := strconv.Atoi(text)
	if err != nil || most < 0 {
		return nil, invalid("addresses", "must be a number, of addresses of each pool")
	}
	for i := range pools {
		fullest(&pools[i], most)
	}
	return api.Pools{Pools: pools}, nil
}

func (s *Server) drains(*http.Request) (any, error) {
	return api.Drains{Drains: append([]api.Drain{}, s.Registry.Drains()...)}, nil
}

// drain drains the pool of the path, or the host where it names none.
func (s *Server) drain(r *http.Request) (any, error) {
	pool, p := r.PathValue("pool"), peerOf(r.Context())
	d, err := s.Registry.Drain(pool)
	if err == nil {
		s.Log.Info("no new workload gets anything here", "drained", cmp.Or(pool, "host"), "left", d.Left, "uid", p.uid, "pid", p.pid)
	}
	return some(d, err)
}

func (s *Server) undrain(r *http.Request) (any, error) {
	pool, p := r.PathValue("pool"), peerOf(r.Context())
	err := s.Registry.Undrain(pool)
	if err == nil {
		s.Log.Info("new workloads get something again", "undrained", cmp.Or(pool, "host"), "uid", p.uid, "pid", p.pid)
	}
	return nil, err
}

// fullest leaves a pool no more addresses than most.
func fullest(p *api.Pool, most int) {
	if p.Others = len(p.Addresses) - most; p.Others <= 0 {
		p.Others = 0
		return
	}
	slices.SortStableFunc(p.Addresses, func(a, b api.PoolAddress) int { return b.PortsUsed + b.PortsCooling - a.PortsUsed - a.PortsCooling })
	p.Addresses = p.Addresses[:most]
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
	return raw{contentType: "application/yaml", body: openAPI}, nil
}
