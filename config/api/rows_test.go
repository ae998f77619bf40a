package api

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/translator/ports"
)

// TestRows: what is written is read, also by who knows fewer or more columns.
func TestRows(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	w := Workload{Key: Key{"c", "eth0"}, Pool: "p", Address: a, Ports: ports.MustParse("1-4"), Since: time.Unix(1_700_000_000, 0).UTC(), Violations: 3,
		Request: Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}, Inside: &Inside{Address: a.Next()},
		Traffic: &Traffic{Sent: Count{1, 2}, Received: Count{3, 4}}, Shed: 5, Denied: 6, Daemon: 7}
	plain := w
	plain.Inside, plain.Traffic, plain.Shed, plain.Denied, plain.Daemon = nil, nil, 0, 0, 0
	table := func(n int) []byte {
		lines := []string{strings.Join(RowColumns, "\t"), strings.TrimSuffix(string(w.Append(nil)), "\n"), strings.TrimSuffix(string(plain.Append(nil)), "\n")}
		for i, line := range lines {
			words := append(strings.Split(line, "\t"), "new")
			if len(words) != len(RowColumns)+1 {
				t.Fatalf("%q has %d columns", line, len(words)-1)
			}
			lines[i] = strings.Join(words[:n], "\t") + "\n"
		}
		return []byte(strings.Join(lines, ""))
	}
	for n, want := range map[int]Row{
		leastColumns:        {},
		countedColumns:      {Counted: true, Traffic: *w.Traffic},
		len(RowColumns):     {Counted: true, Traffic: *w.Traffic, Inside: "192.0.2.2", Shed: 5, Denied: 6, Daemon: 7},
		len(RowColumns) + 1: {Counted: true, Traffic: *w.Traffic, Inside: "192.0.2.2", Shed: 5, Denied: 6, Daemon: 7}, // of a daemon that is newer
	} {
		base := Row{Key: w.Key, IPv6: "2001:db8::1", Address: a, Ports: "1-4", Pool: "p", Since: w.Since, Violations: 3}
		want.Key, want.IPv6, want.Address, want.Ports, want.Pool, want.Since, want.Violations = base.Key, base.IPv6, base.Address, base.Ports, base.Pool, base.Since, 3
		got, err := readRows(table(n), 0)
		if err != nil || len(got) != 2 || got[0] != want || got[1] != base {
			t.Errorf("%d columns: %+v, %v, want %+v and %+v", n, got, err, want, base)
		}
	}
}
