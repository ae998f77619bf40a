//go:build linux

package cni

import (
	"fmt"
	"testing"
)

// moved: a container that gives its interface another MAC address is reached at once,
// from outside, by others, by the daemon, and reaches as before.
func (i *insiders) moved(t *testing.T) {
	port := int(i.wb.Run().First) + 27
	i.b.answers(t, port)
	reached := func(when string) {
		t.Helper()
		for _, from := range []struct {
			name string
			commander
		}{{"the server", i.server}, {i.a.Name, i.a}, {i.six.Name, i.six}} {
			to := i.wb.Address.String()
			if from.name == i.six.Name {
				to = "[2001:db8:64::" + to + "]"
			}
			if got, err := gets(from, fmt.Sprintf("http://%s:%d/", to, port)); err != nil || got != i.b.Name {
				t.Errorf("%s, from %s: %q, %v", when, from.name, got, err)
			}
		}
		if out, err := i.b.Command("ping", "-4", "-c", "2", "-i", "0.2", "-W", "9", serverIPv4).CombinedOutput(); err != nil {
			t.Errorf("%s, ping: %v\n%s", when, err, out)
		}
	}
	reached("before")
	i.b.IP("link set eth0 address 02:00:00:00:be:ef")
	reached("after")
}
