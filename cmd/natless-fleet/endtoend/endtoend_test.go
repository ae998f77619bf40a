//go:build linux

// Package endtoend has what needs all of it: natlessd, natless-fleet and etcd, as programs.
package endtoend

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

const patience = 2 * time.Minute

func within(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// store is an etcd that can be away.
type store struct {
	t      *testing.T
	config *embed.Config
	server *embed.Etcd
}

func newStore(t *testing.T) *store {
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs, c.UnsafeNoFsync = t.TempDir(), "error", []string{"/dev/null"}, true
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.ListenPeerUrls = []url.URL{any}, []url.URL{any}
	s := &store{t: t, config: c}
	s.start()
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: s.server.Clients[0].Addr().String()}} // again there
	t.Cleanup(func() { s.server.Close() })
	return s
}

func (s *store) start() {
	s.t.Helper()
	var err error
	for range 50 { // its port may be taken for a moment
		if s.server, err = embed.StartEtcd(s.config); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.server.Server.ReadyNotify():
	case <-time.After(patience):
		s.t.Fatal("etcd is not ready")
	}
}

// program runs natless-fleet.
type program struct {
	t     *testing.T
	path  string
	store []string // the flags that name it
}

func newFleet(t *testing.T, store ...string) *program {
	t.Helper()
	if os.Getenv("NATLESS_BIN") == "" {
		bin := t.TempDir()
		if out, err := exec.Command("go", "build", "-C", "../../..", "-o", bin+"/", "./cmd/natlessd", "./cmd/natless").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Setenv("NATLESS_BIN", bin)
	}
	f := &program{t: t, path: filepath.Join(t.TempDir(), "natless-fleet"), store: store}
	if out, err := exec.Command("go", "build", "-o", f.path, "..").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return f
}

func (f *program) runs(args ...string) *exec.Cmd {
	f.t.Helper()
	cmd := exec.Command(f.path, append(args, f.store...)...)
	var log output.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	f.t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		if f.t.Failed() {
			f.t.Logf("natless-fleet %v:\n%s", args, log.String())
		}
	})
	return cmd
}

func (f *program) says(args ...string) string {
	f.t.Helper()
	out, err := exec.Command(f.path, append(args, f.store...)...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("natless-fleet %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// asks is a command that asks a host's natlessd, as ssh would.
func asks(t *testing.T, hosts map[string]*daemon.Daemon) string {
	t.Helper()
	text := "host=$1; shift\ncase $host in\n"
	for name, d := range hosts {
		text += fmt.Sprintf("%s) exec %s --socket %s \"$@\" ;;\n", name, filepath.Join(os.Getenv("NATLESS_BIN"), "natless"), d.Socket)
	}
	path := filepath.Join(t.TempDir(), "ask")
	if err := os.WriteFile(path, []byte(text+"esac\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "sh " + path + " {host} whois {address}"
}

const configuration = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools: [{name: lent, from: fleet, whole_address: true, cooldown: 0s, low_watermark: 1, high_watermark: 2}]
`

func newHost(t *testing.T, n int) *daemon.Daemon {
	ns, link := netns.New(t, fmt.Sprint("host", n)), netns.New(t, fmt.Sprint("link", n))
	netns.Veth(t, ns, "uplink", link, "eth0")
	ns.IP(fmt.Sprintf("addr add 192.0.2.%d/24 dev uplink", n))
	ns.IP("route add default via 192.0.2.254")
	return daemon.Start(t, ns, configuration)
}

func blocks(t *testing.T, d *daemon.Daemon) (all []string) {
	b, err := d.Client().Blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range b.Blocks {
		all = append(all, one.IPv4.String())
	}
	return all
}

func key(n int) api.Key { return api.Key{ContainerID: fmt.Sprint("c", n), Interface: "eth0"} }

func put(t *testing.T, d *daemon.Daemon, n int) (api.Workload, error) {
	return d.Client().Put(t.Context(), key(n), api.Request{IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:6::%x", n))}, Name: fmt.Sprint("ns/", n)})
}

// TestFleet: two hosts share a pool; what is the one's is never the other's; with the
// store away hosts go on and take workloads while addresses last; an agent, a controller
// and natlessd may be killed; and a host that is drained has given all back at the end.
func TestFleet(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	etcd := newStore(t)
	f := newFleet(t, "--etcd", "http://"+etcd.server.Clients[0].Addr().String())
	one, two := newHost(t, 1), newHost(t, 2)
	if _, err := put(t, one, 1); !errors.Is(err, api.ErrExhausted) {
		t.Fatalf("of no block: %v", err)
	}
	f.says("pool", "lent", "198.51.100.8/29")
	first := f.runs("controller", "--name", "a", "--lead", "2s")
	f.runs("controller", "--name", "b", "--lead", "2s")
	agent := func(name string, d *daemon.Daemon) *exec.Cmd {
		return f.runs("agent", "--name", name, "--socket", d.Socket, "--machine-id", d.Config, "--idle", "1s", "--look", "200ms")
	}
	killed := agent("one", one)
	agent("two", two)
	within(t, "both have a block", func() bool { return len(blocks(t, one)) == 1 && len(blocks(t, two)) == 1 })
	var w api.Workload
	within(t, "the first workload", func() (is bool) { // what is on disk is in force a moment later
		var err error
		w, err = put(t, one, 1)
		return err == nil
	})
	within(t, "another before it is needed", func() bool { return len(blocks(t, one)) == 2 })
	by := asks(t, map[string]*daemon.Daemon{"one": one, "two": two})
	if got := f.says("whois", w.Address.String()+":443", "--ask", by); !strings.Contains(got, "lent to host one") || !strings.Contains(got, "host one:") ||
		!strings.Contains(got, "ns/1") {
		t.Errorf("whois: %s", got)
	}
	var found struct {
		Host    string
		Held    bool
		Answers []struct {
			Host  string
			Owner api.Owner
		}
	}
	if got := f.says("whois", w.Address.String()+":443", "--ask", by, "-o", "json"); json.Unmarshal([]byte(got), &found) != nil || found.Host != "one" ||
		!found.Held || len(found.Answers) != 1 || found.Answers[0].Host != "one" || found.Answers[0].Owner.Name != "ns/1" {
		t.Errorf("whois -o json: %s", got)
	}
	then := time.Now().UTC().Format(time.RFC3339Nano)

	etcd.server.Close() // and all that writes is killed
	first.Process.Kill()
	killed.Process.Kill()
	one.Kill()
	one.Start()
	if again, err := one.Client().Get(t.Context(), key(1)); err != nil || again.Serial != w.Serial {
		t.Errorf("after a kill: %+v, %v", again, err)
	}
	within(t, "a workload with nobody there", func() bool { _, err := put(t, one, 2); return err == nil })
	if _, err := put(t, one, 3); !errors.Is(err, api.ErrExhausted) {
		t.Errorf("a third of two: %v", err)
	}
	etcd.start()
	agent("one", one)
	within(t, "more, when the store is back", func() bool { _, err := put(t, one, 3); return err == nil })
	for _, mine := range blocks(t, one) {
		for _, other := range blocks(t, two) {
			if netip.MustParsePrefix(mine).Overlaps(netip.MustParsePrefix(other)) {
				t.Errorf("both have %s", mine)
			}
		}
	}

	f.says("drain", "one")
	for n := range 3 {
		if err := one.Client().Delete(t.Context(), key(n+1)); err != nil {
			t.Error(err)
		}
	}
	within(t, "all is given back", func() bool { return len(blocks(t, one)) == 0 })
	within(t, "and the fleet knows", func() bool { return strings.Contains(f.says("status"), "drained") })
	// The address is nobody's any more, and the host knows who had it.
	if got := f.says("whois", w.Address.String()+":443", "--ask", by, "--at", then); !strings.Contains(got, "host one:") || !strings.Contains(got, "ns/1") {
		t.Errorf("whois of the past: %s", got)
	}
	if got := f.says("status"); !strings.Contains(got, "two      1     1       0         1      0  -       borrows") {
		t.Errorf("status:\n%s", got)
	}
	for words, want := range map[string]string{"pools": "lent       8     1     7", "blocks --host two": "Lent", "headroom": "two   lent         1",
		"hosts one": "drained", "blocks --host one": "no block is like that", "events": "Normal"} {
		if got := f.says(strings.Fields(words)...); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", words, want, got)
		}
	}
}
