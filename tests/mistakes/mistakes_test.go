//go:build linux

// Package mistakes makes an operator's mistakes on real hosts, and holds each place
// that speaks of one to what it says: natlessd --check --host, the start and its log,
// natless status, natless doctor. All say the same, once, and what to do. What one
// package can prove alone may not enter here.
package mistakes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

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

// The places that speak of a mistake.
const (
	check  = "natlessd --check --host"
	log    = "the log"
	status = "natless status"
	doctor = "natless doctor"
)

// What a container engine does to /proc/sys, and what a host has that forwards.
const (
	readOnlySysctls = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
	forwarding      = "sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1 net.ipv6.conf.up0.accept_ra=2 net.ipv4.neigh.up0.proxy_delay=0\n"
)

// mistake is a row of the table.
type mistake struct {
	name    string
	config  string // %DIR% is the daemon's own directory; instead of the least that works
	prepare func(h *host)
	after   func(h *host) // when natlessd runs
	mounts  string        // a command of the shell, run in mount namespaces of the programs' own
	says    string        // in each of the places, once
	do      string        // what to do, in each of them
	in      []string
	starts  int  // the exit status of the start; -1: it runs
	waits   bool // it runs, and is never ready
}

const running = -1

// least is a configuration that works here.
const least = `
uplink: up0
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools: [{name: default, ipv4: 198.51.100.4/30, ports_per_workload: 1024}]
`

func changed(old, new string) string {
	if !strings.Contains(least, old) {
		panic(old)
	}
	return strings.Replace(least, old, new, 1)
}

var mistakes = []mistake{
	{name: "nothing is wrong", in: []string{}, starts: running},

	// Addresses and interfaces.
	{name: "the translator's address is the host's own", config: changed("ipv4: 198.51.100.1,", "ipv4: 192.0.2.1,"),
		says: "addresses.ipv4: 192.0.2.1 is the host's own", do: "that nobody", in: []string{check, log, doctor}, starts: 1},
	{name: "the translator's address is the gateway's", config: changed("ipv4: 198.51.100.1,", "ipv4: 192.0.2.2,"),
		says: "addresses.ipv4: 192.0.2.2 is a gateway", do: "that nobody", in: []string{check, log, doctor}, starts: 1},
	{name: "a pool is the host's own address", config: changed("198.51.100.4/30", "192.0.2.1/32"),
		says: "nothing is left to assign", do: "say ipv4: uplink", in: []string{check, log, doctor}, starts: 1},
	{name: "an uplink that is not there", config: changed("uplink: up0", "uplink: nope0"),
		says: "there is no interface nope0", do: "name the interface toward IPv4 in the key uplink", in: []string{check, log, status, doctor}, starts: running, waits: true},
	{name: "an uplink that is down", prepare: func(h *host) { h.ns.IP("link set up0 down") },
		says: "up0 is down", do: "ip link set up0 up", in: []string{check, log, status, doctor}, starts: running},
	{name: "an uplink without an address to share", config: changed("{name: default, ipv4: 198.51.100.4/30,", "{name: default, ipv4: uplink, ports: 20000-30000,"),
		prepare: func(h *host) { h.ns.IP("addr flush dev up0") },
		says:    "up0: has no IPv4 address", do: "give the interface an IPv4 address", in: []string{check, log, doctor}, starts: 1},
	{name: "a narrow uplink", prepare: func(h *host) { h.ns.IP("link set up0 mtu 1400") },
		says: "mtu.ipv4 is 1500, but up0 takes packets of 1400 bytes at most", do: "mtu: {ipv4: 1400}", in: []string{check, log, status, doctor}, starts: running},
	{name: "a device name that is somebody else's", prepare: func(h *host) { h.ns.IP("link add natless0 type veth peer name other0") },
		says: "natless0 is a veth, not a TUN device", do: "choose another device.name", in: []string{check, doctor}, starts: 1},
	{name: "no way back from outside", prepare: func(h *host) { h.outside.IP("route del 198.51.100.0/24") },
		says: "192.0.2.2 answers this host, and not 198.51.100.4", do: "have that network route", in: []string{doctor}, starts: running},

	// What others have.
	{name: "the port of the metrics is taken", config: least + "metrics: {listen: \"127.0.0.1:9464\"}\n", prepare: func(h *host) { h.listen("127.0.0.1:9464") },
		says: "127.0.0.1:9464", do: "ss -ltnp", in: []string{check, doctor}, starts: 1},
	{name: "the metrics' address is none of the host's", config: least + "metrics: {listen: \"192.0.2.77:9464\"}\n",
		says: "192.0.2.77", do: "ip address shows", in: []string{check, doctor}, starts: 1},
	{name: "upstreams of DNS64 that are down", config: least + "dns64: {enabled: true, upstreams: [\"192.0.2.2:53\"]}\n",
		says: "none of the upstreams of dns64.upstreams answers", do: "name others in dns64.upstreams", in: []string{check, doctor}, starts: running},

	// The registry.
	{name: "a damaged registry", prepare: func(h *host) { h.write("registry.db", strings.Repeat("garbage ", 1024)) },
		says: "it is left as it is", do: "natless registry restore", in: []string{check, log, doctor}, starts: 78},
	{name: "an empty registry", prepare: func(h *host) { h.write("registry.db", "") },
		says: "it is left as it is", do: "natless registry restore", in: []string{check, log, doctor}, starts: 78},
	{name: "a registry that is gone", prepare: func(h *host) { h.write("registry.db.exists", "") },
		says: "it is gone, and was there", do: "natless registry new", in: []string{check, log, doctor}, starts: 78},
	{name: "a registry of a newer version", prepare: func(h *host) { h.newerRegistry() },
		says: "it is left as it is", do: "install that natlessd again", in: []string{check, log, doctor}, starts: 78},

	// The file.
	{name: "no configuration", prepare: func(h *host) { os.Remove(h.config) },
		says: "no such file or directory", do: "", in: []string{check, log}, starts: 78},
	{name: "a misspelt key", config: least + "fast_pth: auto\n", says: "fast_pth", do: "natless.yaml:", in: []string{check, log, doctor}, starts: 78},
	{name: "a prefix of a length that there is not", config: changed("2001:db8:64::/96", "2001:db8:64::/80"), says: "prefix: ", do: "96", in: []string{check, log, doctor}, starts: 78},
	{name: "a pool that covers a mapping", config: least + "mappings: [{ipv6: \"2001:db8:6::2\", ipv4: 198.51.100.5}]\n",
		says: "overlaps mappings[0]", do: "which has its addresses to itself", in: []string{check, log, doctor}, starts: 78},
	{name: "two mappings of one address", config: least + "mappings: [{ipv6: \"2001:db8:6::2\", ipv4: 203.0.113.5}, {ipv6: \"2001:db8:6::3\", ipv4: 203.0.113.5}]\n",
		says: "already belongs to", do: "mappings[0]", in: []string{check, log, doctor}, starts: 78},
	{name: "a file of mappings that is not there", config: least + "mappings_file: nowhere.txt\n", says: "nowhere.txt", do: "mappings_file", in: []string{check, log, doctor}, starts: 78},
	{name: "shares larger than their pool", config: changed("ports_per_workload: 1024", "ports_per_workload: 1024, ports: 2000-2100"),
		says: "ports_per_workload: 1024 do not fit", do: "the longest run of ports", in: []string{check, log, doctor}, starts: 78},
	{name: "DNS64 that asks itself", config: least + "dns64: {enabled: true, upstreams: [\"[2001:db8::1]:53\"]}\n",
		says: "is not the address and port of another server", do: "dns64.upstreams[0]", in: []string{check, log, doctor}, starts: 78},
	{name: "DNS64 without a prefix", config: changed("prefix: 2001:db8:64::/96", "dns64: {enabled: true}"),
		says: "there is no prefix to synthesise addresses with", do: "dns64", in: []string{check, log, doctor}, starts: 78},
	{name: "a key of an earlier release", config: least + "offload: auto\n", says: "offload is called fast_path now", do: "natless.yaml:", in: []string{check, log}, starts: running},

	// What the plugin is told. The plugin itself is told of in cmd/natless-cni.
	{name: "a misspelt key of the plugin", prepare: func(h *host) { h.conflist(`"prots": 512`) },
		says: `natless-cni has no key "prots": is it "ports"?`, do: "write ports instead", in: []string{doctor}, starts: running},
	{name: "a pool that the plugin asks for and that there is not", prepare: func(h *host) { h.conflist(`"pool": "defualt"`) },
		says: `natless-cni asks for pool "defualt"`, do: "name one of pools (default)", in: []string{doctor}, starts: running},
	{name: "a plugin with another socket", prepare: func(h *host) { h.write("10-pods.conflist", conflist(`"socket": "/run/other.sock"`)) },
		says: "natless-cni asks at /run/other.sock", do: `say "socket": `, in: []string{doctor}, starts: running},
	{name: "a drain that was forgotten", after: func(h *host) { h.drain() },
		says: "this host takes no new workloads since", do: "natless undrain ends it", in: []string{status, doctor}, starts: running},

	// What natlessd may do.
	{name: "the API's socket is somebody else's", prepare: func(h *host) { h.listenUnix("natless.sock") },
		says: "natless.sock: another process answers there", do: "is natlessd running already", in: []string{check, log, doctor}, starts: 1},
	{name: "a kernel without BTF, which nothing needs", mounts: "mount -t tmpfs none /sys/kernel/btf",
		says: "fast path      on", in: []string{status}, starts: running},
	{name: "a read-only /proc/sys", mounts: readOnlySysctls,
		says: "forwarding needs other sysctls", do: "where they may be set", in: []string{check, log, doctor}, starts: 1},
	{name: "a read-only /proc/sys, and nothing to set", config: least + "manage_sysctls: false\n", mounts: forwarding + readOnlySysctls,
		in: []string{}, starts: running},
	{name: "a container's MTU above the uplink's", prepare: func(h *host) { h.ns.IP("link add w0 mtu 9000 type veth peer name w1 mtu 9000") },
		after: func(h *host) { h.workload("w0") },
		says:  "w0 has an MTU of 9000, and up0 takes packets of 1500 bytes at most", do: "an MTU of 1500", in: []string{doctor}, starts: running},
	{name: "forwarding is off, and natlessd may not switch it on", config: least + "manage_sysctls: false\n",
		says: "forwarding needs other sysctls", do: "sysctl -w", in: []string{check, log, doctor}, starts: 1},
	{name: "a group that there is not", config: strings.TrimSpace(least) + "\napi: {socket: \"%DIR%/natless.sock\", group: nosuchgroup}\n",
		says: "nosuchgroup", do: "api.group", in: []string{log}, starts: 1},
	{name: "the fast path is required, and the uplink cannot have it", config: changed("uplink: up0", "uplink: lo") + "fast_path: required\n",
		says: "fast_path: required, but", do: "", in: []string{status}, starts: running, waits: true},
}

// host is one on which a mistake is made, with somebody outside.
type host struct {
	t           *testing.T
	mounts      string
	ns, outside *netns.NS
	dir, config string
	out         output.Buffer
}

func newHost(t *testing.T, m mistake) *host {
	h := &host{t: t, mounts: m.mounts, ns: netns.New(t, "host"), outside: netns.New(t, "outside"), dir: t.TempDir()}
	netns.Veth(t, h.ns, "up0", h.outside, "eth0")
	h.ns.IP("addr add 192.0.2.1/24 dev up0")
	h.outside.IP("addr add 192.0.2.2/24 dev eth0")
	h.ns.IP("route add default via 192.0.2.2")
	h.outside.IP("route add 198.51.100.0/24 via 192.0.2.1")
	h.config = filepath.Join(h.dir, "natless.yaml")
	text := m.config
	if text == "" {
		text = least
	}
	for key, line := range map[string]string{"api:": "api: {socket: \"%DIR%/natless.sock\"}\n", "registry:": "registry: {path: \"%DIR%/registry.db\"}\n"} {
		if !strings.Contains(text, key) {
			text += line
		}
	}
	h.write("natless.yaml", strings.ReplaceAll(text, "%DIR%", h.dir))
	if m.prepare != nil {
		m.prepare(h)
	}
	return h
}

func (h *host) write(name, text string) {
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// listen has somebody else listen on an address.
func (h *host) listen(address string) {
	var l net.Listener
	var err error
	h.ns.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
}

// newerRegistry makes a registry with a layout that is yet to come.
func (h *host) newerRegistry() {
	path := filepath.Join(h.dir, "registry.db")
	if out, err := exec.Command(filepath.Join(daemon.Build(h.t), "natless"), "registry", "new", path).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err == nil {
		err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte("99")) })
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// command is one of the programs on the host, with the mounts that the mistake is.
func (h *host) command(program string, args ...string) *exec.Cmd {
	path := filepath.Join(daemon.Build(h.t), program)
	if h.mounts == "" {
		return h.ns.Command(path, args...)
	}
	return h.ns.Command("unshare", append([]string{"--mount", "sh", "-ec", h.mounts + "\nexec \"$0\" \"$@\"", path}, args...)...)
}

// listenUnix has somebody else listen on a socket in the daemon's directory.
func (h *host) listenUnix(name string) {
	l, err := net.Listen("unix", filepath.Join(h.dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
}

// workload makes one that is at an interface of the host.
func (h *host) workload(iface string) {
	h.ns.IP("link set " + iface + " up")
	h.ns.IP("-6 route add 2001:db8:6::2 dev " + iface)
	client := api.NewClient(filepath.Join(h.dir, "natless.sock"))
	key := api.Key{ContainerID: "0123456789abcdef", Interface: "eth0"}
	if _, err := client.Put(h.t.Context(), key, api.Request{Name: "shop/web", IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::2")}}); err != nil {
		h.t.Error(err)
	}
}

// conflist is a network that has the plugin, with these keys.
func conflist(keys string) string {
	return `{"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "ptp"}, {"type": "natless-cni", ` + keys + `}]}`
}

func (h *host) conflist(keys string) {
	h.write("10-pods.conflist", conflist(fmt.Sprintf(`%s, "socket": %q`, keys, filepath.Join(h.dir, "natless.sock"))))
}

func (h *host) drain() {
	if _, err := api.NewClient(filepath.Join(h.dir, "natless.sock")).Drain(h.t.Context(), ""); err != nil {
		h.t.Error(err)
	}
}

// run runs one of the programs on the host, and gives its words and exit status.
func (h *host) run(program string, args ...string) (string, int) {
	h.t.Helper()
	c := h.command(program, args...)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// start runs the daemon until it ends, or says how it is; ended is its exit status.
func (h *host) start(waits bool) (ended int, stop func()) {
	h.t.Helper()
	c := h.command("natlessd", "--config", h.config)
	c.Stdout, c.Stderr = &h.out, &h.out
	if err := netns.Start(c); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	stop = func() {
		c.Process.Signal(syscall.SIGTERM)
		<-done
	}
	socket := filepath.Join(h.dir, "natless.sock")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		select {
		case <-done:
			return c.ProcessState.ExitCode(), func() {}
		case <-time.After(100 * time.Millisecond):
		}
		ask := []string{"--socket", socket, "status"}
		if !waits {
			ask = append(ask, "--ready")
		}
		if _, exit := h.run("natless", ask...); exit == 0 {
			return running, stop
		}
	}
	h.t.Errorf("natlessd neither runs nor ends\n%s", &h.out)
	return running, stop
}

func TestMistakes(t *testing.T) {
	netns.Require(t, netns.Root, "nft")
	daemon.Build(t)
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, m)
			said := map[string]string{}
			checked, exit := h.run("natlessd", "--config", h.config, "--check", "--host")
			said[check] = checked
			ended, stop := h.start(m.waits)
			if ended != m.starts {
				t.Errorf("the start: exit status %d, want %d", ended, m.starts)
			}
			if m.after != nil {
				m.after(h)
			}
			said[status], _ = h.run("natless", "--socket", filepath.Join(h.dir, "natless.sock"), "status")
			said[doctor], _ = h.run("natless", "doctor", "--config", h.config, "--conf-dir", h.dir)
			stop()
			said[log] = h.out.String()
			for _, place := range m.in {
				once(t, place, said[place], m)
			}
			if wrong := strings.Contains(said[check], ": fail: ") || m.starts == 78; wrong != (exit == 78) || !wrong && exit != 0 {
				t.Errorf("%s: exit status %d", check, exit)
			}
			if m.says == "" {
				for _, place := range []string{check, doctor} {
					if strings.Contains(said[place], "fail") {
						t.Errorf("%s finds fault with a sound host:\n%s", place, said[place])
					}
				}
			}
			if t.Failed() {
				t.Logf("--- %s\n%s--- %s\n%s--- %s\n%s--- %s\n%s", check, said[check], log, said[log], status, said[status], doctor, said[doctor])
			}
		})
	}
}

// once: a place speaks of a mistake in one line, and says what to do.
func once(t *testing.T, place, said string, m mistake) {
	t.Helper()
	n := 0
	for line := range strings.Lines(said) {
		if strings.Contains(line, m.says) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%s speaks of it %d times, want once: %q", place, n, m.says)
	}
	if !strings.Contains(said, m.do) {
		t.Errorf("%s does not say what to do: %q", place, m.do)
	}
}
