//go:build linux

package cni

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// insideCases are what containers with IPv4 inside are seen to do, in this order: the
// last ones change the host and the server for good.
var insideCases = []struct {
	name string
	run  func(*insiders, *testing.T)
	host bool // only where the address is the host's, too
}{
	{"literal", (*insiders).literal, false},
	{"udp", (*insiders).udp, false},
	{"inbound", (*insiders).inbound, false},
	{"between", (*insiders).between, false},
	{"ports of others", (*insiders).others, false},
	{"spoofed", (*insiders).spoofed, false},
	{"ping", (*insiders).pings, false},
	{"prefix closed", (*insiders).prefixClosed, false},
	{"never", (*insiders).never, false},
	{"sockets", (*insiders).sockets, false},
	{"untouched", (*insiders).untouched, false},
	{"forged", (*insiders).forged, false},
	{"protocols", (*insiders).protocols, false},
	{"unconnected", (*insiders).unconnected, false},
	{"announced", (*insiders).announced, false},
	{"echoes", (*insiders).echoes, false},
	{"forced", (*insiders).forced, false},
	{"nested", (*insiders).nested, false},
	{"moved", (*insiders).moved, false},
	{"traces", (*insiders).traces, false},
	{"path MTU", (*insiders).pathMTU, false},
	{"host", (*insiders).host, true},
	{"own tools", (*insiders).ownTools, false},
}

// TestInside: containers whose network is IPv6-only, behind the reference plugins, in
// which all is IPv4; they share an address with each other or with the host, too.
func TestInside(t *testing.T) {
	for _, c := range []struct {
		kind, config string
		host         bool // the address is the host's, too
		rpFilter     int
	}{
		{"ptp", insidePool + wholePool, false, 0}, {"bridge", insidePool, false, 1},
		{"ptp", insideUplink, true, 1}, {"bridge", insideUplink, true, 2},
		{"podman bridge", insideUplink, true, 0},
	} {
		name := c.kind
		if c.host {
			name += " on the host's address"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := place(t, c.kind, c.config, c.rpFilter)
			i.far = i.farHost(t)
			for _, of := range insideCases {
				if !of.host || c.host {
					t.Run(of.name, func(t *testing.T) { of.run(i, t) })
				}
			}
		})
	}
}

// TestInsideTable: inside.md names a test for each case, every one is there, and of what
// TestInside does nothing is missing from it.
func TestInsideTable(t *testing.T) {
	t.Parallel()
	table, err := os.ReadFile("inside.md")
	if err != nil {
		t.Fatal(err)
	}
	var functions, unnamed []string
	for _, of := range insideCases {
		unnamed = append(unnamed, of.name)
	}
	files, _ := os.ReadDir(".")
	for _, f := range files {
		if source, err := os.ReadFile(f.Name()); err == nil {
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
				functions = append(functions, string(m[1]))
			}
		}
	}
	rows := 0
	for line := range strings.Lines(string(table)) {
		cells := strings.Split(strings.Trim(line, "|\n "), "|")
		if len(cells) != 3 || strings.HasPrefix(line, "|---") || strings.Contains(cells[2], "test") {
			continue
		}
		rows++
		named := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1)
		if len(named) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, n := range named {
			at := slices.IndexFunc(insideCases, func(of struct {
				name string
				run  func(*insiders, *testing.T)
				host bool
			}) bool {
				return of.name == n[1]
			})
			if at < 0 && !slices.Contains(functions, n[1]) {
				t.Errorf("there is no test %s: %s", n[1], line)
			}
			unnamed = slices.DeleteFunc(unnamed, func(s string) bool { return s == n[1] })
		}
	}
	if rows < 20 || len(unnamed) > 0 {
		t.Errorf("%d rows; not in the table: %q", rows, unnamed)
	}
}
