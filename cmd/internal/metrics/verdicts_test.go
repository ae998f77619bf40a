package metrics

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
)

// collected is a collector of what a function gives.
type collected func(sink)

func (c collected) Describe(chan<- *prometheus.Desc) {}

func (c collected) Collect(m chan<- prometheus.Metric) { c(m) }

// Each verdict is counted in a series of its own, in each direction in which it
// can be: none is forgotten, and no two are one.
func TestEachVerdictHasItsSeries(t *testing.T) {
	for _, d := range directions {
		seen := map[string]translator.Verdict{}
		for v := range translator.NumVerdicts {
			var counts [translator.NumVerdicts]dataplane.Count
			counts[v] = dataplane.Count{Packets: 7, Bytes: 70_000}
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(collected(func(s sink) { byVerdict(s, d.String(), wayDaemon, &counts) }))
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, family := range families {
				for _, m := range family.GetMetric() {
					if m.GetCounter().GetValue() != 7 {
						continue
					}
					found++
					series := family.GetName() + " " + m.String()
					if other, taken := seen[series]; taken {
						t.Errorf("%v and %v are one series", v, other)
					}
					seen[series] = v
				}
			}
			want := 1
			if v.IsForward() && !possible(d.String(), v) {
				want = 0
			}
			if found != want {
				t.Errorf("%v, %v: counted in %d series, want %d", d, v, found, want)
			}
		}
	}
}
