//go:build linux

package page

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// fewAddresses is how many pictures of a pool the overview has, the fullest;
// perPage is how many workloads a list has.
const (
	fewAddresses = 16
	perPage      = 100
	rows         = 16 // of an address's own picture: 4096 ports each
)

type overview struct {
	Directions []direction
	Drops      []reason
	Pools      []pool
}

type pool struct {
	api.Pool
	Percent int
	Shown   []picture
	Hidden  int
}

type picture struct {
	Address api.PoolAddress
	Strip   strip
}

func (p *Page) overview(*http.Request) (view, error) {
	samples := p.recent.look(p.Now(), p.Traffic)
	o := overview{Directions: directions(samples), Drops: p.drops(samples)}
	for _, one := range p.Registry.Pools() {
		o.Pools = append(o.Pools, p.pool(one))
	}
	return view{Title: "Overview", Live: true, Body: o}, nil
}

func (p *Page) pool(one api.Pool) pool {
	out := pool{Pool: one}
	if one.Ports > 0 {
		out.Percent = one.PortsUsed * 100 / one.Ports
	}
	fullest := slices.Clone(one.Addresses)
	slices.SortStableFunc(fullest, func(a, b api.PoolAddress) int { return b.PortsUsed + b.PortsCooling - a.PortsUsed - a.PortsCooling })
	fullest = fullest[:min(len(fullest), fewAddresses)]
	slices.SortFunc(fullest, func(a, b api.PoolAddress) int { return a.Address.Compare(b.Address) })
	for _, a := range fullest {
		out.Shown = append(out.Shown, picture{a, draw(p.owners(a.Address), p.Assignable(one.Name), 1)[0]})
	}
	out.Hidden = len(one.Addresses) - len(out.Shown)
	return out
}

type address struct {
	Pool    string
	Address netip.Addr
	Strips  []strip
	Owners  []owner
}

func (p *Page) address(r *http.Request) (view, error) {
	a, err := netip.ParseAddr(r.PathValue("address"))
	if err != nil || !a.Is4() {
		return view{}, errNoPage
	}
	name, err := p.poolOf(a)
	if err != nil {
		return view{}, err
	}
	owners := p.owners(a)
	return view{Title: a.String(), Live: true, Body: address{name, a, draw(owners, p.Assignable(name), rows), owners}}, nil
}

func (p *Page) poolOf(a netip.Addr) (string, error) {
	for _, one := range p.Registry.Pools() {
		if slices.ContainsFunc(one.Addresses, func(x api.PoolAddress) bool { return x.Address == a }) {
			return one.Name, nil
		}
	}
	return "", &problem{http.StatusNotFound, a.String() + " is in no pool."}
}

type list struct {
	Name, Pool string
	Workloads  []owner
	Next       string // query of the page behind
}

func (p *Page) workloads(r *http.Request) (view, error) {
	q := r.URL.Query()
	l := list{Name: q.Get("name"), Pool: q.Get("pool")}
	found, next, err := p.Registry.List(api.Filter{Name: l.Name, Pool: l.Pool}, q.Get("after"), perPage)
	if err != nil {
		return view{}, err
	}
	for _, a := range found {
		l.Workloads = append(l.Workloads, p.owner(a))
	}
	if next != "" {
		l.Next = "?" + url.Values{"name": {l.Name}, "pool": {l.Pool}, "after": {next}}.Encode()
	}
	return view{Title: "Workloads", Body: l}, nil
}

// owner is ownerOf with what only the translator knows.
func (p *Page) owner(a *registry.Assignment) owner {
	o := ownerOf(a)
	p.Complete(&o.Workload)
	return o
}

type workload struct {
	owner
	Strip strip
}

func (p *Page) workload(r *http.Request) (view, error) {
	k := api.Key{ContainerID: r.PathValue("container"), Interface: r.PathValue("interface")}
	a, err := p.Registry.Get(k)
	if errors.Is(err, registry.ErrNotFound) {
		return view{}, &problem{http.StatusNotFound, "There is no workload " + k.String() + " any more."}
	}
	if err != nil {
		return view{}, err
	}
	o := p.owner(a)
	all := p.owners(a.Address)
	for i := range all {
		if all[i].Workload.Key != k { // the neighbours are seen, but stand back
			all[i].Colour = ""
		}
	}
	return view{Title: o.Name, Live: true, Body: workload{o, draw(all, p.Assignable(a.Pool), 1)[0]}}, nil
}

type whois struct {
	Asked string
	At    string
	Owner *owner
	Until time.Time
}

// whois finds an owner by address and port, or goes to an address's page.
func (p *Page) whois(r *http.Request) (view, error) {
	q := r.URL.Query()
	v := view{Title: "Who is", Ask: q.Get("address")}
	if strings.TrimSpace(v.Ask) == "" {
		return v, &problem{http.StatusBadRequest, "Ask for an address and port, such as 198.51.100.1:4321."}
	}
	a, hasPort, err := parseAddress(v.Ask)
	if err != nil {
		return v, err
	}
	var at time.Time
	if s := q.Get("at"); s != "" {
		if at, err = time.Parse("2006-01-02T15:04", s); err != nil {
			return v, &problem{http.StatusBadRequest, fmt.Sprintf("“%s” is not a time: write it as 2026-01-02T15:04 (UTC).", s)}
		}
	}
	if !hasPort {
		return p.whoHas(v, a.Addr())
	}
	body := whois{Asked: a.String(), At: q.Get("at")}
	found, err := p.Registry.Whois(a, at)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return v, err
	}
	if err == nil {
		o := p.owner(found)
		body.Owner, body.Until = &o, found.Until
	}
	v.Body = body
	return v, nil
}

// whoHas is for an address without a port: a workload's own, or one that many
// share.
func (p *Page) whoHas(v view, a netip.Addr) (view, error) {
	found, _, err := p.Registry.List(api.Filter{Address: a}, "", 2)
	switch {
	case err != nil:
		return v, err
	case len(found) == 0:
		return v, &problem{http.StatusNotFound, "No workload has " + a.String() + "."}
	case len(found) > 1:
		return v, &problem{http.StatusBadRequest, fmt.Sprintf("Workloads share %v: ask with a port, such as %v:4321.", a, a)}
	}
	o := p.owner(found[0])
	v.Body = whois{Asked: a.String(), Owner: &o}
	return v, nil
}
