//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// contender is one way from the workload to the server. It runs only while it
// is measured, so that what it put in the way of others is gone.
type contender struct {
	name    string
	target  string                    // the server's address on this way
	begin   func() (*exec.Cmd, error) // nil for the kernel
	process *exec.Cmd
	tidy    func() // removes what the process leaves behind; may be nil
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

// contenders are all that are to be measured, each with a prefix of its own.
func (l *lab) contenders(o options) ([]*contender, error) {
	contenders := []*contender{{name: "kernel", target: forwarded}}
	add := func(name string, w way, begin func(w way) (*exec.Cmd, error)) *contender {
		c := &contender{name: name, target: w.target(), begin: func() (*exec.Cmd, error) { return begin(w) }}
		contenders = append(contenders, c)
		return c
	}
	if o.io != nil {
		for i, io := range o.io {
			add(nameOf(i, io), newWay(i), func(w way) (*exec.Cmd, error) { return l.beginBare(w, io) })
		}
	} else {
		variants, err := l.variants(&o)
		if err != nil {
			return nil, err
		}
		for i, v := range variants {
			add(nameOf(i, v.name), newWay(i), func(w way) (*exec.Cmd, error) { return l.beginDaemon(o.daemon, w, mapped(w)+v.yaml) })
		}
		placed, err := l.placed(o, variants, 100)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, placed...)
	}
	if _, err := exec.LookPath("tayga"); err == nil {
		add("tayga", newWay(20), l.beginTayga).tidy = func() { l.in("x", "tayga -c "+l.taygaConfig()+" --rmtun") }
	} else {
		fmt.Fprintln(os.Stderr, "bench: tayga is not installed (apt-get install tayga): left out")
	}
	contenders = append(contenders, &contender{name: tunLoop, target: forwarded, begin: l.beginLoop, tidy: l.tidyLoop})
	for i, p := range o.peers {
		add(p.name, newWay(21+i), func(w way) (*exec.Cmd, error) {
			c := l.cmd("x", "sh", "-c", p.command)
			c.Env = append(os.Environ(), "PREFIX="+w.prefix, "IPV6="+workload6, "IPV4="+w.ipv4)
			return c, netns.Start(c)
		})
	}
	return slices.DeleteFunc(contenders, func(c *contender) bool { return o.skip[c.name] }), nil
}

// nameOf keeps "natless" for the first of several.
func nameOf(i int, name string) string {
	if i == 0 {
		return "natless"
	}
	return "natless " + name
}

// start runs a contender until stop, and waits until it forwards.
func (l *lab) start(c *contender) error {
	if c.begin != nil {
		process, err := c.begin()
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		c.process = process
	}
	if err := l.reachable(c.target); err != nil {
		return err
	}
	time.Sleep(settles)
	return nil
}

// settles is how long one that forwards is left alone before it is measured.
const settles = 500 * time.Millisecond

func (l *lab) stop(c *contender) {
	if c.process != nil {
		end(c.process)
		c.process = nil
	}
	if c.tidy != nil {
		c.tidy()
	}
}

// end asks a program and what it started to end, and insists after a while.
func end(p *exec.Cmd) {
	syscall.Kill(-p.Process.Pid, syscall.SIGTERM)
	insist := time.AfterFunc(3*time.Second, func() { syscall.Kill(-p.Process.Pid, syscall.SIGKILL) })
	p.Wait()
	insist.Stop()
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

func (l *lab) beginBare(w way, io string) (*exec.Cmd, error) {
	c := l.role("x", "translate", w.prefix, w.ipv4, "natless0", io)
	if err := netns.Start(c); err != nil {
		return nil, err
	}
	if err := l.routes("natless0", w); err != nil {
		end(c)
		return nil, err
	}
	return c, nil
}

// routes waits for a device, sets it up and has the kernel route through it.
func (l *lab) routes(device string, w way) error {
	return l.in("x", fmt.Sprintf("for i in $(seq 50); do ip link show %[1]s >/dev/null 2>&1 && break; sleep 0.1; done\n"+
		"ip link set %[1]s up mtu 1500 txqueuelen 4096; ip route add %[2]s dev %[1]s; ip route add %[3]s dev %[1]s", device, w.prefix, w.ipv4))
}

// variants are the ways in which the daemon is measured: everything in user
// space, packets in the kernel where it can, and what the command line adds.
func (l *lab) variants(o *options) ([]variant, error) {
	if o.daemon == "" {
		o.daemon = filepath.Join(l.files, "natlessd")
		if err := command("go", "build", "-o", o.daemon, "github.com/natless/natless/cmd/natlessd"); err != nil {
			return nil, err
		}
	}
	known := []variant{{"user space", "fast_path: off"}, {"fast path", "fast_path: required"}}
	if _, err := l.configure(o.daemon, newWay(0), mapped(newWay(0))+known[0].yaml); err != nil { // a daemon without this key
		known = []variant{{"user space", ""}}
	}
	return append(known, o.variants...), nil
}

// configure writes a configuration and has the daemon check it.
func (l *lab) configure(program string, w way, yaml string) (file string, err error) {
	config := fmt.Sprintf("prefix: %s\naddresses: {ipv4: %s, ipv6: \"2001:db8:1::1\"}\nuplink: s4\n"+
		"api: {socket: %[3]s/natless.sock}\nregistry: {path: %[3]s/registry.db}\nlog: {level: warn}\n%[4]s\n", w.prefix, w.own4(), l.files, yaml)
	file = filepath.Join(l.files, "natless.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return "", err
	}
	return file, command(program, "--config", file, "--check")
}

func (l *lab) beginDaemon(program string, w way, yaml string) (*exec.Cmd, error) {
	file, err := l.configure(program, w, yaml)
	if err != nil {
		return nil, err
	}
	c := l.cmd("x", program, "--config", file)
	if err := netns.Start(c); err != nil {
		return nil, err
	}
	if err := l.ready(); err != nil {
		end(c)
		return nil, err
	}
	return c, nil
}

// ready waits until the daemon is, with the fast path where that is required: with a
// million mappings it forwards for seconds before.
func (l *lab) ready() (err error) {
	client := api.NewClient(filepath.Join(l.files, "natless.sock"))
	defer client.Close()
	for range 600 {
		if err = client.Health(context.Background()); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("natlessd is not ready after a minute: %w", err)
}

func (l *lab) taygaConfig() string { return filepath.Join(l.files, "tayga.conf") }

func (l *lab) beginTayga(w way) (*exec.Cmd, error) {
	config := fmt.Sprintf("tun-device tayga0\nipv4-addr %s\nipv6-addr 2001:db8:1::65\nprefix %s\nmap %s %s\n",
		w.own4(), w.prefix, w.ipv4, workload6)
	if err := os.WriteFile(l.taygaConfig(), []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := l.in("x", "tayga -c "+l.taygaConfig()+" --mktun"); err != nil {
		return nil, err
	}
	c := l.cmd("x", "tayga", "-c", l.taygaConfig(), "--nodetach")
	if err := netns.Start(c); err != nil {
		return nil, err
	}
	if err := l.routes("tayga0", w); err != nil {
		end(c)
		return nil, err
	}
	return c, nil
}

// translate is a bare dataplane, for measuring without the daemon: prefix, the
// workload's IPv4 address, device, way to read and write with, maybe, a colon
// and the number of queues.
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
	io, count, _ := strings.Cut(args[3], ":")
	queues, err := strconv.Atoi(cmp.Or(count, strconv.Itoa(tun.AutoQueues())))
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	return dataplane.New(dataplane.Config{
		Translator: t,
		Open: func() (*tun.Device, error) {
			return tun.Open(tun.Config{Name: args[2], IO: tun.IO(io), Queues: queues, Sparse: true})
		},
	}).Run(ctx)
}
