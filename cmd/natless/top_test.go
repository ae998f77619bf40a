package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
)

// A workload's counters at two looks, a second apart.
func rowsOf(at time.Duration, counts map[string]api.Traffic, names ...string) (rows []api.Row) {
	for i, name := range names {
		rows = append(rows, api.Row{Key: api.Key{ContainerID: fmt.Sprint(i), Interface: "eth0"}, Name: name, Traffic: counts[name], Counted: true,
			Clock: at, Address: netip.MustParseAddr("198.51.100.1"), Ports: "1024-2047"})
	}
	return rows
}

func sentOf(packets, bytes uint64) api.Traffic {
	return api.Traffic{Sent: api.Count{Packets: packets, Bytes: bytes}}
}

// TestBetween: rates are of the daemon's clock; who has just come, and whose counters
// have begun anew, does nothing yet; the total is of all.
func TestBetween(t *testing.T) {
	before := index(rowsOf(time.Second, map[string]api.Traffic{"a": sentOf(10, 1000), "b": sentOf(0, 0), "again": sentOf(99, 9900)}, "a", "b", "again"))
	l := between(before, rowsOf(3*time.Second, map[string]api.Traffic{"a": sentOf(20, 3000), "b": sentOf(100, 90_000), "again": sentOf(5, 50),
		"new": sentOf(7, 70)}, "a", "b", "again", "new"))
	l.order("traffic")
	var got []string
	for _, b := range l.all {
		got = append(got, fmt.Sprintf("%s %v %v", b.row.Name, b.sent.Packets, b.sent.Bytes))
	}
	if got, want := strings.Join(got, ", "), "b 50 45000, a 5 1000, again 0 0, new 0 0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if l.over != 2*time.Second || l.active != 2 || l.sent != (rates{55, 46000}) {
		t.Errorf("%v, %d active, %v", l.over, l.active, l.sent)
	}
	l.order("name")
	if l.all[0].row.Name != "a" || l.all[3].row.Name != "new" {
		t.Error(l.all)
	}
}

func TestScaled(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 0.4: "0", 999: "999", 999.6: "1.0k", 1234: "1.2k", 9949: "9.9k", 9951: "10k", 999_499: "999k",
		999_501: "1.0M", 12_345_678: "12M", 9e9: "9.0G", 1e15: "1.0P", 5e18: "5E"} {
		if got := scaled(n); got != want {
			t.Errorf("%v: %s, want %s", n, got, want)
		}
	}
}

// traffic has ns/db send a thousand packets of 100 bytes a second, and ns/web receive
// half as many.
func traffic() func(*api.Workload) {
	began := time.Now()
	return func(w *api.Workload) {
		n := uint64(time.Since(began).Microseconds()) / 1000
		w.Traffic = &api.Traffic{}
		switch w.Request.Name {
		case "ns/db":
			w.Traffic.Sent = api.Count{Packets: n, Bytes: 100 * n}
		case "ns/web":
			w.Traffic.Received = api.Count{Packets: n / 2, Bytes: 50 * n}
		}
	}
}

// TestTop: the busiest comes first, in a table of 80 columns and in JSON.
func TestTop(t *testing.T) {
	socket := daemonWith(t, traffic())
	var top topJSON
	if err := json.Unmarshal([]byte(run(t, socket, "top", "--once", "-d", "300ms", "-o", "json")), &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Workloads) != 3 || top.Total.Active != 2 || top.Workloads[0].Name != "ns/db" || top.Workloads[1].Name != "ns/web" {
		t.Errorf("%+v", top)
	}
	// The fake's counters follow the time; a slow machine reads them a little late.
	if got := top.Workloads[0].Sent; got.Packets < 500 || got.Packets > 2000 || got.Bytes < 99*got.Packets || got.Bytes > 101*got.Packets {
		t.Errorf("1000 packets of 100 bytes a second are %+v", got)
	}
	text := run(t, socket, "top", "--once", "-d", "100ms", "--limit", "1")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[2], "total ") || !strings.HasPrefix(lines[3], "ns/db ") {
		t.Error(text)
	}
	if got := run(t, socket, "top", "-n", "2", "-d", "100ms", "-o", "json"); strings.Count(got, "\n") != 2 {
		t.Error(got)
	}
}
