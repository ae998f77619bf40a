//go:build linux

package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/dataplane"
)

const (
	workloadPacketsHelp = "Packets translated for the workload, a superpacket counting as one. Workloads beyond metrics.max_workloads are summed under workload=\"other\", without a key."
	workloadBytesHelp   = "Bytes of the packets translated for the workload, from the IP header on, as they came."
)

var (
	workloadPackets = prometheus.NewDesc("natless_workload_packets_total", workloadPacketsHelp,
		[]string{"workload", "key", "direction"}, nil)
	workloadBytes      = prometheus.NewDesc("natless_workload_bytes_total", workloadBytesHelp, []string{"workload", "key", "direction"}, nil)
	workloadViolations = prometheus.NewDesc("natless_workload_violations_total",
		"Packets that the workload sent from ports that are not its own.", []string{"workload", "key"}, nil)
	workloadShed = prometheus.NewDesc("natless_workload_shed_packets_total",
		"Packets from and to the workload that were dropped because they were more than it may bring.", []string{"workload", "key"}, nil)
	workloadDenied = prometheus.NewDesc("natless_workload_denied_packets_total",
		"Packets from and to the workload that policies denied.", []string{"workload", "key"}, nil)
)

// Workloads reads what each workload used. Nothing is counted through it, and no
// change waits for it.
type Workloads struct {
	accounts *accounting.Accounting
	find     func(serial uint64) (*registry.Assignment, error)
}

// NewWorkloads reads accounts; find gives whose they are, while they last.
func NewWorkloads(accounts *accounting.Accounting, find func(serial uint64) (*registry.Assignment, error)) *Workloads {
	return &Workloads{accounts, find}
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
	ch <- workloadShed
	ch <- workloadDenied
}

type row struct {
	name, key string
	accounting.Usage
}

// Collect gives the series of the workloads that have their own, and of the
// others together.
func (w *Workloads) Collect(ch chan<- prometheus.Metric) {
	for _, r := range w.rows() {
		s := sink(ch)
		for i, n := range [...]accounting.Count{dataplane.To4: r.Sent, dataplane.To6: r.Received} {
			s.counter(workloadPackets, n.Packets, r.name, r.key, directions[i].String())
			s.counter(workloadBytes, n.Bytes, r.name, r.key, directions[i].String())
		}
		s.counter(workloadViolations, r.Violations, r.name, r.key)
		s.counter(workloadShed, r.Shed, r.name, r.key)
		s.counter(workloadDenied, r.Denied, r.name, r.key)
	}
}

// rows are the series. An assignment that has just been replaced by another of the
// same workload is in the accounts by the one serial, and in the registry by the
// other: then the accounts are read again.
func (w *Workloads) rows() []row {
	const patience = 3
	for try := 0; ; try++ {
		items, others := w.accounts.Items()
		rows, missed := make([]row, 0, len(items)+1), false
		for serial, used := range items {
			if a, err := w.find(serial); err == nil {
				rows = append(rows, row{nameOf(a), a.Key.String(), used})
			} else {
				missed = true // or it has ended
			}
		}
		if !missed || try == patience {
			return append(rows, row{"other", "", others})
		}
	}
}
