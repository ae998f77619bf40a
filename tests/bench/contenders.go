//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// contender is one way from the workload to the server.
type contender struct {
	name    string
	target  string    // the server's address on this way
	process *exec.Cmd // nil for the kernel
}

// way is what a translator is told: its prefix, and the workload's IPv4 address.
type way struct{ prefix, ipv4 string }

func newWay(i int) way {
	return way{fmt.Sprintf("2001:db8:%d::/96", 64+i), fmt.Sprintf("198.51.%d.2", 100+i)}
}

func (w way) target() string {
	prefix := netip.MustParsePrefix(w.prefix).Addr().As16()
	copy(prefix[12:], []byte{192, 0, 2, 2})
	return netip.AddrFrom16(prefix).String()
}

// own4 is an IPv4 address for the translator itself.
func (w way) own4() string {
	a := netip.MustParseAddr(w.ipv4)
	return a.Prev().String()
}

// start runs every translator, each with a prefix of its own: an idle one
// costs nothing.
func (l *lab) start(o options) ([]contender, error) {
	contenders := []contender{{name: "kernel", target: forwarded}}
	for i, io := range o.io {
		w := newWay(i)
		natless, err := l.startNatless(o, w, io, fmt.Sprintf("natless%d", i))
		if err != nil {
			return nil, err
		}
		name := "natless"
		if i > 0 {
			name += " " + io
		}
		contenders = append(contenders, contender{name, w.target(), natless})
	}
	if _, err := exec.LookPath("tayga"); err == nil {
		w := newWay(10)
		tayga, err := l.startTayga(w)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, contender{"tayga", w.target(), tayga})
	} else {
		fmt.Fprintln(os.Stderr, "bench: tayga is not installed (apt-get install tayga): left out")
	}
	for i, p := range o.peers {
		w := newWay(11 + i)
		c := l.cmd("x", "sh", "-c", p.command)
		c.Env = append(os.Environ(), "PREFIX="+w.prefix, "IPV6="+workload6, "IPV4="+w.ipv4)
		if err := l.launch(c); err != nil {
			return nil, err
		}
		contenders = append(contenders, contender{p.name, w.target(), c})
	}
	contenders = slices.DeleteFunc(contenders, func(c contender) bool { return o.skip[c.name] })
	for _, c := range contenders {
		if err := l.reachable(c.target); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return contenders, nil
}

func (l *lab) launch(c *exec.Cmd) error {
	if err := c.Start(); err != nil {
		return err
	}
	l.processes = append(l.processes, c)
	return nil
}

// reachable waits until the server answers a ping.
func (l *lab) reachable(target string) error {
	var err error
	for range 50 {
		if err = l.in("w6", "ping -c 1 -W 1 "+target); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func (l *lab) startNatless(o options, w way, io, device string) (*exec.Cmd, error) {
	if io == "" {
		return l.startDaemon(o.daemon, w)
	}
	c := l.role("x", "translate", w.prefix, w.ipv4, device, io)
	if err := l.launch(c); err != nil {
		return nil, err
	}
	return c, l.routes(device, w)
}

// routes waits for a device, sets it up and has the kernel route through it.
func (l *lab) routes(device string, w way) error {
	return l.in("x", fmt.Sprintf("for i in $(seq 50); do ip link show %[1]s >/dev/null 2>&1 && break; sleep 0.1; done\n"+
		"ip link set %[1]s up mtu 1500; ip route add %[2]s dev %[1]s; ip route add %[3]s dev %[1]s", device, w.prefix, w.ipv4))
}

func (l *lab) startDaemon(program string, w way) (*exec.Cmd, error) {
	if program == "" {
		program = filepath.Join(l.files, "natlessd")
		if err := command("go", "build", "-o", program, "github.com/natless/natless/cmd/natlessd"); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf("device: {name: natless0}\nprefix: %s\naddresses: {ipv4: %s, ipv6: \"2001:db8:1::1\"}\n"+
		"mappings:\n  - {ipv6: \"%s\", ipv4: %s}\n", w.prefix, w.own4(), workload6, w.ipv4)
	file := filepath.Join(l.files, "natless.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	c := l.cmd("x", program, "--config", file)
	return c, l.launch(c)
}

func (l *lab) startTayga(w way) (*exec.Cmd, error) {
	config := fmt.Sprintf("tun-device tayga0\nipv4-addr %s\nipv6-addr 2001:db8:1::65\nprefix %s\nmap %s %s\n", w.own4(), w.prefix, w.ipv4, workload6)
	file := filepath.Join(l.files, "tayga.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := l.in("x", "tayga -c "+file+" --mktun"); err != nil {
		return nil, err
	}
	c := l.cmd("x", "tayga", "-c", file, "--nodetach")
	if err := l.launch(c); err != nil {
		return nil, err
	}
	return c, l.routes("tayga0", w)
}

// translate is a bare dataplane, for measuring without the daemon: prefix, the
// workload's IPv4 address, device, way to read and write.
func translate(args []string) error {
	prefix, err := netip.ParsePrefix(args[0])
	if err != nil {
		return err
	}
	ipv4, err := netip.ParseAddr(args[1])
	if err != nil {
		return err
	}
	table, err := mapping.New(prefix, []mapping.Mapping{{
		IPv6: netip.MustParsePrefix(workload6 + "/128"), IPv4: netip.PrefixFrom(ipv4, 32)}})
	if err != nil {
		return err
	}
	t, err := translator.New(translator.Config{IPv4: ipv4.Prev(), IPv6: netip.MustParseAddr("2001:db8:1::1")}, table)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	return dataplane.New(dataplane.Config{
		Translator: t,
		Open:       func() (*tun.Device, error) { return tun.Open(tun.Config{Name: args[2], IO: tun.IO(args[3])}) },
	}).Run(ctx)
}
