//go:build linux

package page

import (
	"cmp"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// perPage is how many workloads a page of a list has.
var perPage = 100

// list is the page of workloads.
type list struct {
	Find, Pool, Only string
	Pools            []string
	Columns          []heading
	Workloads        []row
	All, Found       int
	ActiveCount      int
	Total            busy
	Counted          bool    // packets are counted by workload
	Seconds          float64 // over which rates are; 0: they are not known yet
	First, Last      int     // of the rows, from 1
	Previous, Next   string  // queries of the pages beside
	Order            string  // in words
	Sort             string  // as it was asked for
}

// Filtered says that not all workloads are wanted.
func (l *list) Filtered() bool { return l.Find != "" || l.Pool != "" || l.Only != "" }

// OddPool says that the pool is none of those that are configured.
func (l *list) OddPool() bool { return l.Pool != "" && !slices.Contains(l.Pools, l.Pool) }

// row is a workload of a list.
type row struct {
	owner
	busy
}

// heading is the head of a column that can be sorted by.
type heading struct {
	Title, Class string
	Query        string // asks for this order, or the other way round
	Sorted       string // aria-sort; empty: by another column
}

// candidate is a workload that is looked for.
type candidate struct {
	key        api.Key
	name, pool string
	address    netip.Addr
	since      time.Time
	busy       *busy
}

// order is a column to sort by. What is a quantity has the greatest first.
type order struct {
	name, title, class string
	counted            bool // needs packets counted by workload
	compare            func(a, b *candidate) int
}

var orders = []order{
	{"name", "Workload", "", false, func(a, b *candidate) int { return words.Natural(a.name, b.name) }},
	{"address", "Address and ports", "side", false, func(a, b *candidate) int { return a.address.Compare(b.address) }},
	{"pool", "Pool", "side", false, func(a, b *candidate) int { return words.Natural(a.pool, b.pool) }},
	{"since", "Since", "wide-only", false, func(a, b *candidate) int { return b.since.Compare(a.since) }},
	{"sent", "Sent", "n", true, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(b.busy.SentRate, a.busy.SentRate), cmp.Compare(b.busy.Sent.Bytes, a.busy.Sent.Bytes))
	}},
	{"received", "Received", "n", true, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(b.busy.ReceivedRate, a.busy.ReceivedRate), cmp.Compare(b.busy.Received.Bytes, a.busy.Received.Bytes))
	}},
	{"refused", "Refused", "n side", false, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(b.busy.RefusedRate, a.busy.RefusedRate), cmp.Compare(b.busy.Violations, a.busy.Violations))
	}},
	{"traffic", "", "", true, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(b.busy.rate(), a.busy.rate()), cmp.Compare(b.busy.bytes(), a.busy.bytes()))
	}},
}

func (p *Page) workloads(r *http.Request) (view, error) {
	q := r.URL.Query()
	l := list{Find: strings.TrimSpace(q.Get("name")), Pool: q.Get("pool"), Only: q.Get("only"), Sort: q.Get("sort"), Counted: p.Counted}
	for _, one := range p.Registry.Pools() {
		l.Pools = append(l.Pools, one.Name)
	}
	by, back := p.orderOf(l.Sort)
	used := p.used()
	l.All, l.Seconds = p.Registry.Len(), used.seconds
	found := p.find(&l, &used)
	l.head(by, back)
	number, _ := strconv.Atoi(q.Get("page"))
	l.turn(number, len(found))
	shown := first(found, l.Last, by.order(back))
	for _, c := range shown[min(l.First-1, len(shown)):] {
		a, err := p.Registry.Get(c.key)
		if errors.Is(err, registry.ErrNotFound) { // gone meanwhile
			continue
		}
		if err != nil {
			return view{}, err
		}
		l.Workloads = append(l.Workloads, row{ownerOf(a), *c.busy})
	}
	return view{Title: "Workloads", Place: "workloads", Live: true, Body: &l}, nil
}

// turn turns to a page of those that were found, or the nearest that there is.
func (l *list) turn(page, found int) {
	page = min(max(page, 1), max((found+perPage-1)/perPage, 1))
	l.Found, l.First, l.Last = found, (page-1)*perPage+1, min(page*perPage, found)
	if page > 1 {
		l.Previous = l.query(l.Sort, page-1)
	}
	if l.Last < found {
		l.Next = l.query(l.Sort, page+1)
	}
}

// order compares by the column, and equal ones by name and key, so that no line jumps.
func (o *order) order(back bool) func(a, b *candidate) int {
	return func(a, b *candidate) int {
		switch c := o.compare(a, b); {
		case c != 0 && back:
			return -c
		case c != 0:
			return c
		}
		if c := words.Natural(a.name, b.name); c != 0 {
			return c
		}
		return cmp.Or(strings.Compare(a.key.ContainerID, b.key.ContainerID), strings.Compare(a.key.Interface, b.key.Interface))
	}
}

// first gives the first few in an order: of many it does not order all the others.
func first(all []candidate, n int, compare func(a, b *candidate) int) (few []*candidate) {
	if n > len(all)/16 {
		for i := range all {
			few = append(few, &all[i])
		}
		slices.SortFunc(few, compare)
		return few[:min(n, len(few))]
	}
	for i := range all {
		c := &all[i]
		if len(few) == n && (n == 0 || compare(c, few[n-1]) >= 0) {
			continue
		}
		at, _ := slices.BinarySearchFunc(few, c, compare)
		if len(few) == n {
			few = few[:n-1]
		}
		few = slices.Insert(few, at, c)
	}
	return few
}

// orderOf understands the words of an address: a column, with - the other way round.
func (p *Page) orderOf(words string) (by *order, back bool) {
	words, back = strings.CutPrefix(words, "-")
	for i := range orders {
		if orders[i].name == words && (p.Counted || !orders[i].counted) {
			return &orders[i], back
		}
	}
	if p.Counted {
		return &orders[len(orders)-1], false
	}
	return &orders[0], false
}

// find looks at all workloads, and sums up those that are wanted.
func (p *Page) find(l *list, used *pair) (found []candidate) {
	wanted, hint := finder(l.Find), 0
	if l.Find == "" {
		found = make([]candidate, 0, l.All)
	}
	for a := range p.Registry.Each() {
		if l.Pool != "" && l.Pool != a.Pool || !wanted(a) {
			continue
		}
		c := candidate{key: a.Key, name: nameOf(a.Key, a.Request.Name), pool: a.Pool, address: a.Address, since: a.Since,
			busy: used.of(a.Serial, &hint)}
		if l.Only == "active" && !c.busy.Active() || l.Only == "refused" && c.busy.Violations == 0 {
			continue
		}
		if c.busy.Active() {
			l.ActiveCount++
		}
		l.Total.add(c.busy)
		found = append(found, c)
	}
	return found
}

// finder understands what somebody looks for: an address, a prefix, or any part of a
// name, an id, a network or an address, in which * is any text.
func finder(words string) func(*registry.Assignment) bool {
	if words == "" {
		return func(*registry.Assignment) bool { return true }
	}
	within, err := netip.ParsePrefix(words)
	if a, wrong := netip.ParseAddr(words); wrong == nil && a.Zone() == "" && !strings.HasSuffix(words, "::") {
		within, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err == nil {
		return func(a *registry.Assignment) bool {
			return within.Contains(a.Address) || slices.ContainsFunc(a.Request.IPv6, within.Contains)
		}
	}
	parts := strings.Split(strings.ToLower(words), "*")
	return func(a *registry.Assignment) bool {
		if holds(a.Request.Name, parts) || holds(a.Key.ContainerID, parts) || holds(a.Request.Network, parts) {
			return true
		}
		if !strings.ContainsAny(words, ".:/") { // neither a part of an address nor of a key
			return false
		}
		var room [64]byte
		text := a.Request.IPv6[0].AppendTo(room[:0])
		return holds(a.Key.String(), parts) || holds(string(text), parts) || holds(string(a.Address.AppendTo(room[:0])), parts)
	}
}

// holds says whether all parts, in lower case, are in a text, one behind the other.
func holds(text string, parts []string) bool {
	text = strings.ToLower(text)
	for _, part := range parts {
		_, rest, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = rest
	}
	return true
}

// head makes the heads of the columns.
func (l *list) head(by *order, back bool) {
	for i := range orders {
		o := &orders[i]
		if o.title == "" || o.counted && !l.Counted {
			continue
		}
		h := heading{Title: o.title, Class: o.class, Query: l.query(o.name, 1)}
		if o == by {
			quantity := strings.HasPrefix(o.class, "n")
			h.Sorted = "ascending"
			if quantity != back {
				h.Sorted = "descending"
			}
			if !back {
				h.Query = l.query("-"+o.name, 1)
			}
		}
		l.Columns = append(l.Columns, h)
	}
	if l.Order = by.title; by.title == "" {
		l.Order = "traffic"
	}
}

// query asks for the same in another order, or for another page.
func (l *list) query(sort string, page int) string {
	v := url.Values{}
	for name, value := range map[string]string{"name": l.Find, "pool": l.Pool, "only": l.Only, "sort": sort} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if page > 1 {
		v.Set("page", strconv.Itoa(page))
	}
	return "/workloads?" + v.Encode()
}
