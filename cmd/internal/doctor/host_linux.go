package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/cmd/internal/wiring"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/netstack/route"
)

// ThisHost is the machine, seen from the calling process's network namespace.
type ThisHost struct{ Device string }

// Sysctl is Host's.
func (ThisHost) Sysctl(key string) string {
	value, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// Settable is Host's.
func (ThisHost) Settable(path string) error { return unix.Access(path, unix.W_OK) }

// DeviceNode is Host's.
func (ThisHost) DeviceNode() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Links is Host's.
func (ThisHost) Links() ([]Link, error) {
	all, err := dump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	bridges := map[int]string{}
	for _, l := range all {
		if l.Type() == "bridge" {
			bridges[l.Attrs().Index] = l.Attrs().Name
		}
	}
	links := make([]Link, len(all))
	for i, l := range all {
		a := l.Attrs()
		links[i] = Link{Name: a.Name, Kind: l.Type(), Bridge: bridges[a.MasterIndex], MTU: a.MTU, Up: a.RawFlags&unix.IFF_UP != 0}
		if a.Statistics != nil {
			links[i].QueueFull, links[i].Sent = a.Statistics.TxDropped, a.Statistics.TxPackets
		}
	}
	return links, nil
}

// RouteTo is Host's.
func (ThisHost) RouteTo(a netip.Addr) (string, error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil {
		return "", err
	}
	if len(routes) == 0 {
		return "", errors.New("no route")
	}
	l, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", err
	}
	return l.Attrs().Name, nil
}

// AntiSpoofing is Host's.
func (ThisHost) AntiSpoofing() (bool, error) {
	a, err := route.ReadAntiSpoofing()
	return a.Installed, err
}

// FastPath is Host's.
func (h ThisHost) FastPath() ([]string, error) { return attach.Left(h.Device) }

// LegacyTables is Host's.
func (ThisHost) LegacyTables() []string {
	var tables []string
	for _, path := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		text, _ := os.ReadFile(path)
		for _, name := range strings.Fields(string(text)) {
			if !slices.Contains(tables, name) {
				tables = append(tables, name)
			}
		}
	}
	return tables
}

// Modules is Host's.
func (ThisHost) Modules() []string {
	f, err := os.Open("/proc/modules")
	if err != nil {
		return nil
	}
	defer f.Close()
	var names []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, _, _ := strings.Cut(lines.Text(), " ")
		names = append(names, name)
	}
	return names
}

// Processes is Host's: those of this network namespace.
func (ThisHost) Processes() []string {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	paths, _ := filepath.Glob("/proc/[0-9]*")
	var names []string
	for _, path := range paths {
		if ns, err := os.Readlink(path + "/ns/net"); err != nil || ns != own {
			continue
		}
		name, _ := os.ReadFile(path + "/comm")
		names = append(names, strings.TrimSpace(string(name)))
	}
	return names
}

// Resolve is Host's.
func (ThisHost) Resolve(ctx context.Context, server netip.AddrPort, name string) ([]netip.Addr, error) {
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeAAAA).SetEdns0(1232, false)
	reply, _, err := new(dns.Client).ExchangeContext(ctx, question, server.String())
	if err != nil {
		return nil, err
	}
	if reply.Rcode != dns.RcodeSuccess {
		return nil, errors.New(dns.RcodeToString[reply.Rcode] + reason(reply))
	}
	var addrs []netip.Addr
	for _, rr := range reply.Answer {
		if aaaa, ok := rr.(*dns.AAAA); ok {
			if a, ok := netip.AddrFromSlice(aaaa.AAAA); ok {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs, nil
}

// Nameservers is Host's.
func (ThisHost) Nameservers() (servers []netip.AddrPort, err error) {
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers, nil
}

// AskUpstream is Host's. Any answer is one, but that the server itself cannot be asked.
func (ThisHost) AskUpstream(ctx context.Context, server netip.AddrPort) error {
	question := new(dns.Msg).SetQuestion("localhost.", dns.TypeA)
	reply, _, err := new(dns.Client).ExchangeContext(ctx, question, server.String())
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer")
	case err != nil:
		return err
	case reply.Rcode == dns.RcodeServerFailure:
		return errors.New(dns.RcodeToString[reply.Rcode] + reason(reply))
	}
	return nil
}

// UplinkAddr is Host's.
func (ThisHost) UplinkAddr(name string) (netip.Addr, error) { return route.UplinkAddr(name) }

// Listen is Host's.
func (ThisHost) Listen(at netip.AddrPort) error {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	return l.Close()
}

// reason is the extended error in a reply (RFC 8914).
func reason(reply *dns.Msg) string {
	if opt := reply.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, is := o.(*dns.EDNS0_EDE); is {
				return fmt.Sprintf(" (%s: %s)", dns.ExtendedErrorCodeToString[e.InfoCode], e.ExtraText)
			}
		}
	}
	return ""
}

// PortLimits is Host's. It reads all at once.
func (ThisHost) PortLimits(path string) (func(string) (string, error), error) {
	values := map[string]string{}
	err := within(path, func() error {
		for _, name := range limits {
			value, err := os.ReadFile("/proc/thread-self/root/proc/sys/net/ipv4/" + name)
			if err != nil {
				return err
			}
			values[name] = strings.TrimSpace(string(value))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func(name string) (string, error) { return values[name], nil }, nil
}

// SourceIn is Host's.
func (ThisHost) SourceIn(path string, to netip.Addr) (source netip.Addr, err error) {
	err = within(path, func() error {
		routes, err := netlink.RouteGet(to.AsSlice())
		if err == nil && len(routes) > 0 {
			source, _ = netip.AddrFromSlice(routes[0].Src)
		}
		return err
	})
	return source, err
}

// Inside is Host's.
func (ThisHost) Inside(w api.Workload) (changed []string, err error) {
	err = within(w.Request.Netns, func() error {
		hop, err := wiring.NextHop(w.Interface)
		if err != nil {
			return err
		}
		changed, err = wiring.Wiring{Interface: w.Interface, Address: w.Inside.Address, Ports: w.Ports,
			Gateway: hop, Prefix: w.Prefix}.Differences()
		return err
	})
	return changed, err
}

// within runs f in a network namespace, on a thread that is thrown away.
func within(path string, f func() error) error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		handle, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(handle)
			handle.Close()
		}
		if err == nil {
			err = f()
		}
		failed <- err
	}()
	return <-failed
}

// Synchronised is Host's.
func (ThisHost) Synchronised() (bool, error) {
	var t unix.Timex
	_, err := unix.Adjtimex(&t)
	return t.Status&unix.STA_UNSYNC == 0, err
}

// FreeSpace is Host's.
func (ThisHost) FreeSpace(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// Modified is Host's.
func (ThisHost) Modified(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.ModTime().Unix()
}
