package doctor

import (
	"slices"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

// TestInside: of a workload with IPv4 inside what it has in its container, the device
// and the program at its interface are looked at, one thing wrong at a time.
func TestInside(t *testing.T) {
	good := []string{"tcx program sent4 at interface veth7", "tcx program given4 at interface natless4"}
	for _, c := range []struct {
		want     string // "": nothing is wrong
		host     func(*made)
		programs []string
		check    *api.Check
	}{
		{programs: good},
		{want: "warn inside: in web, whose IPv4 is inside: missing: rule 29", programs: good, host: func(m *made) { m.inside = []string{"missing: rule 29"} }},
		{want: "fail inside: the device natless4 is gone", programs: good, host: func(m *made) { m.links = m.links[:len(m.links)-1] }},
		{want: "fail inside: the device natless4 is down", programs: good, host: func(m *made) { m.links[len(m.links)-1].Up = false }},
		{want: "fail inside: no program at the interfaces of workloads with IPv4 inside, whose IPv4 leads nowhere: veth7 (web)", programs: good[1:]},
		{want: "fail inside: no program at natless4", programs: good[:1]},
		{want: "warn inside: the daemon says: 1 of 1 is stale", programs: good, check: &api.Check{Name: "inside", State: "warn", Detail: "1 of 1 is stale"}},
	} {
		m := healthy()
		m.links = append(m.links, Link{Name: "natless4", Kind: "tuntap", Up: true, MTU: 1500})
		m.fastPath = slices.Clone(c.programs)
		m.sends = "" // the prefix is closed there, and that is right
		if c.host != nil {
			c.host(m)
		}
		p := patient(t, m, nil, "")
		p.Client = daemonOf(t, func(s *api.Status) {
			s.FastPath = api.FastPath{Mode: "off", State: api.FastPathOff}
			if c.check != nil {
				s.Checks = append(s.Checks, *c.check)
			}
		}, api.Request{Inside: api.IPv4Inside, HostInterface: "veth7"})
		got := text(Examine(t.Context(), p, nil))
		if !strings.Contains(got, c.want) || strings.Count(got, "\n") != min(len(c.want), 1) {
			t.Errorf("got\n%swant %q", got, c.want)
		}
	}
}
