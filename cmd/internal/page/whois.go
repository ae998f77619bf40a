//go:build linux

package page

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
)

type whois struct {
	Asked string
	At    string
	api.Owners
}

// whois says who has, or had, an address, as natless whois does.
func (p *Page) whois(r *http.Request) (view, error) {
	q := r.URL.Query()
	v := view{Title: "Who is", Ask: q.Get("address")}
	if strings.TrimSpace(v.Ask) == "" {
		return v, &problem{http.StatusBadRequest, "Ask for an address and port, such as 198.51.100.1:4321."}
	}
	a, port, err := parseAddress(v.Ask)
	if err != nil {
		return v, err
	}
	var at time.Time
	if s := q.Get("at"); s != "" {
		if at, err = time.Parse("2006-01-02T15:04", s); err != nil {
			return v, &problem{http.StatusBadRequest, fmt.Sprintf("“%s” is not a time: write it as 2026-01-02T15:04 (UTC).", s)}
		}
	}
	body := whois{Asked: strings.TrimSpace(v.Ask), At: q.Get("at")}
	if body.Owners, err = p.Owners(a, port, at); err != nil {
		return v, err
	}
	if n := len(body.Owners.Owners); n > fewOwners {
		return v, &problem{http.StatusBadRequest, fmt.Sprintf("%d share %v: ask with a port, such as %v.", n, a, netip.AddrPortFrom(a, 4321))}
	}
	v.Body = body
	return v, nil
}

// parseAddress reads an address with a port, or without one (-1).
func parseAddress(s string) (a netip.Addr, port int, err error) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddrPort(s); err == nil && a.Addr().Zone() == "" {
		return a.Addr().Unmap(), int(a.Port()), nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
		return a.Unmap(), -1, nil
	}
	return a, -1, &problem{http.StatusBadRequest, fmt.Sprintf("“%s” is not an address: ask for one such as 198.51.100.1:4321.", s)}
}

// holder is an owner with what the page shows of it.
type holder struct {
	api.Owner
	Name, Link, Ports string
}

// Holders are the owners, and then who had it last, where nobody has.
func (w whois) Holders() (all []holder) {
	for _, o := range slices.Concat(w.Owners.Owners, w.Before) {
		h := holder{Owner: o, Name: o.Name}
		if o.Kind == "" {
			h.Name, h.Link = nameOf(o.Key, o.Name), linkTo(o.Key)
		}
		if o.Kind == "" || !o.Ports.IsZero() {
			h.Ports = api.PortsText(o.Ports)
		}
		all = append(all, h)
	}
	return all
}
