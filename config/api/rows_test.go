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
		Traffic: &Traffic{Sent: Count{1, 2}, Received: Count{3, 4}}}
	plain := w
	plain.Inside, plain.Traffic = nil, nil
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
		len(RowColumns):     {Counted: true, Traffic: *w.Traffic, Inside: "192.0.2.2"},
		len(RowColumns) + 1: {Counted: true, Traffic: *w.Traffic, Inside: "192.0.2.2"}, // of a daemon that is newer
	} {
		base := Row{Key: w.Key, IPv6: "2001:db8::1", Address: a, Ports: "1-4", Pool: "p", Since: w.Since, Violations: 3}
		want.Key, want.IPv6, want.Address, want.Ports, want.Pool, want.Since, want.Violations = base.Key, base.IPv6, base.Address, base.Ports, base.Pool, base.Since, 3
		got, err := readRows(table(n), 0)
		if err != nil || len(got) != 2 || got[0] != want || got[1] != base {
			t.Errorf("%d columns: %+v, %v, want %+v and %+v", n, got, err, want, base)
		}
	}
}

// TestRowsOfOtherVersions: a table of a daemon that is older, newer, or counts nothing is
// read as far as it goes; one that is no table is not.
func TestRowsOfOtherVersions(t *testing.T) {
	w := Workload{Key: Key{"c1", "eth0"}, Request: Request{Name: "shop/web", IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::1")}},
		Pool: "default", Address: netip.MustParseAddr("198.51.100.1"), Since: time.Unix(1_700_000_000, 0).UTC(), Violations: 7,
		Traffic: &Traffic{Sent: Count{1, 2}, Received: Count{3, 4}}}
	head, row := strings.Join(RowColumns, "\t"), strings.TrimSuffix(string(w.Append(nil)), "\n")
	first := func(line string, n int) string { return strings.Join(strings.Split(line, "\t")[:n], "\t") }
	w.Traffic = nil
	uncounted := strings.TrimSuffix(string(w.Append(nil)), "\n")
	for _, c := range []struct {
		name, head, row string
		counted         bool
	}{
		{"this one", head, row, true},
		{"newer", head + "\tmore", row + "\tx", true},
		{"older", first(head, leastColumns), first(row, leastColumns), false},
		{"one that counts nothing", head, uncounted, false},
	} {
		got, err := readRows([]byte(c.head+"\n"+c.row+"\n"), time.Second)
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %v, %v", c.name, got, err)
			continue
		}
		r := got[0]
		if r.Name != "shop/web" || r.Violations != 7 || r.Address != w.Address || !r.Since.Equal(w.Since) || r.Counted != c.counted || r.Clock != time.Second {
			t.Errorf("%s: %+v", c.name, r)
		}
		if want := (Traffic{Sent: Count{1, 2}, Received: Count{3, 4}}); c.counted && r.Traffic != want {
			t.Errorf("%s: %+v", c.name, r.Traffic)
		}
	}
	for name, text := range map[string]string{
		"no table": "{}", "other columns": strings.Replace(head, "name", "title", 1) + "\n" + row, "too short": head + "\n" + first(row, 5),
		"no number": head + "\n" + strings.Replace(row, "\t2\t", "\tx\t", 1), "no address": head + "\n" + strings.Replace(row, "198.51.100.1", "x", 1),
	} {
		if got, err := readRows([]byte(text), 0); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestLinesOf: a page of a daemon that has no lines of JSON is made into them.
func TestLinesOf(t *testing.T) {
	lines, next, err := linesOf([]byte(`{"workloads":[{"a":1},{"b":2}],"next":"x"}`))
	if err != nil || string(lines) != "{\"a\":1}\n{\"b\":2}\n" || next != "x" {
		t.Errorf("%q, %q, %v", lines, next, err)
	}
	if _, _, err := linesOf([]byte("nothing")); err == nil {
		t.Error("what is no JSON is read")
	}
}
