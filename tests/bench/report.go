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
}

type machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"`
}

func newReport() *report {
	return &report{Machine: thisMachine(), Values: map[string]map[string][]float64{}, Medians: map[string]map[string]float64{}}
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
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
	if base := r.Medians[contender][figure]; base > 0 {
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

// svg draws one row of bars for each figure, each figure at its own scale.
func (r *report) svg() []byte {
	const width, left, bar = 760, 190, 16
	colours := []string{"#8a8f98", "#1f6feb", "#d29922", "#a371f7", "#3fb950"}
	var b strings.Builder
	y := 56
	for _, figure := range r.Figures {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left-10, y+bar, figure)
		greatest := 0.0
		for _, c := range r.Contenders {
			greatest = max(greatest, r.Medians[c][figure])
		}
		for i, c := range r.Contenders {
			v := r.Medians[c][figure]
			if v == 0 {
				continue
			}
			length := v / greatest * (width - left - 150)
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", left, y, length, bar-3, colours[i%len(colours)])
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%s %s</text>\n", left+length+6, y+bar-5, number(v), c)
			y += bar
		}
		y += 14
	}
	head := fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"12\" y=\"20\" font-size=\"14\">natless through the device, medians of one sitting</text>\n"+
		"<text x=\"12\" y=\"38\" fill=\"#57606a\">%s, %d cores, Linux %s, %s</text>\n", width, y, r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Go)
	return []byte(head + b.String() + "</svg>\n")
}
