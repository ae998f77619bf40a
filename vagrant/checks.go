//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// checks are run in this order.
var checks = []check{
	{name: "the package installs, and its service is ready", fatal: true, run: install},
	{name: "two containers share one IPv4 address, each with ports of its own", fatal: true, run: share},
	{name: "6→4: each container downloads from the server, from its own ports", run: outward},
	{name: "4→6: the client downloads from each container", run: inward},
	{name: "each container pings the server", run: ping},
	{name: "one container reaches the other by their IPv4 address", run: hairpin},
	{name: "whois names the owner of a port", run: whois},
	{name: "a connection from a port of somebody else's is refused at once", run: refused},
	{name: "the fast path takes its share, or nothing", run: fastPath},
	{name: "reload under traffic", run: underTraffic("reload", 0)},
	{name: "restart under traffic", run: underTraffic("restart", 0)},
	{name: "kill -9 under traffic: only what it had in its hands is lost", run: underTraffic("kill", 16)},
	{name: "systemd: the unit is confined, and says nothing alarming", systemd: true, run: confined},
	{name: "systemd: a daemon that hangs is started again", systemd: true, run: watchdog},
	{name: "upgrade of the package under traffic", run: upgrade},
	{name: "reboot of the host: the assignments are intact", run: reboot},
	{name: "6→4 after the reboot", run: outward},
	{name: "4→6 after the reboot", run: inward},
	{name: "the fast path after the reboot", run: fastPath},
	{name: "purge leaves nothing", run: purge},
}

const (
	first  = "natless-1.deb"
	second = "natless-2.deb"
)

func install(ctx context.Context, t *tester) (string, error) {
	if _, err := t.provision(ctx, "prepare "+t.fastPath); err != nil {
		return "", err
	}
	if err := t.lab.install(ctx, first); err != nil {
		return "", err
	}
	return t.version(ctx)
}

// version is that of the daemon that runs.
func (t *tester) version(ctx context.Context) (string, error) {
	var s struct {
		Version string `json:"version"`
		Ready   bool   `json:"ready"`
	}
	if err := shJSON(ctx, t.lab, host, "natless status -o json", &s); err != nil {
		return "", err
	}
	if !s.Ready {
		return "", fmt.Errorf("version %s is not ready", s.Version)
	}
	return "version " + s.Version, nil
}

func share(ctx context.Context, t *tester) (string, error) {
	for _, step := range []string{"containers down", "network"} { // an earlier run may have ended in the middle
		if _, err := t.provision(ctx, step); err != nil {
			return "", err
		}
	}
	all, err := t.workloads(ctx)
	if err != nil {
		return "", err
	}
	t.before = all
	one, two := all[0], all[1]
	if one.Address != netip.MustParseAddr(shared4) || two.Address != one.Address {
		return "", fmt.Errorf("%v, %v: want both on %s", one, two, shared4)
	}
	for _, r := range one.Ports {
		if two.has(r.First) || two.has(r.Last) {
			return "", fmt.Errorf("%v and %v have ports in common", one, two)
		}
	}
	return fmt.Sprint(one, "; ", two), t.startServers(ctx)
}

const size = 1 << 20 // of what is downloaded

func outward(ctx context.Context, t *tester) (string, error) {
	want, err := t.sh(ctx, server, "curl -sS --fail --max-time 60 http://%s:%d/bytes/%d | sha256sum", server4, serverPort, size)
	if err != nil {
		return "", err
	}
	var seen []string
	for i, c := range containers {
		got, err := t.in(ctx, c, "curl -sS --fail --max-time 60 'http://[%s%s]:%d/bytes/%d' | sha256sum", prefix, server4, serverPort, size)
		if err != nil {
			return "", err
		}
		if got != want {
			return "", fmt.Errorf("%s: sha256 %s, want %s", c, got, want)
		}
		peer, err := t.in(ctx, c, "curl -sS --fail --max-time 60 'http://[%s%s]:%d/peer'", prefix, server4, serverPort)
		if err != nil {
			return "", err
		}
		from, err := netip.ParseAddrPort(peer)
		if err != nil {
			return "", err
		}
		if from.Addr() != t.before[i].Address || !t.before[i].has(from.Port()) {
			return "", fmt.Errorf("the server saw %s come from %v, want one of %v", c, from, t.before[i])
		}
		seen = append(seen, fmt.Sprintf("%s as %v", c, from))
	}
	return "1 MiB each, sha256 equal; the server saw " + strings.Join(seen, ", "), nil
}

func inward(ctx context.Context, t *tester) (string, error) {
	want, err := t.sh(ctx, server, "curl -sS --fail --max-time 60 http://%s:%d/bytes/%d | sha256sum", server4, serverPort, size)
	if err != nil {
		return "", err
	}
	var asked []string
	for _, w := range t.before {
		url := fmt.Sprintf("http://%s:%d", w.Address, w.port())
		got, err := t.sh(ctx, client, "curl -sS --fail --max-time 60 %s/bytes/%d | sha256sum", url, size)
		if err != nil {
			return "", err
		}
		if got != want {
			return "", fmt.Errorf("%s: sha256 %s, want %s", url, got, want)
		}
		asked = append(asked, url)
	}
	return "1 MiB each, sha256 equal: " + strings.Join(asked, ", "), nil
}

func ping(ctx context.Context, t *tester) (string, error) {
	for _, c := range containers {
		if _, err := t.in(ctx, c, "ping -n -c 3 -i 0.2 -W 5 %s%s", prefix, server4); err != nil {
			return "", err
		}
	}
	return "3 of 3 each", nil
}

func hairpin(ctx context.Context, t *tester) (string, error) {
	w := t.before[1]
	peer, err := t.in(ctx, containers[0], "curl -sS --fail --max-time 30 'http://[%s%s]:%d/peer'", prefix, w.Address, w.port())
	if err != nil {
		return "", err
	}
	from, err := netip.ParseAddrPort(peer)
	if err != nil {
		return "", err
	}
	if want := netip.MustParseAddr(prefix + shared4); from.Addr() != want || !t.before[0].has(from.Port()) {
		return "", fmt.Errorf("%s saw %v, want %v and a port of %v", containers[1], from, want, t.before[0])
	}
	return fmt.Sprintf("%s saw %v", containers[1], from), nil
}

func whois(ctx context.Context, t *tester) (string, error) {
	for _, w := range t.before {
		var owner struct {
			Name string `json:"name"`
		}
		if err := shJSON(ctx, t.lab, host, fmt.Sprintf("natless whois %s:%d -o json", w.Address, w.port()), &owner); err != nil {
			return "", err
		}
		if owner.Name != w.Request.Name {
			return "", fmt.Errorf("%s:%d is %q's, want %q", w.Address, w.port(), owner.Name, w.Request.Name)
		}
	}
	if out, err := t.sh(ctx, host, "natless whois %s:65535", shared4); err == nil {
		return "", fmt.Errorf("port 65535 is nobody's, but whois says %s", out)
	}
	return "", nil
}

// refused connects from a port that the other container has. The translator
// must say no, and count it, whatever the container's own kernel allows.
func refused(ctx context.Context, t *tester) (string, error) {
	port := t.before[1].Ports[0].First
	begin := time.Now()
	out, err := t.in(ctx, containers[0], "curl -sS --max-time 20 --local-port %d 'http://[%s%s]:%d/peer'", port, prefix, server4, serverPort)
	if err == nil {
		return "", fmt.Errorf("%s connected from port %d, which %v has: the server saw %s", containers[0], port, t.before[1], out)
	}
	if time.Since(begin) > 10*time.Second {
		return "", fmt.Errorf("not at once: %w", err)
	}
	after, err := t.workloads(ctx)
	if err != nil {
		return "", err
	}
	if after[0].Violations == t.before[0].Violations {
		return "", errors.New("the refused packet is not counted as a violation")
	}
	return fmt.Sprintf("port %d; %d violations counted", port, after[0].Violations), nil
}
