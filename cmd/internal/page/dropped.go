//go:build linux

package page

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator"
)

// Dropped is what was seen of packets that were dropped, since somebody looks.
type Dropped struct {
	Since   time.Time
	Packets []api.Event // the last, the oldest first
	All     uint64      // that there were
	LeftOut uint64      // of these, since there were so many
	Error   string      // why nobody watches
}

// mostVictims and mostLosses are how many lines the tables of that page have.
const mostVictims, mostLosses = 30, 15

type dropped struct {
	Dropped
	Victims []victim
	Last    []loss // the last one first
	For     string
}

// victim is for whom packets were dropped, and why.
type victim struct {
	Who, Reason, Meaning string
	Workload             bool
	Packets              int
	Last                 time.Time
	Words                string // the last of them
}

// loss is a packet, or several of the same words one behind the other.
type loss struct {
	Time               time.Time // of the last
	Who, Reason, Words string
	Times              int
}

func (p *Page) dropped(*http.Request) (view, error) {
	if p.Dropped == nil {
		return view{}, errNoPage
	}
	d := dropped{Dropped: p.Dropped()}
	d.For = ago(p.Now().Sub(d.Since))
	by := map[[2]string]*victim{}
	var all []*victim
	for i := range d.Packets {
		e := &d.Packets[i]
		who, words := whose(e), ""
		if e.In != nil {
			words = e.In.Words
		}
		why := e.Verdict
		if e.Policy != "" {
			why += " by " + e.Policy
		}
		key := [2]string{who, why}
		v := by[key]
		if v == nil {
			v = &victim{Who: who, Reason: why, Workload: e.Workload != ""}
			if reason, err := translator.ParseVerdict(e.Verdict); err == nil {
				v.Meaning = p.Meaning(reason)
			}
			by[key] = v
			all = append(all, v)
		}
		v.Packets++
		v.Last, v.Words = e.Time, words
		one := loss{e.Time, who, why, words, 1}
		if n := len(d.Last); n > 0 && d.Last[n-1].like(&one) {
			one.Times += d.Last[n-1].Times
			d.Last = d.Last[:n-1]
		}
		d.Last = append(d.Last, one)
	}
	slices.SortStableFunc(all, func(a, b *victim) int { return cmp.Or(cmp.Compare(b.Packets, a.Packets), b.Last.Compare(a.Last)) })
	for _, v := range all[:min(len(all), mostVictims)] {
		d.Victims = append(d.Victims, *v)
	}
	slices.Reverse(d.Last)
	d.Last = d.Last[:min(len(d.Last), mostLosses)]
	return view{Title: "Dropped packets", Place: "dropped", Live: true, Body: d}, nil
}

func (l *loss) like(o *loss) bool {
	return l.Who == o.Who && l.Reason == o.Reason && l.Words == o.Words
}

// whose says for whom a packet was dropped: a workload, else whoever sent it.
func whose(e *api.Event) string {
	switch {
	case e.Workload != "":
		return e.Workload
	case e.In != nil && e.In.Src.IsValid():
		return "from " + e.In.Src.String()
	}
	return "unknown"
}
