package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/api/server"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/ports"
)

// daemon answers on a socket from a real registry with three workloads.
func daemon(t *testing.T) (socket string) {
	t.Helper()
	return daemonWith(t, func(w *api.Workload) {
		w.Traffic = &api.Traffic{}
		if w.Request.Name == "ns/db" {
			w.Traffic.Sent, w.Traffic.Received = api.Count{Packets: 1234, Bytes: 5_678_901}, api.Count{Packets: 999, Bytes: 10_000}
		}
	})
}

// daemonWith is that, with what complete says of the workloads.
func daemonWith(t *testing.T, complete func(*api.Workload)) (socket string) {
	t.Helper()
	t.Setenv("LC_ALL", "C")
	dir := t.TempDir()
	reg, err := registry.Open(registry.Options{Path: filepath.Join(dir, "r.db"), History: 100, Pools: []registry.Pool{
		{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/31"), PortsPerWorkload: 16384, Reserved: ports.MustParse("0-1023"), Cooldown: time.Minute},
		{Name: "dedicated", IPv4: netip.MustParsePrefix("203.0.113.0/27"), Whole: true, Cooldown: time.Second},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Options{
		Group:    os.Getgid(), // the test may ask, whoever runs it
		Complete: complete,
		Flows: func(_ context.Context, _ api.FlowFilter, send server.Send) error {
			flow, err := json.Marshal(api.SeenFlow{Flow: &api.Flow{Workload: "a-namespace/a-workload-of-a-long-name", Proto: "tcp",
				Local: netip.MustParseAddr("198.51.100.1"), LocalPort: 20000, Remote: netip.MustParseAddr("203.0.113.254"), RemotePort: 443,
				Start: time.Now().Add(-time.Minute), End: time.Now(), Sent: api.FlowCount{Packets: 12345, Bytes: 12345678}}})
			if err != nil {
				return err
			}
			return send(append(flow, '\n'))
		},
		Registry: reg, Ready: func() bool { return true },
		Status: func(context.Context) (api.Status, error) {
			return api.Status{Version: "1.2", PID: 42, Ready: true, Started: time.Now().Add(-90 * time.Minute), Config: "/etc/natless/natless.yaml",
				Prefix: netip.MustParsePrefix("64:ff9b::/96"), IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1"),
				Device: api.Device{Name: "natless0", MTU: 1500, Queues: 2, Offload: []string{"csum", "tso4"}}, Mappings: 5, Workloads: 3,
				Verdicts: map[string]uint64{"forward4": 1000, "malformed": 2, "bad-checksum": 0},
				Checks:   []api.Check{{Name: "routes", State: "ok", Detail: "all there"}},
				FastPath: api.FastPath{Mode: "auto", State: api.FastPathPartial, Detail: "no room", Attach: "tcx", Layout: 1, Adopted: true,
					Interfaces: []api.FastPathInterface{{Name: "eth0", Uplink: true}, {Name: "veth1", Workloads: 2}, {Name: "veth2", Error: "is down"}},
					Translated: map[string]api.FastPathCount{"forward4": {Packets: 900}, "forward6": {Packets: 100}},
					Passed:     map[string]uint64{"fragment": 7, "options": 0},
					XDP: &api.FastPathXDP{Interfaces: []string{"eth0"}, Notes: map[string]string{"eth4": "it is a port of another interface"},
						Packets: map[string]uint64{"translated": 800, "fragment": 9}}}}, nil
		},
		Explain: func(_ context.Context, words string) (api.Explanation, error) {
			return api.Explanation{Packet: words, Verdict: "forward4", Text: "it passes\n"}, nil
		},
		Identify: func(a netip.Addr, _ int) ([]api.Owner, string) {
			if a == netip.MustParseAddr("192.0.2.1") {
				return []api.Owner{{Kind: api.OwnerTranslator, Name: "natlessd", Detail: "the translator's own", Address: a,
					IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}}, ""
			}
			return nil, ""
		},
		Reload: func(context.Context) error { return fmt.Errorf("natless.yaml:3: prefix: is wrong") },
	})
	socket = filepath.Join(dir, "n.sock")
	l, err := server.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done; reg.Close() })
	for n, r := range []api.Request{{Name: "ns/web", Network: "n1", Netns: "/run/netns/web", HostInterface: "veth1"}, {Name: "ns/db", ExtraPorts: []uint16{443}}, {Pool: "dedicated"}} {
		r.IPv6 = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n+1))}
		if _, err := reg.Put(t.Context(), api.Key{ContainerID: fmt.Sprintf("%d0123456789abcdef", n), Interface: "eth0"}, r); err != nil {
			t.Fatal(err)
		}
	}
	return socket
}

// moving takes out what no two runs have in common.
func moving(s string) string {
	s = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+( \(\d+s\))?`).ReplaceAllString(s, "TIME")
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:]+Z`).ReplaceAllString(s, "STAMP")
}

// run is the command with its words, "!" before an error.
func run(t *testing.T, socket string, args ...string) string {
	t.Helper()
	o := &options{}
	root := newRoot(o)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append(args, "--socket", socket))
	if err := root.ExecuteContext(t.Context()); err != nil {
		return moving(out.String() + "!" + strings.ReplaceAll(advise(o.socket, err).Error(), socket, "SOCKET"))
	}
	return moving(out.String())
}

func TestCommands(t *testing.T) {
	socket := daemon(t)
	for _, c := range []struct{ args, want string }{
		{"status", `natlessd       ready, version 1.2, process 42, up 1h30m
config         /etc/natless/natless.yaml
prefix         64:ff9b::/96
own addresses  192.0.2.1, 2001:db8::1
device         natless0, MTU 1500, 2 queues, offload csum tso4
table          5 mappings, 3 of them workloads
fast path      partial, by tcx, layout 1, from an earlier run
  mode         auto
  because      no room
  attached to  uplink eth0; 2 interfaces of workloads
  translated   forward4 900, forward6 100
  passed on    fragment 7
  xdp at  eth0
  by xdp  fragment 9, translated 800
  XDP at eth4: it is a port of another interface
  not at veth2: is down

VERDICT    PACKETS
forward4   1000
malformed  2

CHECK   STATE  DETAIL
routes  ok     all there
`},
		{"workloads --pool default", `NAME    WORKLOAD           IPV6         ADDRESS       PORTS            POOL     AGE   SENT  PKTS  RECEIVED  PKTS
ns/web  00123456789a/eth0  2001:db8::1  198.51.100.0  16384-32767      default  0s      0B     0        0B     0
ns/db   10123456789a/eth0  2001:db8::2  198.51.100.1  443,16384-32767  default  0s   5.7MB  1.2k      10kB   999
`},
		{"workloads list --name nobody", "no workload is like that: `natless workloads` lists all\n"},
		{"workloads --pool nowhere", `!pool: there is no pool "nowhere": there are default, dedicated`},
		{"workloads --name *b --sort -age", `NAME    WORKLOAD           IPV6         ADDRESS       PORTS            POOL     AGE   SENT  PKTS  RECEIVED  PKTS
ns/web  00123456789a/eth0  2001:db8::1  198.51.100.0  16384-32767      default  0s      0B     0        0B     0
ns/db   10123456789a/eth0  2001:db8::2  198.51.100.1  443,16384-32767  default  0s   5.7MB  1.2k      10kB   999
`},
		{"workloads --address 203.0.113.0/24", `NAME  WORKLOAD           IPV6         ADDRESS      PORTS  POOL       AGE  SENT  PKTS  RECEIVED  PKTS
-     20123456789a/eth0  2001:db8::3  203.0.113.0  all    dedicated  0s     0B     0        0B     0
`},
		{"workloads --address 2001:db8::2", `NAME   WORKLOAD           IPV6         ADDRESS       PORTS            POOL     AGE   SENT  PKTS  RECEIVED  PKTS
ns/db  10123456789a/eth0  2001:db8::2  198.51.100.1  443,16384-32767  default  0s   5.7MB  1.2k      10kB   999
`},
		{"workloads show ns/web", `name       ns/web
workload   00123456789abcdef/eth0
serial     1
network    n1
namespace  /run/netns/web
interface  veth1
ipv6       2001:db8::1
address    198.51.100.0
ports      16384-32767
pool       default
since      TIME
sent       0 packets, 0B
received   0 packets, 0B
`},
		{"workloads show 2", `workload  20123456789abcdef/eth0
serial    3
ipv6      2001:db8::3
address   203.0.113.0
ports     all
pool      dedicated
since     TIME
sent      0 packets, 0B
received  0 packets, 0B
`},
		{"workloads show nobody", "!no workload is called \"nobody\": `natless workloads` lists all"},
		{"whois 198.51.100.1:443", `name      ns/db
workload  10123456789abcdef/eth0
serial    2
ipv6      2001:db8::2
address   198.51.100.1
ports     443,16384-32767
pool      default
since     TIME
`},
		{"whois 198.51.100.1:444", "!nobody has 198.51.100.1:444"},
		{"whois 198.51.100.1", `name      ns/db
workload  10123456789abcdef/eth0
serial    2
ipv6      2001:db8::2
address   198.51.100.1
ports     443,16384-32767
pool      default
since     TIME
`},
		{"whois 2001:db8::3", `workload  20123456789abcdef/eth0
serial    3
ipv6      2001:db8::3
address   203.0.113.0
ports     all
pool      dedicated
since     TIME
`},
		{"whois 192.0.2.1", `name     natlessd
is       the translator's own
ipv6     2001:db8::1
address  192.0.2.1
`},
		{"whois 198.51.100.256", `!"198.51.100.256" is not an address, with or without a port, such as 198.51.100.7:4321, 198.51.100.7 or 2001:db8:6::2`},
		{"whois 198.51.100.1:1 --at noon", "!--at \"noon\": write 15:04, 'yesterday 15:04', '2006-01-02 15:04', STAMP, or how long ago, such as 10m"},
		{"explain ipv6 src", "it passes\n"},
		{"reload", "!natless.yaml:3: prefix: is wrong"},
		{"workloads delete ns/db", "ns/db gave back 198.51.100.1 ports 443,16384-32767\n"},
		{"whois 198.51.100.1:443", "!nobody has 198.51.100.1:443\n  ns/db had it last, from TIME until TIME (natless whois 198.51.100.1:443 --at STAMP)"},
		{"whois 198.51.100.1", "!nobody has 198.51.100.1\n  ns/db had it last, from TIME until TIME (natless whois 198.51.100.1 --at STAMP)"},
		{"whois 2001:db8::2", "!nobody has 2001:db8::2\n  ns/db had it last, from TIME until TIME (natless whois 2001:db8::2 --at STAMP)"},
		{"status extra", `!"extra": natless status takes no arguments`},
		{"status -o yaml", "!--output yaml: is neither text nor json"},
	} {
		if d := cmp.Diff(c.want, run(t, socket, strings.Fields(c.args)...)); d != "" {
			t.Errorf("natless %s (-want +got):\n%s", c.args, d)
		}
	}
}

func TestPools(t *testing.T) {
	socket := daemon(t)
	run(t, socket, "workloads", "delete", "ns/db")
	want := `default: 16384 ports each, 1 workload, 13% used, cooldown 1m0s
  198.51.100.0  #####...............  25%  1 workload   16384 of 64512 ports
  198.51.100.1  ~~~~~...............  0%   0 workloads  0 of 64513 ports, 16385 cooling down

dedicated: whole addresses, 1 workload, 3% used, cooldown 1s
  203.0.113.0   ####################  100%  1 workload
`
	got := run(t, socket, "pools")
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "  and 16 addresses no fuller (--all shows all)\n") {
		t.Error(cmp.Diff(want, got))
	}
	if got := run(t, socket, "pools", "--all"); strings.Count(got, "203.0.113.") != 32 {
		t.Errorf("with --all:\n%s", got)
	}
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	if got := run(t, socket, "pools"); !strings.Contains(got, "█████░") || !strings.Contains(got, "▒▒▒▒▒░") {
		t.Errorf("with UTF-8:\n%s", got)
	}
}

// TestJSON: each command's answer for programs is JSON with the API's names.
func TestJSON(t *testing.T) {
	socket := daemon(t)
	for _, c := range [][2]string{
		{"status", `"pid":42`},
		{"workloads", `"container_id":"00123456789abcdef"`},
		{"workloads list --name nobody", `[]`},
		{"workloads show ns/web", `"address":"198.51.100.0"`},
		{"whois 198.51.100.1:443", `"name":"ns/db"`},
		{"whois 198.51.100.1", `"owners":[{"container_id"`},
		{"workloads --sort -name", `"container_id":"00123456789abcdef"`},
		{"workloads --sort -sent", `"traffic":{"sent":{"packets":1234,"bytes":5678901},"received":{"packets":999,"bytes":10000}}`},
		{"pools", `"ports_used":16385`},
		{"version", `"natlessd":{"version":`},
		{"explain x", `"verdict":"forward4"`},
		{"workloads delete ns/db", `"name":"ns/db"`},
	} {
		var compact bytes.Buffer
		got := run(t, socket, append(strings.Fields(c[0]), "-o", "json")...)
		if err := json.Compact(&compact, []byte(got)); err != nil || !strings.Contains(compact.String(), c[1]) {
			t.Errorf("natless %s: %v, want %s in\n%s", c[0], err, c[1], got)
		}
	}
}

func TestCompletion(t *testing.T) {
	socket := daemon(t)
	complete := func(words ...string) string { // cobra reads --socket from what is completed
		o := &options{}
		root := newRoot(o)
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(new(bytes.Buffer))
		root.SetArgs(append([]string{"__complete", "--socket", socket}, words...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := "ns/web\t198.51.100.0 16384-32767\nns/db\t198.51.100.1 443,16384-32767\n20123456789abcdef/eth0\t203.0.113.0 all\n:4\n"
	if got := complete("workloads", "show", ""); got != want {
		t.Error(cmp.Diff(want, got))
	}
	if got := complete("workloads", "--pool", ""); got != "default\ndedicated\n:4\n" {
		t.Error(got)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := run(t, socket, "completion", shell); !strings.Contains(got, "natless") {
			t.Errorf("%s: %.200s", shell, got)
		}
	}
}

// TestNoDaemon: the reader learns what to look at.
func TestNoDaemon(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	dead := filepath.Join(t.TempDir(), "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for socket, want := range map[string]string{
		missing: "!natlessd does not answer on SOCKET: dial unix SOCKET: connect: no such file or directory\n  there is no socket: is natlessd running (systemctl status natlessd), and is this its api.socket? --socket names another",
		dead:    "!natlessd does not answer on SOCKET: dial unix SOCKET: connect: connection refused\n  nobody listens there any more: natlessd died without cleaning up (journalctl -u natlessd says why); start it again",
	} {
		for _, command := range []string{"status", "pools", "workloads", "reload", "whois 192.0.2.1:1", "workloads show x", "explain x",
			"top", "top --once -o json", "drain", "drain --wait", "undrain", "workloads --watch", "workloads delete x", "monitor", "status -o json"} {
			if got := run(t, socket, strings.Fields(command)...); got != want {
				t.Errorf("%s: %s", command, cmp.Diff(want, got))
			}
		}
	}
	if got := remedy(dead, &api.Problem{Code: api.CodeUnavailable, Err: os.ErrPermission}); !strings.HasPrefix(got, "you may not open the socket: run it as root, or join the group ") {
		t.Error(got)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	for s, want := range map[string]time.Time{
		"":                     {},
		"2026-01-02T15:04:05Z": time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
		"2026-01-02 15:04":     time.Date(2026, 1, 2, 15, 4, 0, 0, time.Local),
		"2026-01-02 15:04:05":  time.Date(2026, 1, 2, 15, 4, 5, 0, time.Local),
		"10m":                  now.Add(-10 * time.Minute),
		"-1h30m":               now.Add(-90 * time.Minute),
		"10m ago":              now.Add(-10 * time.Minute),
		"2d":                   now.Add(-48 * time.Hour),
		"1d12h":                now.Add(-36 * time.Hour),
		"10:32":                time.Date(2026, 3, 4, 10, 32, 0, 0, time.Local),
		"23:10:05":             time.Date(2026, 3, 3, 23, 10, 5, 0, time.Local), // not yet today
		"yesterday":            time.Date(2026, 3, 3, 12, 0, 0, 0, time.Local),
		"yesterday 10:32":      time.Date(2026, 3, 3, 10, 32, 0, 0, time.Local),
		"today 09:00":          time.Date(2026, 3, 4, 9, 0, 0, 0, time.Local),
		"now":                  now,
	} {
		if got, err := cli.ParseTime(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
}

// TestDrain: who drains learns who is left, waits until nobody is, and how it ends.
func TestDrain(t *testing.T) {
	socket := daemon(t)
	for _, c := range []struct{ args, want string }{
		{"undrain", "this host is not drained\n"},
		{"drain --pool nowhere", `!pool: there is no pool "nowhere": there are default, dedicated`},
		{"undrain --pool nowhere", `!pool: there is no pool "nowhere": there are default, dedicated`},
		{"drain --timeout 1s", "!--timeout 1s: is for how long to --wait"},
		{"drain --pool dedicated", "pool dedicated takes no new workloads since TIME, 1 workload left\n"},
		{"drain --wait --timeout 1ms", "this host takes no new workloads since TIME, 3 workloads left\n" +
			"CLOCK  3 workloads left: ns/web, ns/db, 20123456789a/eth0\n!3 workloads left after 1ms: `natless workloads` lists them"},
		{"undrain", "new workloads get something of this host again\n"},
	} {
		got := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d `).ReplaceAllString(run(t, socket, strings.Fields(c.args)...), "CLOCK ")
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("natless %s (-want +got):\n%s", c.args, d)
		}
	}
	if got := run(t, socket, "pools"); !strings.Contains(got, "cooldown 1s, drained since TIME\n") || strings.Count(got, "drained") != 1 {
		t.Error(got)
	}
	done := make(chan string, 1)
	go func() { done <- run(t, socket, "drain", "--pool", "dedicated", "--wait", "-o", "json") }()
	run(t, socket, "workloads", "delete", "2")
	if got := <-done; !strings.Contains(got, `"pool": "dedicated"`) || !strings.Contains(got, `"left": 0`) {
		t.Error(got)
	}
}

// TestSilentDaemon: one that takes questions and answers none, as a stopped one does,
// keeps no command for ever.
func TestSilentDaemon(t *testing.T) {
	before := patience
	patience = 50 * time.Millisecond
	t.Cleanup(func() { patience = before })
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, command := range []string{"status", "status -o json", "pools", "workloads", "whois 192.0.2.1:1", "workloads show x", "workloads delete x", "explain x",
		"top --once", "drain --wait", "undrain", "monitor", "capture -w /dev/null"} {
		if got := run(t, socket, strings.Fields(command)...); !strings.HasPrefix(got, "!natlessd does not answer on SOCKET: ") ||
			!strings.HasSuffix(got, "  is natlessd alive (systemctl status natlessd)?") {
			t.Errorf("%s: %s", command, got)
		}
	}
}
