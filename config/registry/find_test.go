package registry

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/ports"
)

// TestFind gives and takes back at random, and sees that find never overlooks an
// address that is emptier than the one it found.
func TestFind(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 5))
	made, err := newPools([]Pool{{Name: "p", IPv4: netip.MustParsePrefix("192.0.2.0/28"), PortsPerWorkload: 8192}})
	if err != nil {
		t.Fatal(err)
	}
	p := made[0]
	type given struct {
		at    *address
		ports ports.Set
	}
	var all []given
	found := 0
	for step := range 5000 {
		if len(all) > 0 && rnd.IntN(2+step/1000%2) == 0 {
			i := rnd.IntN(len(all))
			g := all[i]
			all[i] = all[len(all)-1]
			all = all[:len(all)-1]
			g.at.assigned -= size(g.ports)
			g.at.give(g.ports)
			continue
		}
		n := 1 << (10 + rnd.IntN(5))
		least := maxPorts + 1
		for _, a := range p.addresses {
			if _, ok := a.find(p, n, nil); ok {
				least = min(least, a.used())
			}
		}
		best, ports := p.find(n, nil)
		switch {
		case best == nil && least <= maxPorts:
			t.Fatalf("step %d: nothing found, but one with %d ports in use has room", step, least)
		case best == nil:
			continue
		case best.used() != least || !best.free(ports):
			t.Fatalf("step %d: found %s with %d ports in use, want one with %d", step, best.addr, best.used(), least)
		}
		found++
		best.take(ports)
		best.assigned += size(ports)
		all = append(all, given{best, ports})
	}
	if found < 1000 {
		t.Fatalf("found %d only", found)
	}
}
