//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// TestMain lets the test's program play the parts that the bench gives itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			exit(role(os.Args[2:]))
		}
	}
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// One short round measures every figure of the kernel and of a bare dataplane.
func TestOneRound(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nsenter", "sysctl", "ping")
	l, err := newLab(t.Context())
	defer l.close()
	if err != nil {
		t.Fatal(err)
	}
	o := options{seconds: 100 * time.Millisecond, trial: 100 * time.Millisecond, sizes: []int{18}, only: "tcp,rate,rtt", rate: 5000,
		io: []string{"plain", "io_uring"}, skip: map[string]bool{"tayga": true}}
	contenders, err := l.contenders(o)
	if err != nil {
		t.Fatal(err)
	}
	r := newReport()
	for _, c := range contenders {
		if err := l.turn(o, c, r); err != nil {
			t.Fatal(c.name, err)
		}
	}
	if got := strings.Join(r.Contenders, ", "); got != "kernel, natless, natless io_uring, tun loop" {
		t.Errorf("measured %s", got)
	}
	for _, c := range r.Contenders {
		for _, figure := range []string{"tcp Gb/s", "tcp 8 reverse Gb/s", "tcp lean Gb/s", "rtt p50 µs", "rtt loaded p99 µs"} {
			if r.Medians[c][figure] <= 0 {
				t.Errorf("%s: %s is %v", c, figure, r.Medians[c][figure])
			}
		}
	}
}

// Natless is measured at the edge and as a border relay, by both paths, and what a place has
// taken is gone after its turn.
func TestPlaces(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nsenter", "sysctl", "ping", "go")
	l, err := newLab(t.Context())
	defer l.close()
	if err != nil {
		t.Fatal(err)
	}
	o := options{daemon: filepath.Join(daemon.Build(t), "natlessd"), only: "rtt", places: knownPlaces(), skip: map[string]bool{"tayga": true, tunLoop: true, "natless": true,
		"natless fast path": true}}
	contenders, err := l.contenders(o)
	if err != nil {
		t.Fatal(err)
	}
	state := func() (s string) {
		for _, ns := range []string{"w6", "x", "s4"} {
			for _, args := range []string{"-6 -o addr show", "-6 route show", "-4 route show"} {
				out, _ := exec.Command("nsenter", append([]string{"--net=/run/netns/" + l.prefix + ns, "ip"}, strings.Fields(args)...)...).Output()
				for line := range strings.Lines(string(out)) {
					line, _, _ = strings.Cut(line, " expires")
					s += strings.TrimSpace(line) + "\n"
				}
			}
		}
		return s
	}
	r := newReport()
	for _, c := range contenders {
		before := state()
		if err := l.turn(o, c, r); err != nil {
			t.Fatal(c.name, err)
		}
		if after := state(); after != before {
			t.Errorf("%s left:\n%s\nbefore:\n%s", c.name, after, before)
		}
		if r.Medians[c.name]["rtt p50 µs"] <= 0 {
			t.Errorf("%s: %v", c.name, r.Medians[c.name])
		}
	}
	if got := strings.Join(r.Contenders, ", "); got != "kernel, natless edge, natless edge fast path, natless map-t, natless map-t fast path" {
		t.Errorf("measured %s", got)
	}
	if _, err := l.contenders(options{places: []string{"nowhere"}}); err == nil {
		t.Error("a place that there is not was taken")
	}
}

func TestReport(t *testing.T) {
	r := newReport()
	for _, v := range []float64{3, 100, 4} {
		r.add("kernel", "tcp Gb/s", 2*v)
		r.add("natless", "tcp Gb/s", v)
	}
	r.add("tayga", "tcp Gb/s", 1)
	var table bytes.Buffer
	r.print(&table)
	for _, want := range []string{"natless/kernel", "natless/tayga", "8.00", "4.00", "0.50", "\n| | natless |\n|---|---|\n"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("%q is not in\n%s", want, &table)
		}
	}
	o := options{json: filepath.Join(t.TempDir(), "r.json"), svg: filepath.Join(t.TempDir(), "r.svg")}
	if err := r.save(o); err != nil {
		t.Fatal(err)
	}
	var back report
	if raw, err := os.ReadFile(o.json); err != nil || json.Unmarshal(raw, &back) != nil || back.Medians["kernel"]["tcp Gb/s"] != 8 {
		t.Errorf("read back %+v, %v", back, err)
	}
	svg, err := os.Open(o.svg)
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	bars := 0
	for d := xml.NewDecoder(svg); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 4 { // one is the background
		t.Errorf("the plot has %d rectangles", bars)
	}
}

// A path that loses everything above a rate, and a little above half of it.
func TestSearch(t *testing.T) {
	const most, lossless = 100e3, 50e3
	s := search{try: func(rate float64) (trial, error) {
		r := trial{rate: rate, seconds: 1, sent: rate, received: rate}
		if rate > lossless {
			r.received -= rate * maxLoss / 2
		}
		if rate > most {
			r.received = rate / 2
		}
		return r, nil
	}}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		got, want float64
	}{{"without loss", s.none.rate, lossless}, {"with little loss", s.few.rate, most}} {
		if c.got > c.want || c.got < c.want/precision {
			t.Errorf("%s: %.0f, want just under %.0f", c.name, c.got, c.want)
		}
	}
}

func TestReached(t *testing.T) {
	r := newReport()
	for _, v := range []struct {
		contender, figure string
		value             float64
	}{
		{"kernel", "tcp Gb/s", 10}, {"kernel", "tcp reverse Gb/s", 10}, {"kernel", "rtt p50 µs", 30},
		{"natless", "tcp Gb/s", 9}, {"natless", "tcp reverse Gb/s", 6}, {"natless", "rtt p50 µs", 49},
		{"natless fast path", "tcp Gb/s", 9}, {"natless fast path", "tcp reverse Gb/s", 8},
		{"kernel", "tcp 8 Gb/s", 10}, {"kernel", "tcp 8 reverse Gb/s", 10},
		{"natless fast path", "tcp 8 Gb/s", 9}, {"natless fast path", "tcp 8 reverse Gb/s", 9},
		{"tayga", "tcp Gb/s", 0.5}, {"tayga", "tcp reverse Gb/s", 0.5},
		{"other", "tcp Gb/s", 1}, {"other", "tcp reverse Gb/s", 1},
	} {
		r.add(v.contender, v.figure, v.value)
	}
	r.reach()
	var got []string
	for _, v := range r.Reached {
		got = append(got, fmt.Sprintf("%s %.2f %s %v", v.Contender, v.Value, v.Goal, v.OK))
	}
	want := []string{
		"natless 0.60 ≥ 0.75 false", "natless 19.00 ≤ 20 true", "natless 6.00 ≥ 8 false",
		"natless fast path 0.80 ≥ 1 false", "natless fast path 8.00 ≥ 8 true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
