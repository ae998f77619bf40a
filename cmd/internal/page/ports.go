//go:build linux

package page

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

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
	Label        string // for who cannot see it
}

// Linked says that it leads to workloads. All that it says stands beside it in words,
// too, with the same links.
func (s *strip) Linked() bool {
	return slices.ContainsFunc(s.Runs, func(r run) bool { return r.Link != "" })
}

// run is a rectangle in a strip.
type run struct {
	X, Width int
	Kind     string // own, other, many, closed
	Colour   string // class of own
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

// colours is how many there are: neighbours differ.
const colours = 8

func colour(i int) string { return "c" + strconv.Itoa(i%colours) }

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
	if inside := a.Inside(); inside.IsValid() {
		w.Inside = &api.Inside{Address: inside}
	}
	return owner{Name: nameOf(a.Key, a.Request.Name), Link: linkTo(a.Key), Ports: api.PortsText(a.Ports), Workload: w}
}

// mostDrawn is how many workloads of an address have a colour of their own in a row:
// of more there would be nothing to be seen, and much to load.
const mostDrawn = 128

// draw makes the pictures of an address: its ports cut into rows.
func draw(owners []owner, assignable ports.Set, rows int) []*strip {
	width := allPorts / rows
	strips := make([]*strip, rows)
	for i := range strips {
		s := &strip{First: i * width, Width: width}
		s.Label = fmt.Sprintf("Ports %d to %d", s.First, s.First+width-1)
		strips[i] = s
		s.closed(assignable)
		if len(owners) > mostDrawn*rows {
			s.crowd(owners)
			continue
		}
		for _, o := range owners {
			s.own(o)
		}
	}
	return strips
}

// drawOne makes the picture of an address on which one workload alone has a colour.
func drawOne(owners []owner, assignable ports.Set) *strip {
	s := &strip{Width: allPorts}
	s.closed(assignable)
	if len(owners) > mostDrawn {
		s.crowd(owners)
		owners = slices.DeleteFunc(owners, func(o owner) bool { return o.Colour == "" })
	}
	for _, o := range owners {
		s.own(o)
	}
	return s
}

// own draws what a workload has.
func (s *strip) own(o owner) {
	has, kind := o.Workload.Ports, "own"
	if has.IsZero() {
		has = ports.All()
	}
	if o.Colour == "" {
		kind = "other"
	}
	for r := range has.Runs() {
		s.add(r, run{Kind: kind, Colour: o.Colour, Link: o.Link, Text: fmt.Sprintf("%s: %v", o.Name, r)})
	}
}

// crowd draws what many have, without saying who.
func (s *strip) crowd(owners []owner) {
	var all []ports.Range
	for _, o := range owners {
		all = slices.AppendSeq(all, o.Workload.Ports.Runs())
	}
	for r := range ports.Of(all...).Runs() {
		s.add(r, run{Kind: "many", Text: fmt.Sprintf("%v: of many workloads", r)})
	}
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
