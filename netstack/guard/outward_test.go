//go:build linux

package guard

import (
	"fmt"
	"maps"
	"net"
	"testing"
	"time"
)

// TestOutward: where IPv4's default routes lead is known after any change of them, also those
// that the kernel says nothing of; a change of another route has nobody look.
func TestOutward(t *testing.T) {
	l := newLab(t)
	l.start()
	index := map[string]int{}
	l.host.Do(func() {
		all, err := net.Interfaces()
		if err != nil {
			t.Error(err)
		}
		for _, i := range all {
			index[i.Name] = i.Index
		}
	})
	for _, c := range []struct {
		change string
		want   []string
	}{
		{"route replace default via 172.17.0.2", []string{"br0"}},
		{"route add default via 192.0.2.2 metric 9", []string{"br0", "eth0"}},
		{"link set br0 down", []string{"eth0"}}, // which takes its routes away, and tells of the interface alone
		{"route replace default metric 9 nexthop via 192.0.2.2 nexthop via 192.0.2.3", []string{"eth0"}},
		{"route del default metric 9", nil},
	} {
		l.host.IP(c.change)
		want, have := map[int]bool{}, map[int]bool(nil)
		for _, name := range c.want {
			want[index[name]] = true
		}
		for end := time.Now().Add(20 * time.Second); !maps.Equal(have, want); time.Sleep(5 * time.Millisecond) {
			l.m.mu.Lock()
			have = maps.Clone(l.m.host.defaults)
			l.m.mu.Unlock()
			if time.Now().After(end) {
				t.Fatalf("%s: default routes by %v, want %v", c.change, have, want)
			}
		}
	}
	listed := func() string {
		l.m.looking.Lock()
		defer l.m.looking.Unlock()
		return fmt.Sprintf("%p", l.m.outward.links)
	}
	time.Sleep(300 * time.Millisecond) // until what is under way is done
	before := listed()
	for i := range 50 {
		l.host.IP(fmt.Sprintf("route add 10.%d.0.0/16 via 192.0.2.2", i))
	}
	time.Sleep(300 * time.Millisecond)
	if listed() != before {
		t.Error("all routes are listed again for those that are no default ones")
	}
}
