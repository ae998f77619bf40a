//go:build linux

// Command relay measures what a small packet takes on a relay, in processor time: forwarded
// by the kernel untranslated, translated by the fast path at traffic control, and in front
// of it (XDP). Frames are made by the kernel (BPF_PROG_RUN) in the thread that counts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
)

// What forwards.
const (
	byKernel = "kernel"
	byTC     = "traffic control"
	byXDP    = "xdp"
	byTwo    = "xdp, two uplinks"
)

// figures are ns of a packet, by round.
type figures map[string][]float64

func key(name, direction string, flows int) string {
	return fmt.Sprintf("%s %s %d", name, direction, flows)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("rounds", 9, "how often everything is measured, in turn")
	packets := flag.Int("packets", 200_000, "packets of one measurement")
	program := flag.String("natlessd", "", "the daemon's program to measure; without it, it is built")
	many := flag.String("flows", "1,16384,1048576", "how many flows, each with a mapping")
	flag.Parse()
	var sizes []int
	for _, s := range strings.Split(*many, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1<<20 || n&(n-1) != 0 {
			return fmt.Errorf("-flows: %q: want powers of two up to %d", s, 1<<20)
		}
		sizes = append(sizes, n)
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run as root")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	f, err := measure(ctx, *program, *rounds, *packets, sizes)
	if err != nil {
		return err
	}
	f.print(os.Stdout, sizes)
	return nil
}

// measure makes all relays, and measures them in turn.
func measure(ctx context.Context, program string, rounds, packets int, flows []int) (figures, error) {
	files, err := os.MkdirTemp("", "natless-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(files)
	if program == "" {
		program = filepath.Join(files, "natlessd")
		if err := command("go", "build", "-o", program, "github.com/natless/natless/cmd/natlessd"); err != nil {
			return nil, err
		}
	}
	softirqd, err := pin()
	if err != nil {
		return nil, err
	}
	var relays []*relay
	defer func() {
		for _, r := range relays {
			r.end()
		}
	}()
	for _, n := range flows {
		one, two := []string{"wan"}, []string{"wan", "wan2"}
		for _, r := range []*relay{{name: byKernel, uplinks: one}, {name: byTC, keys: "{}", uplinks: one},
			{name: byXDP, keys: "xdp: [wan, fab]", uplinks: one}, {name: byTwo, keys: "xdp: [wan, wan2, fab]", uplinks: two}} {
			r.flows, r.prefix, r.files = n, fmt.Sprintf("natless-bench-%d-%d", os.Getpid(), len(relays)), filepath.Join(files, fmt.Sprint(len(relays)))
			if r.keys == "{}" {
				r.keys = "# nothing more"
			}
			relays = append(relays, r)
			if err := errors.Join(os.Mkdir(r.files, 0o700), r.begin(ctx, program)); err != nil {
				return nil, err
			}
		}
	}
	f := figures{}
	for range rounds {
		for _, r := range relays {
			for _, d := range r.directions() {
				ns, err := r.measure(d, packets, softirqd)
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					return nil, fmt.Errorf("%s, %d flows: %w", r.name, r.flows, err)
				}
				f[key(r.name, d, r.flows)] = append(f[key(r.name, d, r.flows)], ns)
			}
		}
	}
	return f, nil
}

// ratio is the median of a round's figures, one by the other.
func (f figures) ratio(own, other string) float64 {
	var all []float64
	for i := range min(len(f[own]), len(f[other])) {
		all = append(all, f[own][i]/f[other][i])
	}
	return median(all)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// What XDP is to take of the others' time.
const (
	mostOfTC     = 0.65
	mostOfKernel = 0.85
	mostOfOne    = 1.1 // with two uplinks
)

func (f figures) print(to io.Writer, flows []int) {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "relay, ns of a packet\tkernel (6→6)\ttraffic control\txdp\txdp÷tc (≤ %.2f)\txdp÷kernel (≤ %.2f)\ttwo uplinks÷one (≤ %.2f)\n", mostOfTC, mostOfKernel, mostOfOne)
	for _, n := range flows {
		kernel := key(byKernel, to4, n)
		for _, d := range []string{to4, to6} {
			tc, xdp := key(byTC, d, n), key(byXDP, d, n)
			ofTC, ofKernel, ofOne := f.ratio(xdp, tc), f.ratio(xdp, kernel), f.ratio(key(byTwo, d, n), xdp)
			fmt.Fprintf(w, "%s, mappings: %d\t%.0f\t%.0f\t%.0f\t%.2f %s\t%.2f %s\t%.2f %s\n", d, n, median(f[kernel]), median(f[tc]), median(f[xdp]),
				ofTC, reached(ofTC <= mostOfTC), ofKernel, reached(ofKernel <= mostOfKernel), ofOne, reached(ofOne <= mostOfOne))
		}
	}
	w.Flush()
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(to, "load of the machine: %s", load)
}

func reached(ok bool) string {
	if ok {
		return "reached"
	}
	return "missed"
}
