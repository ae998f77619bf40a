//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Where things are: the same on machines and in namespaces.
const (
	prefix     = "2001:db8:64::" // followed by an IPv4 address
	server4    = "192.168.56.20"
	shared4    = "192.168.56.128" // of all containers
	serverPort = 7000
)

var containers = []string{"one", "two"}

// check is one line of the result. The note says what was seen.
type check struct {
	name    string
	systemd bool // needs one
	fatal   bool // without it the others make no sense
	run     func(ctx context.Context, t *tester) (note string, err error)
}

// tester runs checks in turn. What they share is in it.
type tester struct {
	lab      lab
	fastPath string
	out      io.Writer

	before   []workload    // as first assigned
	probes   []*background // servers
	failures int
}

// workload is what natless workloads -o json says, of which we look at this.
type workload struct {
	Request struct {
		Name string `json:"name"`
	} `json:"request"`
	Address netip.Addr `json:"address"`
	Ports   []struct {
		First uint16 `json:"first"`
		Last  uint16 `json:"last"`
	} `json:"ports"`
	Violations uint64 `json:"violations"`
}

func (w workload) String() string {
	var ports []string
	for _, r := range w.Ports {
		ports = append(ports, fmt.Sprintf("%d-%d", r.First, r.Last))
	}
	return fmt.Sprintf("%s %s:%s", w.Request.Name, w.Address, strings.Join(ports, ","))
}

func (w workload) has(port uint16) bool {
	for _, r := range w.Ports {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// port is where a container serves: the last of its ports, which is the last
// that its kernel would take for a connection.
func (w workload) port() uint16 { return w.Ports[0].Last }

// run runs checks and prints TAP (testanything.org); it reports whether all are ok.
func (t *tester) run(ctx context.Context, checks []check) bool {
	fmt.Fprintf(t.out, "TAP version 13\n1..%d\n", len(checks))
	defer t.endProbes()
	for i, c := range checks {
		if c.systemd && !t.lab.systemd() {
			fmt.Fprintf(t.out, "ok %d - %s # SKIP no systemd here\n", i+1, c.name)
			continue
		}
		begin := time.Now()
		note, err := t.one(ctx, c)
		took := time.Since(begin).Round(100 * time.Millisecond)
		if err == nil {
			fmt.Fprintf(t.out, "ok %d - %s\n", i+1, c.name)
			comment(t.out, fmt.Sprintf("%s (%v)", note, took))
			continue
		}
		t.failures++
		fmt.Fprintf(t.out, "not ok %d - %s\n", i+1, c.name)
		comment(t.out, err.Error())
		if c.fatal || ctx.Err() != nil {
			fmt.Fprintf(t.out, "Bail out! %v\n", errors.Join(ctx.Err(), errors.New(c.name)))
			break
		}
	}
	return t.failures == 0
}

func (t *tester) one(ctx context.Context, c check) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	return c.run(ctx, t)
}

func comment(w io.Writer, text string) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fmt.Fprintf(w, "# %s\n", strings.TrimRight(line, "\n"))
	}
}

// sh runs a script on a machine.
func (t *tester) sh(ctx context.Context, machine, format string, args ...any) (string, error) {
	return sh(ctx, t.lab, machine, fmt.Sprintf(format, args...))
}

// in runs a command line in a container.
func (t *tester) in(ctx context.Context, container, format string, args ...any) (string, error) {
	return t.sh(ctx, host, "ip netns exec %s %s", container, fmt.Sprintf(format, args...))
}

// provision runs a step of the provisioning script on the host.
func (t *tester) provision(ctx context.Context, step string) (string, error) {
	return t.sh(ctx, host, "%s %s", t.lab.script(), step)
}

// workloads are those of the two containers, sorted by name.
func (t *tester) workloads(ctx context.Context) ([]workload, error) {
	var all []workload
	if err := shJSON(ctx, t.lab, host, "natless workloads -o json", &all); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b workload) int { return strings.Compare(a.Request.Name, b.Request.Name) })
	if len(all) != len(containers) {
		return nil, fmt.Errorf("%d workloads, want %d: %v", len(all), len(containers), all)
	}
	for i, w := range all {
		if w.Request.Name != "lab/"+containers[i] || len(w.Ports) == 0 {
			return nil, fmt.Errorf("workload %v, want lab/%s with ports", w, containers[i])
		}
	}
	return all, nil
}

// startServers makes the server and both containers serve.
func (t *tester) startServers(ctx context.Context) error {
	t.endProbes()
	if err := t.serve(ctx, server, "", fmt.Sprintf("%s:%d", server4, serverPort)); err != nil {
		return err
	}
	for i, c := range containers {
		if err := t.serve(ctx, host, "ip netns exec "+c+" ", fmt.Sprintf("[::]:%d", t.before[i].port())); err != nil {
			return err
		}
	}
	return nil
}

func (t *tester) serve(ctx context.Context, machine, in, address string) error {
	p, err := start(context.WithoutCancel(ctx), t.lab, machine, "exec "+in+t.lab.file("probe")+" serve "+address)
	if err == nil {
		t.probes = append(t.probes, p)
	}
	return err
}

func (t *tester) endProbes() {
	for _, p := range t.probes {
		p.end()
	}
	t.probes = nil
}

// flows is what the probe says of its flows.
type flows struct {
	TCP flowReport `json:"tcp"`
	UDP flowReport `json:"udp"`
}

type flowReport struct {
	Sent    int    `json:"sent"`
	Lost    int    `json:"lost"`
	Longest int64  `json:"longest_ms"`
	Error   string `json:"error"`
}

// underTraffic does something while a container talks to the server and the
// client to a container, by TCP and UDP. No connection may break, and no more
// datagrams may be lost than allowed.
func (t *tester) underTraffic(ctx context.Context, lossAllowed int, f func() error) (string, error) {
	out, err := start(ctx, t.lab, host, fmt.Sprintf("exec ip netns exec one %s flow [%s%s]:%d", t.lab.file("probe"), prefix, server4,
		serverPort))
	if err != nil {
		return "", err
	}
	in, err := start(ctx, t.lab, client, fmt.Sprintf("exec %s flow %s:%d", t.lab.file("probe"), shared4, t.before[1].port()))
	if err != nil {
		out.end()
		return "", err
	}
	time.Sleep(time.Second)
	err = f()
	time.Sleep(time.Second)
	in.stdin.Close() // both at once
	outward, errOut := judge("6→4", out, lossAllowed)
	inward, errIn := judge("4→6", in, lossAllowed)
	return outward + "; " + inward, errors.Join(err, errOut, errIn)
}

func judge(what string, p *background, lossAllowed int) (string, error) {
	said, err := p.end()
	if err != nil {
		return "", err
	}
	var f flows
	if err := json.Unmarshal([]byte(said), &f); err != nil {
		return "", fmt.Errorf("%s: %w in %q", what, err, said)
	}
	note := fmt.Sprintf("%s: %d TCP messages, %d unanswered; %d datagrams, %d lost", what, f.TCP.Sent, f.TCP.Lost, f.UDP.Sent, f.UDP.Lost)
	switch {
	case f.TCP.Error != "" || f.TCP.Lost > 0:
		return note, fmt.Errorf("%s: the TCP connection broke: %s", note, f.TCP.Error)
	case f.UDP.Lost > lossAllowed || f.UDP.Error != "":
		return note, fmt.Errorf("%s, where %d may be: %s", note, lossAllowed, f.UDP.Error)
	case f.TCP.Sent < 50 || f.UDP.Sent < 50:
		return note, fmt.Errorf("%s: too few to say anything", note)
	}
	return note, nil
}
