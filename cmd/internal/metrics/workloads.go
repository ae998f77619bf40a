//go:build linux

package metrics

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/dataplane"
)

const (
	workloadPacketsHelp = "Packets translated for the workload, a superpacket counting as one. Workloads beyond metrics.max_workloads are summed under workload=\"other\", without a key."
	workloadBytesHelp   = "Bytes of the packets translated for the workload, from the IP header on, as they came."
)

var (
	workloadPackets    = prometheus.NewDesc("natless_workload_packets_total", workloadPacketsHelp, []string{"workload", "key", "direction"}, nil)
	workloadBytes      = prometheus.NewDesc("natless_workload_bytes_total", workloadBytesHelp, []string{"workload", "key", "direction"}, nil)
	workloadViolations = prometheus.NewDesc("natless_workload_violations_total", "Packets that the workload sent from ports that are not its own.", []string{"workload", "key"}, nil)
)

// Usage is what was counted for a workload, or for all that ever had the same
// slot in the table: differences are what matters, modulo the width.
type Usage struct {
	dataplane.Traffic
	Violations uint32
}

func (u Usage) minus(v Usage) Usage {
	u.Sent.Packets -= v.Sent.Packets
	u.Sent.Bytes -= v.Sent.Bytes
	u.Received.Packets -= v.Received.Packets
	u.Received.Bytes -= v.Received.Bytes
	u.Violations -= v.Violations
	return u
}

func (u Usage) plus(v Usage) Usage { return u.minus(Usage{}.minus(v)) }

// Workloads turns what is counted by slot into what each workload used. A slot
// passes from one workload to another, and a reload numbers them anew: so it is
// told of every change, and remembers at what count a workload began.
//
// The first max workloads have series of their own for as long as they live;
// who comes when there is no place is among the others for life. So no counter
// ever falls, that of the others included.
type Workloads struct {
	slot func(ipv6 netip.Addr) Usage // of the slot that its mapping has now
	max  int

	mu    sync.Mutex // held over changes of the table, so that no scrape sees half of one
	live  map[api.Key]*member
	shown int
	gone  Usage // of those among the others
}

type member struct {
	name  string
	ipv6  netip.Addr
	began Usage
	shown bool
}

// NewWorkloads begins with those that there are. slot gives the counts of the
// slot that the mapping of an address has.
func NewWorkloads(max int, there []*registry.Assignment, slot func(ipv6 netip.Addr) Usage) *Workloads {
	w := &Workloads{slot: slot, max: max, live: make(map[api.Key]*member, len(there))}
	slices.SortFunc(there, func(a, b *registry.Assignment) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.Key.String(), b.Key.String())
	})
	for _, a := range there {
		w.join(a, Usage{})
	}
	return w
}

// Change makes a change of the table by edit.
func (w *Workloads) Change(c registry.Change, edit func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var used Usage
	if c.Old != nil {
		used = w.used(w.live[c.Old.Key])
	}
	if err := edit(); err != nil {
		return err
	}
	if c.Old != nil && c.New != nil && c.Old.Key == c.New.Key {
		if m := w.live[c.New.Key]; m != nil { // the same workload, with something else
			m.name, m.ipv6 = nameOf(c.New), c.New.Request.IPv6[0]
			m.began = w.slot(m.ipv6).minus(used)
			return nil
		}
	}
	if c.Old != nil {
		w.leave(c.Old.Key, used)
	}
	if c.New != nil {
		w.join(c.New, w.slot(c.New.Request.IPv6[0]))
	}
	return nil
}

// Renumber makes a change of the table, by edit, that leaves every workload's
// mapping but may give it another slot.
func (w *Workloads) Renumber(edit func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	used := make(map[*member]Usage, len(w.live))
	for _, m := range w.live {
		used[m] = w.used(m)
	}
	if err := edit(); err != nil {
		return err
	}
	for m, u := range used {
		m.began = w.slot(m.ipv6).minus(u)
	}
	return nil
}

// Violations is how many packets a workload sent from ports not its own.
func (w *Workloads) Violations(k api.Key) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used(w.live[k]).Violations
}

func (w *Workloads) used(m *member) Usage {
	if m == nil {
		return Usage{}
	}
	return w.slot(m.ipv6).minus(m.began)
}

func (w *Workloads) join(a *registry.Assignment, began Usage) {
	m := &member{name: nameOf(a), ipv6: a.Request.IPv6[0], began: began, shown: w.shown < w.max}
	if m.shown {
		w.shown++
	}
	w.live[a.Key] = m
}

func (w *Workloads) leave(k api.Key, used Usage) {
	m := w.live[k]
	if m == nil {
		return
	}
	delete(w.live, k)
	if m.shown {
		w.shown--
	} else {
		w.gone = w.gone.plus(used)
	}
}

// nameOf is for people: what the workload is called, or its key.
func nameOf(a *registry.Assignment) string {
	if a.Request.Name == "" {
		return a.Key.String()
	}
	return strings.ToValidUTF8(a.Request.Name, "�")
}

// Describe names the metrics.
func (w *Workloads) Describe(ch chan<- *prometheus.Desc) {
	ch <- workloadPackets
	ch <- workloadBytes
	ch <- workloadViolations
}

type row struct {
	name, key string
	Usage
}

// Collect gives the series of the workloads that have their own, and of the
// others together.
func (w *Workloads) Collect(ch chan<- prometheus.Metric) {
	for _, r := range w.rows() {
		s := sink(ch)
		for i, n := range [...]dataplane.Count{dataplane.To4: r.Sent, dataplane.To6: r.Received} {
			s.counter(workloadPackets, n.Packets, r.name, r.key, directions[i].String())
			s.counter(workloadBytes, n.Bytes, r.name, r.key, directions[i].String())
		}
		s.counter(workloadViolations, uint64(r.Violations), r.name, r.key)
	}
}

func (w *Workloads) rows() []row {
	w.mu.Lock()
	defer w.mu.Unlock()
	rows, others := make([]row, 0, w.shown+1), w.gone
	for k, m := range w.live {
		if m.shown {
			rows = append(rows, row{m.name, k.String(), w.used(m)})
		} else {
			others = others.plus(w.used(m))
		}
	}
	return append(rows, row{"other", "", others})
}
