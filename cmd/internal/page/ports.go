//go:build linux

package page

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/ports"
)

// allPorts is the width of every strip: one unit is one port.
const allPorts = ports.Count

// strip is the picture of an address's ports from First on.
type strip struct {
	First, Width int
	Runs         []run
}

// run is a rectangle in a strip.
type run struct {
	X, Width int
	Kind     string // own, other, closed
	Colour   string // of own
	Link     string
	Text     string // on hover
}

// owner is a workload as the pictures and tables show it.
type owner struct {
	Name, Link, Ports, Colour string
	Workload                  api.Workload
}

// thinnest is how wide a single port is drawn, for a whole address's width.
const thinnest = allPorts / 512

func nameOf(k api.Key, name string) string {
	if name != "" {
		return name
	}
	return short(k.ContainerID) + "/" + k.Interface
}

// short is a container's ID as its engine's own tools show it.
func short(id string) string { return id[:min(len(id), 12)] }

func linkTo(k api.Key) string { return "/workloads/" + k.ContainerID + "/" + k.Interface }

// colour goes round the wheel by the golden angle, so that neighbours differ.
func colour(i int) string { return fmt.Sprintf("hsl(%d 62%% %d%%)", i*137%360, 52+i%3*7) }

// owners gives who has ports of an address, by the first of their longest run:
// single ports besides do not order.
func (p *Page) owners(a netip.Addr) []owner {
	all := p.Registry.Owners(a)
	slices.SortFunc(all, func(x, y *registry.Assignment) int {
		return cmp.Or(cmp.Compare(x.Ports.Longest().First, y.Ports.Longest().First), cmp.Compare(x.Key.String(), y.Key.String()))
	})
	out := make([]owner, len(all))
	for i, o := range all {
		out[i] = ownerOf(o)
		out[i].Colour = colour(i)
	}
	return out
}

// ownerOf puts an assignment into the page's terms.
func ownerOf(a *registry.Assignment) owner {
	w := api.Workload{Key: a.Key, Serial: a.Serial, Request: a.Request, Pool: a.Pool, Address: a.Address, Ports: a.Ports, Since: a.Since}
	return owner{Name: nameOf(a.Key, a.Request.Name), Link: linkTo(a.Key), Ports: api.PortsText(a.Ports), Workload: w}
}

// draw makes the pictures of an address: its ports cut into rows.
func draw(owners []owner, assignable ports.Set, rows int) []strip {
	width := allPorts / rows
	strips := make([]strip, rows)
	for i := range strips {
		s := &strips[i]
		s.First, s.Width = i*width, width
		s.closed(assignable)
		for _, o := range owners {
			own := o.Workload.Ports
			if own.IsZero() {
				own = ports.All()
			}
			kind := "own"
			if o.Colour == "" {
				kind = "other"
			}
			for r := range own.Runs() {
				s.add(r, run{Kind: kind, Colour: o.Colour, Link: o.Link, Text: fmt.Sprintf("%s: %v", o.Name, r)})
			}
		}
	}
	return strips
}

// closed draws what the pool does not give away by itself.
func (s *strip) closed(assignable ports.Set) {
	if assignable.IsZero() {
		return
	}
	for hole := range assignable.Complement().Runs() {
		s.add(hole, run{Kind: "closed", Text: fmt.Sprintf("%v: not given away by itself", hole)})
	}
}

// add draws the part of a range that is in the strip, wide enough to be seen.
func (s *strip) add(r ports.Range, as run) {
	first, last := max(int(r.First), s.First), min(int(r.Last), s.First+s.Width-1)
	if first > last {
		return
	}
	as.X, as.Width = first-s.First, max(last-first+1, thinnest*s.Width/allPorts)
	as.X = min(as.X, s.Width-as.Width)
	s.Runs = append(s.Runs, as)
}
