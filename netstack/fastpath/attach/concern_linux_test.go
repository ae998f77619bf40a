package attach

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/netstack/fastpath"
)

// TestConcerns: beside a full table of routes, whose changes never end, only those are looked
// at that a look would find something else for.
func TestConcerns(t *testing.T) {
	r := newRig(t)
	r.IP("addr add 192.0.2.1/24 dev uplink")
	r.IP("link add other type veth peer name other-far")
	r.IP("link set other up")
	r.IP("addr add 203.0.113.1/24 dev other")
	r.IP("route add 198.51.100.2/32 dev natless0")
	r.IP("route add 2001:db8:64::/96 dev natless0")
	var all strings.Builder
	for i := range 4*fastpath.MaxParts + 100 {
		fmt.Fprintf(&all, "route add 10.%d.%d.0/24 via 192.0.2.%d\n", i>>8, i&255, 2+i&1)
	}
	batch := filepath.Join(t.TempDir(), "routes")
	if err := os.WriteFile(batch, []byte(all.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Run("ip", "-batch", batch)
	m, _ := r.run(r.config)
	var before *concern
	looked := func() { // since before
		t.Helper()
		for begin := time.Now(); m.concern.Load() == nil || m.concern.Load() == before; time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > 20*time.Second {
				t.Fatal("all routes concern it")
			}
		}
		before = m.concern.Load()
	}
	looked()
	for _, c := range []struct {
		change   string
		concerns bool
	}{
		{"replace 10.0.7.0/24 via 192.0.2.3", false},
		{"del 10.0.9.0/24", false},
		{"add 11.0.0.0/8 via 192.0.2.2", false},
		{"add default via 192.0.2.2", true},
		{"add 12.0.0.0/8 dev other", true},
		{"add 12.1.0.0/16 via 192.0.2.2", true}, // within what is elsewhere
		{"add blackhole 13.0.0.0/8", true},
		{"add 14.0.0.0/8 nexthop via 192.0.2.2 nexthop dev other", true},
		{"add 198.51.100.2/32 via 192.0.2.2 metric 5", true}, // a mapping's
		{"del 198.51.100.2/32 via 192.0.2.2 metric 5", true},
		{"replace 10.0.8.0/24 via 192.0.2.3", false},
	} {
		told := m.told.Load()
		r.IP("route " + c.change)
		deadline := time.Now().Add(300 * time.Millisecond)
		if c.concerns {
			deadline = time.Now().Add(20 * time.Second)
		}
		for m.told.Load() == told && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if is := m.told.Load() != told; is != c.concerns {
			t.Errorf("%s: told of: %v", c.change, is)
		} else if is {
			looked()
		}
	}
}
