//go:build linux

// Command bench measures the way through the device: kernel forwarding
// untranslated (the ceiling), natless, Debian's tayga where it is installed,
// and any other translator that is named, in one sitting, in turn, in three
// network namespaces. Nothing but measuring may enter here.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options of one sitting.
type options struct {
	rounds  int
	seconds time.Duration // of each transfer
	trial   time.Duration // of each attempt at a rate of datagrams
	sizes   []int         // UDP payload bytes
	only    string
	rate    float64
	skip    map[string]bool
	json    string
	svg     string
	from    string
	against string
	daemon  string
	places  []string // where natless is measured besides
	io      []string // ways to read and write of bare dataplanes; nil: the daemon
	peers   peerFlag
	// variants of the daemon's configuration that are measured beside it
	variants variantFlag
}

// variantFlag collects -variant NAME=YAML.
type variantFlag []variant

type variant struct{ name, yaml string }

func (v *variantFlag) String() string { return fmt.Sprint(*v) }

func (v *variantFlag) Set(s string) error {
	name, yaml, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%q: want NAME=YAML", s)
	}
	*v = append(*v, variant{name, yaml})
	return nil
}

// peerFlag collects -peer NAME=COMMAND.
type peerFlag []peer

type peer struct{ name, command string }

func (p *peerFlag) String() string { return fmt.Sprint(*p) }

func (p *peerFlag) Set(s string) error {
	name, command, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%q: want NAME=COMMAND", s)
	}
	*p = append(*p, peer{name, command})
	return nil
}

// roles are what this program becomes in the namespaces.
var roles = map[string]func(args []string) error{
	"tcp-serve":    serveTCP,
	"tcp-transfer": transferTCP,
	"udp-sink":     sinkUDP,
	"udp-generate": generateUDP,
	"udp-echo":     echoUDP,
	"udp-ping":     pingUDP,
	"translate":    translate,
	"tun-loop":     loopTUN,
}

func main() {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			exit(role(os.Args[2:]))
		}
	}
	exit(run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse() (o options, err error) {
	flag.IntVar(&o.rounds, "rounds", 3, "how often everything is measured; medians are shown")
	flag.DurationVar(&o.seconds, "time", 1500*time.Millisecond, "length of one transfer")
	flag.DurationVar(&o.trial, "trial", 500*time.Millisecond, "length of one trial of a rate of datagrams")
	sizes := flag.String("sizes", "18,64,512,1400", "UDP payload sizes in bytes")
	flag.StringVar(&o.only, "only", "tcp,udp,rtt", "what to measure")
	flag.Float64Var(&o.rate, "rate", 50000, "packets a second of the measurement \"rate\", which -only can name")
	flag.StringVar(&o.json, "json", "", "file to write the results to")
	flag.StringVar(&o.svg, "svg", "", "file to write a plot to")
	flag.StringVar(&o.from, "from", "", "file of an earlier -json: show that, and measure nothing")
	flag.StringVar(&o.against, "against", "", "file of an earlier -json: say what is better, worse, or noise; four rounds of each at least")
	flag.StringVar(&o.daemon, "natlessd", "", "the daemon's program to measure; without it, it is built")
	flag.Var(&o.peers, "peer", "NAME=COMMAND of another translator; it runs in the translator's namespace while it is\n"+
		"measured, must make its device and routes itself and take them back on SIGTERM, and finds $PREFIX\n"+
		"(IPv6, /96), $IPV6 and $IPV4 (the workload's addresses)")
	flag.Var(&o.variants, "variant", "NAME=YAML of configuration keys with which the daemon is measured too")
	where := flag.String("places", "", "where natless is measured besides, by both paths: "+strings.Join(knownPlaces(), ", "))
	io := flag.String("io", "", "ways to read and write (plain,io_uring, with :N for N queues): a bare dataplane for each is measured\n"+
		"instead of the daemon, the first as natless")
	skip := flag.String("skip", "", "contenders to leave out, by the names in the table, with commas between them")
	flag.Parse()
	o.skip = map[string]bool{}
	for _, name := range named(*skip) {
		o.skip[name] = true
	}
	o.places = named(*where)
	if *io != "" {
		o.io = strings.Split(*io, ",")
	}
	for _, s := range strings.Split(*sizes, ",") {
		size, err := strconv.Atoi(s)
		if err != nil || size < 8 || size > 1452 {
			return o, fmt.Errorf("-sizes: %q: want 8 to 1452 bytes", s)
		}
		o.sizes = append(o.sizes, size)
	}
	return o, nil
}

func run() error {
	o, err := parse()
	if err != nil {
		return err
	}
	var before *report
	if o.against != "" { // before anything is measured for an hour
		if before, err = load(o.against); err != nil {
			return err
		}
	}
	if o.from != "" {
		report, err := load(o.from)
		if err != nil {
			return err
		}
		report.show(before)
		return report.save(o)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("network namespaces need root: run as root")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	lab, err := newLab(ctx)
	defer lab.close()
	if err != nil {
		return err
	}
	contenders, err := lab.contenders(o)
	if err != nil {
		return err
	}
	report := newReport()
	var failed error // what remains of the others is worth showing
	for round := range o.rounds {
		for _, c := range contenders {
			err := lab.turn(o, c, report)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				err = fmt.Errorf("round %d: %s: %w", round+1, c.name, err)
				fmt.Fprintln(os.Stderr, "bench:", err)
				failed = errors.Join(failed, err)
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, o.rounds, report.last(c.name))
		}
	}
	report.reach()
	report.show(before)
	return errors.Join(report.save(o), failed)
}

// show prints a run, and what differs from one before it, if there is one.
func (r *report) show(before *report) {
	r.print(os.Stdout)
	if before != nil {
		printAgainst(os.Stdout, before, r)
	}
}

func (r *report) save(o options) error {
	if o.svg != "" {
		if err := os.WriteFile(o.svg, r.svg(), 0o644); err != nil {
			return err
		}
	}
	if o.json == "" {
		return nil
	}
	out, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(out, '\n'), 0o644)
}

func load(file string) (*report, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
