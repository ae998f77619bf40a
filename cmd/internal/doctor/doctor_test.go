package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/api/server"
	"github.com/natless/natless/config/registry"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const file = `
uplink: eth0
prefix: 2001:db8:64::/96
addresses: {ipv4: 192.0.2.1, ipv6: "2001:db8::1"}
mappings:
  - {ipv6: "2001:db8:6::2", ipv4: 198.51.100.128}
pools:
  - {name: default, ipv4: 198.51.100.0/32, ports_per_workload: 16384}
dns64: {enabled: true}
`

// made is a host as the tests want it.
type made struct {
	settable      error
	sysctls       map[string]string
	node, echo    error
	links         []Link
	elsewhere     map[string]string // address: device
	chains        []Chain
	legacy        []string
	fastPath      []string
	spoofable     bool
	modules       []string
	processes     []string
	resolved      []netip.Addr
	limits        map[string]string
	sends         string // from where; "": no route
	unsynchronise bool
	free          uint64
	modified      int64
	source        map[bool]string // of IPv6 or not
	held, others  map[netip.Addr]string
	noHop         bool
	lost          map[string]RoundTrip // by source, where it is not there and back
	dead          []string             // upstreams
	listen        error
	inside        []string // what is otherwise in a container
}

func healthy() *made {
	return &made{
		sysctls: map[string]string{
			"net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/natless0/forwarding": "1", "net/ipv6/conf/natless0/disable_ipv6": "0",
			"net/ipv4/conf/eth0/forwarding": "1",
		},
		links: []Link{{Name: "natless0", Kind: "tuntap", MTU: 1500, Up: true, Sent: 1000}, {Name: "eth0", Kind: "veth", MTU: 1500, Up: true},
			{Name: "pod", Kind: "veth", MTU: 1500, Up: true}},
		elsewhere: map[string]string{"2001:db8:f64::c000:201": "eth0", "2001:db8:7::1": "pod", "127.0.0.1": "lo"},
		resolved:  []netip.Addr{netip.MustParseAddr("2001:db8:64::c000:aa")},
		limits:    map[string]string{"ip_local_port_range": "16384\t32767"},
		sends:     "2001:db8:7::1",
		free:      1 << 30, modified: now.Add(-time.Hour).Unix(),
	}
}

func (m *made) Sysctl(key string) string         { return m.sysctls[key] }
func (m *made) Settable(string) error            { return m.settable }
func (m *made) DeviceNode() error                { return m.node }
func (m *made) Links() ([]Link, error)           { return m.links, nil }
func (m *made) Chains() ([]Chain, error)         { return m.chains, nil }
func (m *made) LegacyTables() []string           { return m.legacy }
func (m *made) FastPath() ([]string, error)      { return m.fastPath, nil }
func (m *made) AntiSpoofing() (bool, error)      { return !m.spoofable, nil }
func (m *made) Modules() []string                { return m.modules }
func (m *made) Processes() []string              { return m.processes }
func (m *made) Synchronised() (bool, error)      { return !m.unsynchronise, nil }
func (m *made) Modified(string) int64            { return m.modified }
func (m *made) FreeSpace(string) (uint64, error) { return m.free, nil }

// Echo has an answer only when it is asked from an address that can be answered.
func (m *made) Echo(_ context.Context, to netip.Addr) error {
	if from, err := m.Source(to); err != nil || !from.IsGlobalUnicast() {
		return errors.New("no reply")
	}
	return m.echo
}

func (m *made) NextHop(string) (netip.Addr, error) {
	if m.noHop {
		return netip.Addr{}, nil
	}
	return netip.MustParseAddr("192.0.2.254"), nil
}

func (m *made) RoundTrip(_ context.Context, from, _ netip.Addr) (RoundTrip, error) {
	if trip, is := m.lost[from.String()]; is {
		return trip, nil
	}
	return RoundTrip{Back: true, Ours: true}, nil
}

func (m *made) Nameservers() ([]netip.AddrPort, error) {
	return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("192.0.2.54:53")}, nil
}

func (m *made) AskUpstream(_ context.Context, s netip.AddrPort) error {
	if slices.Contains(m.dead, s.Addr().String()) {
		return errors.New("no answer")
	}
	return nil
}

func (m *made) Listen(netip.AddrPort) error { return m.listen }

func (m *made) UplinkAddr(string) (netip.Addr, error) { return netip.MustParseAddr("192.0.2.99"), nil }

func (m *made) Held() (map[netip.Addr]string, error) { return m.held, nil }

func (m *made) Neighbours(_ context.Context, _ string, addrs []netip.Addr) (map[netip.Addr]string, error) {
	found := maps.Clone(m.others)
	maps.DeleteFunc(found, func(a netip.Addr, _ string) bool { return !slices.Contains(addrs, a) })
	return found, nil
}

func (m *made) Source(to netip.Addr) (netip.Addr, error) {
	switch s := m.source[to.Is6()]; {
	case s == "none":
		return netip.Addr{}, errors.New("cannot assign requested address")
	case s != "":
		return netip.MustParseAddr(s), nil
	case to.Is6():
		return netip.MustParseAddr("2001:db8:9::9"), nil
	}
	return netip.MustParseAddr("192.0.2.99"), nil
}

func (m *made) RouteTo(a netip.Addr) (string, error) {
	switch device := m.elsewhere[a.String()]; device {
	case "":
		return "natless0", nil
	case "none":
		return "", errors.New("network is unreachable")
	default:
		return device, nil
	}
}

func (m *made) Resolve(context.Context, netip.AddrPort, string) ([]netip.Addr, error) {
	if m.resolved == nil {
		return nil, errors.New("SERVFAIL")
	}
	return m.resolved, nil
}

func (m *made) PortLimits(string) (func(string) (string, error), error) {
	if m.limits == nil {
		return nil, fmt.Errorf("namespace: %w", fs.ErrNotExist)
	}
	return func(name string) (string, error) { return m.limits[name], nil }, nil
}

func (m *made) Inside(api.Workload) ([]string, error) { return m.inside, nil }

func (m *made) SourceIn(string, netip.Addr) (netip.Addr, error) {
	if m.limits == nil {
		return netip.Addr{}, fmt.Errorf("namespace: %w", fs.ErrNotExist)
	}
	if m.sends == "" {
		return netip.Addr{}, fmt.Errorf("route: %w", syscall.ENETUNREACH)
	}
	return netip.MustParseAddr(m.sends), nil
}

// daemon is a real API over a real registry with one workload.
func daemon(t *testing.T, change func(*api.Status)) *api.Client {
	t.Helper()
	return daemonOf(t, change, api.Request{})
}

// daemonOf has the workload ask for more.
func daemonOf(t *testing.T, change func(*api.Status), q api.Request) *api.Client {
	t.Helper()
	dir := t.TempDir()
	reg, err := registry.Open(registry.Options{Path: filepath.Join(dir, "r.db"), History: 1,
		Pools: []registry.Pool{{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/32"), PortsPerWorkload: 16384}}})
	if err != nil {
		t.Fatal(err)
	}
	status := api.Status{Version: "1", PID: 7, Ready: true, Started: now.Add(-time.Minute), Config: "natless.yaml",
		Device: api.Device{Name: "natless0", Offload: []string{"tso"}}, Checks: []api.Check{{Name: "anti-spoofing", State: "ok"}}}
	if change != nil {
		change(&status)
	}
	s := server.New(server.Options{Group: os.Getgid(), Registry: reg, Ready: func() bool { return true },
		Status: func(context.Context) (api.Status, error) { return status, nil }})
	socket := filepath.Join(dir, "s")
	l, err := server.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done; reg.Close() })
	q.Name, q.Netns, q.Ports, q.IPv6 = "web", "/run/netns/web", 16384, []netip.Addr{netip.MustParseAddr("2001:db8:7::1")}
	_, err = reg.Put(t.Context(), api.Key{ContainerID: "c1", Interface: "eth0"}, q)
	if err != nil {
		t.Fatal(err)
	}
	return api.NewClient(socket)
}

func patient(t *testing.T, m *made, status func(*api.Status), more string) Patient {
	t.Helper()
	c, err := config.Parse([]byte(file + more))
	if err != nil {
		t.Fatal(err)
	}
	return Patient{Config: c, ConfigPath: "natless.yaml", Client: daemon(t, status), Version: "1", Host: m, Now: now}
}

func text(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		if f.State != OK {
			fmt.Fprintf(&b, "%s %s: %s\n", f.State, f.Check, f.Detail)
		}
	}
	return b.String()
}

func TestHealthy(t *testing.T) {
	findings := Examine(t.Context(), patient(t, healthy(), nil, ""), nil)
	if got := text(findings); got != "" || Worst(findings) != OK {
		t.Fatalf("a healthy host:\n%s", got)
	}
	for _, check := range []string{"config", "api", "reload", "kernel", "device", "uplink", "sysctls", "routes", "mtu", "answers", "firewall",
		"anti-spoofing", "conntrack", "addresses", "neighbours", "way back", "offload", "fast path", "dns64", "pool space", "containers", "disk", "clock", "translators"} {
		if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Check == check }) {
			t.Errorf("nothing is said of %s", check)
		}
	}
}

// TestIll makes one thing wrong at a time: that is found, and nothing else.
func TestIll(t *testing.T) {
	for _, c := range []struct {
		want   string // STATE CHECK: part of the detail
		host   func(*made)
		status func(*api.Status)
		config string
	}{
		{want: "warn api: natlessd is version 2 and this is 1", status: func(s *api.Status) { s.Version = "2" }},
		{want: "warn api: natlessd is starting", status: func(s *api.Status) { s.Ready = false }},
		{want: "fail api-check: the daemon says: broken", status: func(s *api.Status) {
			s.Checks = append(s.Checks, api.Check{Name: "api-check", State: "fail", Detail: "broken"})
		}},
		{want: "warn reload: the last reload was refused: line 3", status: func(s *api.Status) { s.Reload.Error = "line 3" }},
		{want: "warn reload: natless.yaml has changed", host: func(m *made) { m.modified = now.Unix() }},
		{want: "fail kernel: /dev/net/tun", host: func(m *made) { m.node = fs.ErrNotExist }},
		{want: "fail device: there is no natless0", host: func(m *made) { m.links = m.links[1:] }},
		{want: "fail device: natless0 is a veth", host: func(m *made) { m.links[0].Kind = "veth" }},
		{want: "fail device: natless0 is down", host: func(m *made) { m.links[0].Up = false }},
		{want: "warn device: natless0 found its queue full", host: func(m *made) { m.links[0].QueueFull = 2 }},
		{want: "warn overload: the daemon says: the host is overloaded: ns/one sends too much", host: func(m *made) {
			m.links[0].QueueFull = 2 // which are those that it gave way with
		}, status: func(s *api.Status) {
			s.Limits = append(s.Limits, api.Limit{What: "daemon-packets", Budget: "workload", Refused: 2})
			s.Checks = append(s.Checks, api.Check{Name: "overload", State: "warn", Detail: "the host is overloaded: ns/one sends too much"})
		}},
		{want: "fail uplink: there is no interface eth0", host: func(m *made) { m.links = slices.Delete(m.links, 1, 2) }},
		{want: "fail uplink: eth0 is down", host: func(m *made) { m.links[1].Up = false }},
		{want: "fail map-t: all that came from 2001:db8:1000::/44 was dropped (3 packets): by the rule, no CE has such addresses", status: func(s *api.Status) {
			s.MAP = []api.MapRule{{IPv6: netip.MustParsePrefix("2001:db8:1000::/44"), Spoofed: 3}}
		}},
		{want: "fail map-t: all that came from 2001:db8:1000::/44 was dropped (2 packets): by the rule, its CEs have other ports", status: func(s *api.Status) {
			s.MAP = []api.MapRule{{IPv6: netip.MustParsePrefix("2001:db8:1000::/44"), Outside: 2}}
		}},
		{want: "fail sysctls: forwarding needs other sysctls", host: func(m *made) { m.sysctls["net/ipv4/conf/eth0/forwarding"] = "0" }},
		{want: "warn sysctls: eth0 ignores router advertisements", host: func(m *made) {
			m.sysctls["net/ipv6/conf/eth0/accept_ra"], m.sysctls["net/ipv6/conf/eth0/forwarding"] = "1", "1"
		}},
		{want: "fail routes: prefix: 2001:db8:64::c000:201 goes to eth0", host: func(m *made) { m.elsewhere["2001:db8:64::c000:201"] = "eth0" }},
		{want: "fail routes: mappings[0].ipv4: no route", host: func(m *made) { m.elsewhere["198.51.100.128"] = "none" }},
		{want: "fail routes: pools[0].ipv4: 198.51.100.0 goes to lo", host: func(m *made) { m.elsewhere["198.51.100.0"] = "lo" }},
		{want: "fail routes: workload c1/eth0: 198.51.100.0 goes to eth0", host: func(m *made) { m.elsewhere["198.51.100.0"] = "eth0" }},
		{want: "fail routes: the host has no address of its own", host: func(m *made) { m.elsewhere["127.0.0.1"] = "none" }},
		{want: "fail routes: workload c1/eth0: 2001:db8:7::1 leads back", host: func(m *made) { m.elsewhere["2001:db8:7::1"] = "natless0" }},
		{want: "fail routes: edge: the address for 198.51.100.0/32: 2001:db8:e::c633:6400 goes to lo", config: edgeOn,
			host: func(m *made) { m.elsewhere["2001:db8:e::c633:6400"] = "lo" }},
		{want: "fail routes: edge.prefix: no route to 2001:db8:f64::c000:201", config: edgeOn,
			host: func(m *made) { m.elsewhere["2001:db8:f64::c000:201"] = "none" }},
		{want: "fail mtu: mtu.ipv4 is 1500, but eth0", host: func(m *made) { m.links[1].MTU = 1400 }},
		{want: "fail mtu: natless0 has an MTU of 1280", host: func(m *made) { m.links[0].MTU = 1280 }},
		{want: "fail mtu: edge.mtu is 1500, but eth0", config: edgeOn, host: func(m *made) { m.links[1].MTU = 1400 }},
		{want: "warn mtu: pod", config: edgeOn, host: func(m *made) { m.links[2].MTU = 1510 }},
		{want: "warn sysctls: hosts on eth0 wait up to 700 ms", config: edgeOn, host: func(m *made) {
			m.sysctls["net/ipv4/neigh/eth0/proxy_delay"], m.sysctls["net/ipv6/neigh/eth0/proxy_delay"] = "80", "70"
		}},
		{want: "warn mtu: mtu.ipv6 is 1500, but pod", host: func(m *made) { m.links[2].MTU = 1400 }},
		{want: "warn mtu: device.mtu 1500 is smaller", config: "mtu: {ipv6: 9000}\n", host: func(m *made) { m.links[2].MTU = 9000 }},
		{want: "fail answers: the translator does not answer a ping at 2001:db8::1", host: func(m *made) { m.echo = errors.New("no reply") }},
		{want: "warn sysctls: hosts on eth0 wait up to 800 ms", host: func(m *made) { m.sysctls["net/ipv4/neigh/eth0/proxy_delay"] = "80" }},
		{want: "fail addresses: addresses.ipv4: 192.0.2.1 is the host's own", host: func(m *made) {
			m.held = map[netip.Addr]string{netip.MustParseAddr("192.0.2.1"): "the host's own on eth0"}
		}},
		{want: "fail addresses: pools[0].ipv4: 198.51.100.0/32: nothing is left", host: func(m *made) {
			m.held = map[netip.Addr]string{netip.MustParseAddr("198.51.100.0"): "a gateway on eth0"}
		}},
		{want: "warn addresses: the daemon says: 3 workloads", status: func(s *api.Status) {
			s.Checks = append(s.Checks, api.Check{Name: "addresses", State: "warn", Detail: "3 workloads"})
		}},
		{want: "warn neighbours: 198.51.100.128 is at another host, too: 02:00:00:00:00:01", host: func(m *made) {
			m.others = map[netip.Addr]string{netip.MustParseAddr("198.51.100.128"): "02:00:00:00:00:01", netip.MustParseAddr("8.8.8.8"): "02:00:00:00:00:02"}
		}},
		{want: "warn firewall: chain ip filter FORWARD drops", host: func(m *made) {
			m.chains = []Chain{{Family: "ip", Table: "filter", Name: "FORWARD", Hook: "forward", DropsByDefault: true}}
		}},
		{want: "warn firewall: chain ip nat POSTROUTING masquerades", host: func(m *made) {
			m.chains = []Chain{{Family: "ip", Table: "nat", Name: "POSTROUTING", Hook: "postrouting", Masquerades: true}}
		}},
		{want: "warn firewall: the older iptables", host: func(m *made) { m.legacy = []string{"filter"} }},
		{want: "fail anti-spoofing: the rules", host: func(m *made) { m.spoofable = true }},
		{want: "warn conntrack: the kernel's table of connections is nearly full (900 of 1000)", host: func(m *made) {
			m.sysctls["net/netfilter/nf_conntrack_count"], m.sysctls["net/netfilter/nf_conntrack_max"] = "900", "1000"
		}},
		{want: "warn offload: the device takes no superpackets", status: func(s *api.Status) { s.Device.Offload = nil }},
		{want: "fail fast path: 1 interface with the fast path twice", host: func(m *made) {
			m.fastPath = []string{"tcx program uplink at interface e", "x", "tcx program uplink at interface e"}
		}},
		{want: "fail fast path: the fast path is off, and an earlier run left x", host: func(m *made) { m.fastPath = []string{"x"} },
			status: func(s *api.Status) { s.FastPath = api.FastPath{Mode: "off", State: api.FastPathOff} }},
		{want: "warn fast path: packets at w would bypass filter u32", status: func(s *api.Status) {
			s.FastPath = api.FastPath{Mode: "auto", State: api.FastPathPartial, Interfaces: []api.FastPathInterface{{Name: "up"}, {Name: "w", Left: "filter u32"}}}
		}},
		{want: "warn xdp: XDP at up: theirs is there", status: func(s *api.Status) {
			s.FastPath.XDP = &api.FastPathXDP{Interfaces: []string{"fab"}, Notes: map[string]string{"up": "theirs is there"}}
		}},
		{want: "warn fast path: the kernel's fast path is not used: no BPF", status: func(s *api.Status) {
			s.FastPath = api.FastPath{Mode: "auto", State: api.FastPathOff, Detail: "no BPF"}
		}},
		{want: "warn fast path: the kernel's fast path is not on w: no room", status: func(s *api.Status) {
			s.FastPath = api.FastPath{Mode: "auto", State: api.FastPathPartial, Interfaces: []api.FastPathInterface{{Name: "up"}, {Name: "w", Error: "no room"}}}
		}},
		{want: "fail dns64: none of the upstreams of /etc/resolv.conf answers: 192.0.2.53:53: no answer; 192.0.2.54:53: no answer",
			host: func(m *made) { m.dead = []string{"192.0.2.53", "192.0.2.54"} }},
		{want: "warn dns64: 1 of the 2 upstreams of /etc/resolv.conf do not answer", host: func(m *made) { m.dead = []string{"192.0.2.54"} }},
		{want: "fail dns64: the daemon says: 192.0.2.53:53 silent", status: func(s *api.Status) {
			s.Checks = append(s.Checks, api.Check{Name: "dns64", State: "fail", Detail: "192.0.2.53:53 silent"})
		}, host: func(m *made) { m.dead = []string{"192.0.2.53", "192.0.2.54"} }},
		{want: "fail uplink: there is no interface eth0", host: func(m *made) { m.links = slices.Delete(m.links, 1, 2) },
			status: func(s *api.Status) {
				s.Checks = append(s.Checks, api.Check{Name: "uplink", State: "fail", Detail: "there is no interface eth0"})
				s.FastPath = api.FastPath{Mode: "auto", State: api.FastPathOff, Detail: "no Ethernet interface eth0"}
			}},
		{want: "fail way back: pool default: 192.0.2.254 answers this host, and not 198.51.100.0", host: func(m *made) {
			m.lost = map[string]RoundTrip{"198.51.100.0": {}}
		}},
		{want: "fail way back: pool default: the answer for 198.51.100.0 came back to this host, and not to natless0", host: func(m *made) {
			m.lost = map[string]RoundTrip{"198.51.100.0": {Back: true}}
		}},
		{want: "warn way back: 20 packets of workloads went out to IPv4, and none has come back", status: func(s *api.Status) {
			s.Verdicts = map[string]uint64{"forward4": 11, "pass4": 9}
		}},
		{want: "fail dns64: the resolver at [2001:db8::1]:53 does not answer", host: func(m *made) { m.resolved = nil }},
		{want: "fail dns64: the resolver at [2001:db8::1]:53 says", host: func(m *made) { m.resolved[0] = netip.MustParseAddr("2001:db8:65::1") }},
		{want: "warn containers: web sends from 2001:db8:7::99, and 2001:db8:7::1 is mapped", host: func(m *made) { m.sends = "2001:db8:7::99" }},
		{want: "warn containers: web has no way to 2001:db8:64::/96", host: func(m *made) { m.sends = "" }},
		{want: "warn containers: web picks ports that are not its own", host: func(m *made) { m.limits["ip_local_port_range"] = "1024\t65535" }},
		{want: "fail disk: 1 MB left", host: func(m *made) { m.free = 1 << 20 }},
		{want: "warn clock: no NTP client keeps it right", host: func(m *made) { m.unsynchronise = true }},
		{want: "warn clock: the clock went back", status: func(s *api.Status) { s.Started = now.Add(time.Hour) }},
		{want: "warn translators: kernel module jool_siit", host: func(m *made) { m.modules = []string{"tun", "jool_siit"} }},
		{want: "warn translators: program tayga", host: func(m *made) { m.processes = []string{"tayga"} }},
		{want: "warn translators: device clat4", host: func(m *made) { m.links = append(m.links, Link{Name: "clat4"}) }},
	} {
		t.Run(c.want, func(t *testing.T) {
			m := healthy()
			if c.host != nil {
				c.host(m)
			}
			findings := Examine(t.Context(), patient(t, m, c.status, c.config), nil)
			check := strings.SplitN(c.want, ":", 2)[0]
			for _, f := range findings {
				if name := string(f.State) + " " + f.Check; f.State != OK && name != check {
					t.Errorf("found besides: %s: %s", name, f.Detail)
				}
				if f.State != OK && f.Remedy == "" {
					t.Errorf("%s has no remedy", f.Check)
				}
			}
			if !strings.Contains(text(findings), c.want) {
				t.Errorf("not found; there was:\n%s", text(findings))
			}
		})
	}
}

// TestUnaskable: a host that lacks an address of a family outside of its links is
// no reason to think that the translator is silent.
func TestUnaskable(t *testing.T) {
	for _, four := range []string{"", "0.0.0.0", "169.254.7.7", "none"} {
		for _, six := range []string{"", "fe80::1", "::1", "none"} {
			m := healthy()
			m.source = map[bool]string{false: four, true: six}
			if six != "" {
				m.resolved = nil // nor does the resolver hear anything
			}
			findings := Examine(t.Context(), patient(t, m, nil, ""), nil)
			if got := text(findings); got != "" {
				t.Errorf("from %q and %q:\n%s", four, six, got)
			}
			for _, f := range findings {
				unasked := (four != "" || six != "") && f.Check == "answers" || six != "" && f.Check == "dns64"
				if strings.Contains(f.Detail, "cannot be asked") != unasked {
					t.Errorf("from %q and %q: %s: %s", four, six, f.Check, f.Detail)
				}
			}
			m.echo = errors.New("no reply")
			if got := text(Examine(t.Context(), patient(t, m, nil, ""), nil)); strings.Contains(got, "fail answers") != (four == "" || six == "") {
				t.Errorf("a silent translator, from %q and %q:\n%s", four, six, got)
			}
		}
	}
}

// TestFirstIsGateway: the first address of a pool may be the gateway's, and is
// routed to there.
func TestFirstIsGateway(t *testing.T) {
	m := healthy()
	m.held = map[netip.Addr]string{netip.MustParseAddr("198.51.100.0"): "a gateway on eth0"}
	m.elsewhere["198.51.100.0"] = "eth0"
	p := patient(t, m, nil, "")
	c, err := config.Parse([]byte(strings.Replace(file, "ipv4: 198.51.100.0/32", "ipv4: 198.51.100.0/31", 1)))
	if err != nil {
		t.Fatal(err)
	}
	p.Config = c
	findings := Examine(t.Context(), p, nil)
	if got := text(findings); got != "" {
		t.Error(got)
	}
	if !slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Check == "addresses" && f.Detail == "1 addresses of pools and mappings are given to nobody: 198.51.100.0 is a gateway on eth0"
	}) {
		t.Errorf("%+v", findings)
	}
}

func TestDaemonIsDown(t *testing.T) {
	p := patient(t, healthy(), nil, "")
	p.Client = api.NewClient(filepath.Join(t.TempDir(), "none"))
	m := p.Host.(*made)
	m.links = m.links[1:]
	m.sysctls["net/ipv6/conf/all/forwarding"] = "0"
	findings := Examine(t.Context(), p, nil)
	want := "fail api: natlessd is not running: no socket at " + p.Client.Socket() + "\nwarn device: there is no natless0 while natlessd is down\n"
	if got := text(findings); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestUnprobed: what cannot be probed is no fault, and said to be so.
func TestUnprobed(t *testing.T) {
	for want, host := range map[string]func(*made){
		"it cannot be probed: this host has no IPv4 next hop toward eth0 to ask":                         func(m *made) { m.noHop = true },
		"it cannot be probed: this host has no IPv4 address of its own to compare with":                  func(m *made) { m.source = map[bool]string{false: "none"} },
		"it cannot be probed: 192.0.2.254 does not answer a ping of this host's own: name one that does": func(m *made) { m.lost = map[string]RoundTrip{"192.0.2.99": {}, "198.51.100.0": {}} },
		"explicit mappings cannot be, since all of their ports are somebody's":                           func(*made) {},
	} {
		m := healthy()
		host(m)
		findings := Examine(t.Context(), patient(t, m, nil, ""), nil)
		i := slices.IndexFunc(findings, func(f Finding) bool { return f.Check == checkWayBack })
		if i < 0 || findings[i].State != OK || !strings.Contains(findings[i].Detail, want) {
			t.Errorf("want %q\n%+v", want, findings)
		}
	}
	whole := api.Pool{Name: "w", WholeAddress: true, Addresses: []api.PoolAddress{{Address: netip.MustParseAddr("192.0.2.16"), Workloads: 1}}}
	if a, why := probeFrom(whole); a.IsValid() || why != "each of its addresses is some workload's" {
		t.Errorf("a workload's address is asked from: %v %q", a, why)
	}
}

// TestPoolSpace: a pool with ports left and no share of them is full.
func TestPoolSpace(t *testing.T) {
	p := patient(t, healthy(), nil, "")
	for i := range 2 { // with the reserved ports of the second, 16383 of 65535 are left, and no share
		_, err := p.Client.Put(t.Context(), api.Key{ContainerID: fmt.Sprint("more", i), Interface: "eth0"}, api.Request{Name: "more", Netns: "/run/netns/web",
			IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:7::1%d", i))}})
		if err != nil {
			t.Fatal(err)
		}
	}
	p.Host.(*made).elsewhere["2001:db8:7::10"], p.Host.(*made).elsewhere["2001:db8:7::11"] = "pod", "pod"
	got := text(Examine(t.Context(), p, nil))
	if !strings.Contains(got, "fail pool space: pool default has no share left for one more workload: 3 workloads have 49152 of 65535 ports") {
		t.Errorf("a full pool:\n%s", got)
	}
}

// TestBeforeStart: what natlessd makes itself is no finding, and what it cannot work
// with is one.
func TestBeforeStart(t *testing.T) {
	p := patient(t, healthy(), nil, "metrics: {listen: \"[::1]:9464\"}\n")
	m := p.Host.(*made)
	m.links = m.links[1:]
	m.sysctls["net/ipv4/conf/eth0/forwarding"] = "0"
	if got := text(BeforeStart(t.Context(), p)); got != "" {
		t.Errorf("a host that is as it should be:\n%s", got)
	}
	m.listen = fmt.Errorf("listen: %w", syscall.EADDRINUSE)
	m.links = nil
	m.dead = []string{"192.0.2.53", "192.0.2.54"}
	m.held = map[netip.Addr]string{netip.MustParseAddr("192.0.2.1"): "the host's own on eth0"}
	got := text(BeforeStart(t.Context(), p))
	for _, want := range []string{"fail sockets: metrics.listen: somebody else listens on [::1]:9464", "fail uplink: there is no interface eth0",
		"fail addresses: addresses.ipv4: 192.0.2.1 is the host's own", "fail dns64: none of the upstreams"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
}

func TestNoConfiguration(t *testing.T) {
	p := patient(t, healthy(), nil, "")
	_, p.ConfigError = config.Load(filepath.Join(t.TempDir(), "none"))
	p.Config, p.ConfigPath = nil, "/etc/natless/natless.yaml"
	findings := Examine(t.Context(), p, nil)
	if got, want := text(findings), "fail config: there is no file at /etc/natless/natless.yaml\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestProgress is about a slow check: what was found before it is told at once.
func TestProgress(t *testing.T) {
	var told []Finding
	findings := Examine(t.Context(), patient(t, healthy(), nil, ""), func(f Finding) { told = append(told, f) })
	if !slices.Equal(told, findings) {
		t.Errorf("told %v\nfound %v", told, findings)
	}
}

const edgeOn = "edge: {enabled: true, prefix: \"2001:db8:f64::/96\", host: \"2001:db8:e::/96\"}\n"
