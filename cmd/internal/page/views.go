//go:build linux

package page

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
)

// fewAddresses is how many pictures of a pool the overview has, the fullest;
// fewOwners how many workloads of an address stand in its table.
const (
	fewAddresses = 16
	fewOwners    = 1024
	rows         = 16 // of an address's own picture: 4096 ports each
	leaders      = 8  // workloads that the overview names
)

// mostRead is of how many workloads the overview reads all counters, whenever somebody
// looks; of more, the list of workloads does when it is asked for.
const mostRead = 200_000

type overview struct {
	Directions []flow
	FastPath   *fastPath
	Drops      []reason
	Dropped    reason // all of them
	Busiest    []row
	Refused    []row // whose packets were, for their ports
	Counted    bool
	Measured   bool // there are two readings
	Pools      []*pool
}

func (p *Page) overview(*http.Request) (view, error) {
	samples := p.recent.look(p.Now(), func() counts { return counts{p.Traffic(), p.Status().FastPath} })
	o := overview{Directions: directions(samples), FastPath: fastPathOf(samples), Drops: p.drops(samples), Counted: p.Counted}
	for _, d := range o.Drops {
		o.Dropped.Packets, o.Dropped.Rate = o.Dropped.Packets+d.Packets, o.Dropped.Rate+d.Rate
	}
	if p.Registry.Len() <= mostRead {
		used := p.used()
		o.Measured = used.seconds > 0
		o.Busiest = p.rows(used.most(leaders, (*busy).Active, func(a, b *busy) int { return cmp.Compare(b.rate(), a.rate()) }))
		o.Refused = p.rows(used.most(leaders, func(b *busy) bool { return b.Violations > 0 }, func(a, b *busy) int {
			return cmp.Or(cmp.Compare(b.RefusedRate, a.RefusedRate), cmp.Compare(b.Violations, a.Violations))
		}))
	}
	for _, one := range p.Registry.Pools() {
		o.Pools = append(o.Pools, p.pool(one))
	}
	return view{Title: "Overview", Place: "overview", Live: true, Body: o}, nil
}

// used reads what all workloads have used.
func (p *Page) used() pair { return p.meter.look(p.Now(), p.Used) }

// rows are who the leaders are. Who has gone meanwhile is left out.
func (p *Page) rows(all []*worker) (rows []row) {
	for _, l := range all {
		if a, err := p.Registry.BySerial(l.serial); err == nil {
			rows = append(rows, row{ownerOf(a), l.busy})
		}
	}
	return rows
}

type pool struct {
	api.Pool
	Bar    *strip // its ports by what they are used for; one unit is one port
	Left   int    // ports, or addresses, that can still be had
	Used   string
	Shown  []picture
	Unused int // addresses of which nobody has anything
	Hidden int // addresses that are no fuller than those shown
	Units  string
}

type picture struct {
	Address api.PoolAddress
	Strip   *strip
}

func (p *Page) pool(one api.Pool) *pool {
	out := &pool{Pool: one, Units: "ports"}
	out.bar()
	var some []api.PoolAddress
	for _, a := range one.Addresses {
		if a.PortsUsed > 0 || a.PortsCooling > 0 || a.Barred != "" {
			some = append(some, a)
		}
	}
	out.Unused = len(one.Addresses) - len(some)
	if one.WholeAddress {
		out.Units = "addresses"
		return out // who has them is a list, not a picture
	}
	slices.SortStableFunc(some, func(a, b api.PoolAddress) int { return b.PortsUsed + b.PortsCooling - a.PortsUsed - a.PortsCooling })
	shown := some[:min(len(some), fewAddresses)]
	out.Hidden = len(some) - len(shown)
	slices.SortFunc(shown, func(a, b api.PoolAddress) int { return a.Address.Compare(b.Address) })
	for _, a := range shown {
		pic := picture{a, draw(p.owners(a.Address), p.Assignable(one.Name), 1)[0]}
		pic.Strip.Label = fmt.Sprintf("Ports of %v: %d of %d used", a.Address, a.PortsUsed, a.Ports)
		out.Shown = append(out.Shown, pic)
	}
	return out
}

// bar draws how full the pool is.
func (p *pool) bar() {
	p.Used = percent(float64(p.PortsUsed), float64(p.Ports))
	p.Left = max(p.Ports-p.PortsUsed-p.PortsCooling-p.PortsOfHost, 0)
	p.Bar = &strip{Width: max(p.Ports, 1)}
	at := 0
	for _, part := range []struct {
		kind string
		n    int
	}{{"used", p.PortsUsed}, {"cooling", p.PortsCooling}, {"host", p.PortsOfHost}} {
		if part.n > 0 {
			p.Bar.Runs = append(p.Bar.Runs, run{X: at, Width: part.n, Kind: part.kind})
			at += part.n
		}
	}
	p.Bar.Label = p.Used + " of the pool are used"
}

// InAddresses is a number of ports as addresses, of a pool of whole ones.
func (p *pool) InAddresses(n int) int { return n / allPorts }

type address struct {
	Pool    string
	Address netip.Addr
	Strips  []*strip
	Owners  []owner
	Hidden  int
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
	body := address{Pool: name, Address: a, Strips: draw(owners, p.Assignable(name), rows), Owners: owners[:min(len(owners), fewOwners)]}
	body.Hidden = len(owners) - len(body.Owners)
	return view{Title: a.String(), Live: true, Body: body}, nil
}

func (p *Page) poolOf(a netip.Addr) (string, error) {
	for _, one := range p.Registry.Pools() {
		if slices.ContainsFunc(one.Addresses, func(x api.PoolAddress) bool { return x.Address == a }) {
			return one.Name, nil
		}
	}
	return "", &problem{http.StatusNotFound, a.String() + " is in no pool."}
}
