//go:build linux

package page

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/natless/natless/cmd/internal/talkers"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// mostWatched is how many workloads' pages are looked at at a time; of more, the one
// that was looked at least lately begins anew.
const mostWatched = 64

// watched is what was counted of workloads whose pages somebody looks at.
type watched struct {
	mu  sync.Mutex
	all []*watching // the one looked at last first
}

type watching struct {
	serial uint64
	history[api.Workload]
}

func (w *watched) of(serial uint64) *watching {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.all, func(o *watching) bool { return o.serial == serial })
	one := &watching{serial: serial}
	if i >= 0 {
		one = w.all[i]
		w.all = slices.Delete(w.all, i, i+1)
	}
	w.all = slices.Insert(w.all, 0, one)
	w.all = w.all[:min(len(w.all), mostWatched)]
	return one
}

type workload struct {
	owner
	Strip       *strip
	Directions  []flow // absent where packets are not counted by workload
	RefusedRate float64
	DeniedRate  float64
	Recorded    bool // flows are
	Top         *top
}

// top is what a workload's flows come to.
type top struct {
	By    string
	Lines []*talkers.Line
	Flows int
	Since time.Duration // with those that ended so long ago
}

// mostTop is how many lines of flows a page has, and flowsSince how long ago they may
// have ended.
const (
	mostTop    = 20
	flowsSince = 10 * time.Minute
)

func (p *Page) workload(r *http.Request) (view, error) {
	k := api.Key{ContainerID: r.PathValue("container"), Interface: r.PathValue("interface")}
	a, err := p.Registry.Get(k)
	if errors.Is(err, registry.ErrNotFound) {
		return view{}, &problem{http.StatusNotFound, "There is no workload " + k.String() + " any more."}
	}
	if err != nil {
		return view{}, err
	}
	body := workload{owner: ownerOf(a), Recorded: p.Flows != nil}
	p.Complete(&body.owner.Workload)
	samples := p.watched.of(a.Serial).look(p.Now(), func() api.Workload { return body.owner.Workload })
	if body.owner.Workload.Traffic != nil {
		body.Directions = []flow{
			flowOf("Sent", samples, func(w *api.Workload) (packets, bytes uint64) { return w.Traffic.Sent.Packets, w.Traffic.Sent.Bytes }),
			flowOf("Received", samples, func(w *api.Workload) (packets, bytes uint64) {
				return w.Traffic.Received.Packets, w.Traffic.Received.Bytes
			}),
		}
	}
	before, last, seconds := stretch(samples)
	body.RefusedRate = perSecond(before.counts.Violations, last.counts.Violations, seconds)
	body.DeniedRate = perSecond(before.counts.Denied, last.counts.Denied, seconds)
	all := p.owners(a.Address)
	for i := range all {
		if all[i].Workload.Key != k { // the neighbours are seen, but stand back
			all[i].Colour = ""
		}
	}
	body.Strip = drawOne(all, p.Assignable(a.Pool))
	body.Strip.Label = "Ports of " + body.Name + ": " + body.Ports
	if by := r.URL.Query().Get("flows"); p.Flows != nil && slices.Contains(talkers.By[1:], by) {
		flows := slices.DeleteFunc(p.Flows(a.Serial, flowsSince), func(f api.Flow) bool {
			return by == talkers.ByRule && f.Policy == "" || by != talkers.ByRule && f.Verdict != "" && f.Verdict != "forward"
		})
		body.Top = &top{by, talkers.Top(flows, by, mostTop), len(flows), flowsSince}
	}
	return view{Title: body.Name, Live: true, Body: body}, nil
}
