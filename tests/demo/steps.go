//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"
)

const (
	workload4 = "198.51.100.2"
	server6   = "2001:db8:64::192.0.2.2"
	far6      = "2001:db8:64::203.0.113.2"
)

// steps are the rows of the table.
var steps = []struct {
	what string
	run  func(context.Context, *topology) (string, error)
}{
	{"curl 6→4: workload downloads 100 MB from server", func(ctx context.Context, n *topology) (string, error) {
		return curl(ctx, n.workload, n.server, server6, 100<<20)
	}},
	{"curl 4→6: server downloads 100 MB from workload", func(ctx context.Context, n *topology) (string, error) {
		return curl(ctx, n.server, n.workload, workload4, 100<<20)
	}},
	{"ping 6→4", func(ctx context.Context, n *topology) (string, error) { return ping(ctx, n.workload, server6) }},
	{"ping 4→6", func(ctx context.Context, n *topology) (string, error) { return ping(ctx, n.server, workload4) }},
	{"traceroute 6→4: every hop is seen", traceroute},
	{"path MTU 6→4 across a link of 1400 bytes", pathMTU},
	{"iperf3 6→4, TCP", func(ctx context.Context, n *topology) (string, error) {
		return iperf(ctx, n.workload, n.server, server6)
	}},
	{"iperf3 4→6, TCP", func(ctx context.Context, n *topology) (string, error) {
		return iperf(ctx, n.server, n.workload, workload4)
	}},
}

// serve is an HTTP server in a namespace, whose /N is N bytes that are the same
// each time.
func serve(s *space) (port string, close func() error, err error) {
	var l net.Listener
	if err := s.do(func() (err error) { l, err = net.Listen("tcp", ":0"); return err }); err != nil {
		return "", nil, err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var size int64
		fmt.Sscanf(r.URL.Path, "/%d", &size)
		peer, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.Header().Set("Peer", peer)
		io.CopyN(w, data(), size)
	})}
	go srv.Serve(l)
	_, port, err = net.SplitHostPort(l.Addr().String())
	return port, srv.Close, err
}

func data() io.Reader { return rand.NewChaCha8([32]byte{}) }

func curl(ctx context.Context, from, to *space, address string, size int64) (string, error) {
	port, closeServer, err := serve(to)
	if err != nil {
		return "", err
	}
	defer closeServer()
	url := fmt.Sprintf("http://%s/%d", net.JoinHostPort(address, port), size)
	cmd := from.command(ctx, "curl", "-sS", "--fail", "--max-time", "60", "-w", "%{stderr}%header{peer}", url)
	var said strings.Builder
	got, want := sha256.New(), sha256.New()
	cmd.Stdout, cmd.Stderr = got, &said
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("curl %s: %w: %s", url, err, &said)
	}
	took := time.Since(start)
	io.CopyN(want, data(), size)
	if string(got.Sum(nil)) != string(want.Sum(nil)) {
		return "", errors.New("sha256 differs")
	}
	return fmt.Sprintf("sha256 equal, %.1f s; the other side saw %s", took.Seconds(), &said), nil
}

var pingSummary = regexp.MustCompile(`(\d+) received.*\n.*= [0-9.]+/([0-9.]+)/`)

func ping(ctx context.Context, from *space, address string) (string, error) {
	out, err := from.run(ctx, "ping -n -c 5 -i 0.2 -W 2 "+address)
	if err != nil {
		return "", err
	}
	m := pingSummary.FindStringSubmatch(out)
	if m == nil || m[1] != "5" {
		return "", errors.New(out)
	}
	return "5 of 5 answered, " + m[2] + " ms", nil
}

func traceroute(ctx context.Context, n *topology) (string, error) {
	out, err := n.workload.run(ctx, "traceroute -n -q 1 -w 2 "+far6)
	if err != nil {
		return "", err
	}
	names := map[string]string{
		"2001:db8:6::1": "host", "2001:db8::1": "the translator", "2001:db8:64::c000:201": "host, IPv4 side (192.0.2.1)",
		"2001:db8:64::c000:202": "server (192.0.2.2)", "2001:db8:64::cb00:7102": "behind it (203.0.113.2)",
	}
	var hops []string
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] != "traceroute" {
			hops = append(hops, fmt.Sprintf("%s %-22s  %s", f[0], f[1], names[f[1]]))
			seen[f[1]] = true
		}
	}
	result := strings.Join(hops, "\n")
	if translator := "2001:db8::1"; !seen[translator] { // the kernel translated: the host is one hop
		delete(names, translator)
		delete(names, "2001:db8:64::c000:201")
	}
	for hop := range names {
		if !seen[hop] {
			return "", fmt.Errorf("%s is no hop:\n%s", hop, result)
		}
	}
	return result, nil
}

// pathMTU downloads across the link and reads back what the workload's kernel
// has learned of it by ICMPv6 packet too big: 1400 and the 20 bytes by which
// headers differ.
func pathMTU(ctx context.Context, n *topology) (string, error) {
	if _, err := n.workload.run(ctx, "ping -n -c 1 -W 2 -M do -s 1452 "+far6); err == nil {
		return "", errors.New("a packet of 1500 bytes passed")
	}
	if _, err := n.workload.run(ctx, "ping -n -c 1 -W 2 -M do -s 1372 "+far6); err != nil {
		return "", err
	}
	if _, err := curl(ctx, n.far, n.workload, workload4, 10<<20); err != nil {
		return "", err
	}
	route, err := n.workload.run(ctx, "ip -6 route get "+far6)
	if err != nil {
		return "", err
	}
	if !strings.Contains(route, " mtu 1420 ") {
		return "", fmt.Errorf("the workload has not learned 1420: %s", route)
	}
	return "the workload learned 1420 (1400 + 20); 10 MB pass, sha256 equal", nil
}

func iperf(ctx context.Context, from, to *space, address string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	server := to.command(ctx, "iperf3", "-s", "-1")
	if err := server.Start(); err != nil {
		cancel()
		return "", err
	}
	defer server.Wait()
	defer cancel()
	var r struct {
		Error string
		End   struct {
			Sum struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	for range 20 { // until the server listens
		time.Sleep(100 * time.Millisecond)
		out, err := from.command(ctx, "iperf3", "-J", "-t", "4", "-c", address).Output()
		r.Error = ""
		if jsonErr := json.Unmarshal(out, &r); err == nil && jsonErr == nil {
			return fmt.Sprintf("%.1f Gb/s", r.End.Sum.BitsPerSecond/1e9), nil
		}
	}
	return "", errors.New("iperf3: " + r.Error)
}
