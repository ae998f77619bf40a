//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// svg draws one row of bars for each figure, each figure at its own scale.
func (r *report) svg() []byte {
	const width, left, bar = 760, 190, 16
	colours := []string{"#8a8f98", "#1f6feb", "#d29922", "#a371f7", "#3fb950"}
	var b strings.Builder
	y := 56
	for _, figure := range slices.DeleteFunc(slices.Clone(r.Figures), isDetail) {
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

// isDetail says that a figure is for the table alone.
func isDetail(figure string) bool {
	return strings.Contains(figure, "own ") || strings.Contains(figure, "lossless") || strings.Contains(figure, "p99") ||
		strings.HasSuffix(figure, "CPU-s/Mpkt")
}
