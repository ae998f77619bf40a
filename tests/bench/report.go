//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// report keeps every value that was measured.
type report struct {
	Machine    machine                         `json:"machine"`
	Contenders []string                        `json:"contenders"`
	Figures    []string                        `json:"figures"`
	Values     map[string]map[string][]float64 `json:"values"`  // contender, figure, rounds
	Medians    map[string]map[string]float64   `json:"medians"` // contender, figure
	Reached    []reached                       `json:"reached"`
}

type machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
	// Congestion is the TCP congestion control of the measurement.
	Congestion string `json:"tcp_congestion_control"`
}

func newReport() *report {
	return &report{Machine: thisMachine(), Values: map[string]map[string][]float64{}, Medians: map[string]map[string]float64{}}
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Congestion: congestion}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}

func (r *report) add(contender, figure string, value float64) {
	if !slices.Contains(r.Contenders, contender) {
		r.Contenders = append(r.Contenders, contender)
		r.Values[contender], r.Medians[contender] = map[string][]float64{}, map[string]float64{}
	}
	if !slices.Contains(r.Figures, figure) {
		r.Figures = append(r.Figures, figure)
	}
	values := append(r.Values[contender][figure], value)
	r.Values[contender][figure], r.Medians[contender][figure] = values, median(values)
}

// last is one line with the newest round of a contender.
func (r *report) last(contender string) string {
	line := contender
	for _, figure := range r.Figures {
		if values := r.Values[contender][figure]; len(values) > 0 {
			line += fmt.Sprintf(" | %s %s", figure, number(values[len(values)-1]))
		}
	}
	return line
}

// print writes medians, and what natless has of the kernel and of the best
// peer: more is better but for CPU, memory and round trips.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d cores, Linux %s, %s\n\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Go)
	defer r.printTable(w)
	defer r.printReached(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer t.Flush()
	fmt.Fprint(t, "\t")
	for _, c := range r.Contenders {
		fmt.Fprint(t, c, "\t")
	}
	fmt.Fprint(t, "natless/kernel\t")
	for _, c := range r.peers() {
		fmt.Fprint(t, "natless/", c, "\t")
	}
	fmt.Fprintln(t)
	for _, figure := range r.Figures {
		fmt.Fprint(t, figure, "\t")
		for _, c := range r.Contenders {
			fmt.Fprint(t, number(r.Medians[c][figure]), "\t")
		}
		for _, c := range append([]string{"kernel"}, r.peers()...) {
			fmt.Fprint(t, r.ratio(c, figure), "\t")
		}
		fmt.Fprintln(t)
	}
}

func (r *report) peers() []string {
	return slices.DeleteFunc(slices.Clone(r.Contenders), func(c string) bool { return c == "kernel" || c == "natless" })
}

func (r *report) ratio(contender, figure string) string {
	if base := r.Medians[contender][figure]; base > 0 && r.Medians["natless"] != nil {
		return fmt.Sprintf("%.2f", r.Medians["natless"][figure]/base)
	}
	return "–"
}

func number(v float64) string {
	if v == 0 {
		return "–"
	}
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
