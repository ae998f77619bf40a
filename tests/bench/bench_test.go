//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// TestMain lets the test's program play the parts that the bench gives itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			exit(role(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// One short round measures every figure of the kernel and of a bare dataplane.
func TestOneRound(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nsenter", "sysctl", "ping")
	l, err := newLab(t.Context())
	defer l.close()
	if err != nil {
		t.Fatal(err)
	}
	o := options{seconds: 100 * time.Millisecond, sizes: []int{18}, only: "tcp,rate,rtt", rate: 5000,
		io: []string{"plain", "io_uring"}, skip: map[string]bool{"tayga": true}}
	contenders, err := l.start(o)
	if err != nil {
		t.Fatal(err)
	}
	r := newReport()
	for _, c := range contenders {
		if err := l.measure(o, c, r); err != nil {
			t.Fatal(c.name, err)
		}
	}
	if got := strings.Join(r.Contenders, ", "); got != "kernel, natless, natless io_uring" {
		t.Errorf("measured %s", got)
	}
	for _, c := range r.Contenders {
		for _, figure := range []string{"tcp Gb/s", "tcp 8 reverse Gb/s", "rtt p50 µs"} {
			if r.Medians[c][figure] <= 0 {
				t.Errorf("%s: %s is %v", c, figure, r.Medians[c][figure])
			}
		}
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
	for _, want := range []string{"natless/kernel", "natless/tayga", "8.00", "4.00", "0.50"} {
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
