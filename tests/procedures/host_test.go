//go:build linux

package procedures

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const configuration = `uplink: up0
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: default, ipv4: 198.51.100.8/30, ports_per_workload: 1024, cooldown: 1s}
`

const (
	workload6 = "2001:db8:6::2"
	server4   = "192.0.2.2"
	server6   = "2001:db8:64::192.0.2.2"
	echoPort  = 7
)

// mounts give a host directories of its own, over those that there are.
const mounts = `
mount -t tmpfs none "$1"
for d in etc var run; do
	mkdir "$1/$d" "$1/$d.work"
	mount -t overlay overlay -o "lowerdir=/$d,upperdir=$1/$d,workdir=$1/$d.work" "/$d"
done
mkdir -p /etc/natless /var/backups /var/lib/natless /run/natless
rm -rf /etc/natless/* /var/lib/natless/*
echo mounted
exec sleep 600
`

// systemctl runs the unit's command as systemd would, and waits as Type=notify does.
const systemctl = `#!/bin/sh
pid=/run/natlessd.pid
alive() { [ -s $pid ] && kill -0 "$(cat $pid)" 2>/dev/null; }
start() {
	alive && return
	setsid %[1]s/%[2]s >>/var/natlessd.log 2>&1 </dev/null &
	echo $! >$pid
	for i in $(seq 600); do
		natless status --ready >/dev/null 2>&1 && return
		alive || exit 1
		sleep 0.1
	done
	exit 1
}
end() {
	alive || return 0
	kill "$(cat $pid)"
	while alive; do sleep 0.05; done
}
[ "$2" = natlessd ] || exit 5
case $1 in
start) start ;;
stop) end; natlessd --cleanup ;;
restart) end; start ;;
*) exit 5 ;;
esac
`

// apt puts the programs in their place and restarts the daemon, as the package does.
const apt = `#!/bin/sh
case "$*" in
"install ./natless_NEW.deb"|"install --allow-downgrades ./natless_OLD.deb") ;;
*) exit 100 ;;
esac
for p in natless natlessd natless-cni; do
	cp %[1]s/$p %[1]s/$p.new && mv %[1]s/$p.new %[1]s/$p
done
systemctl restart natlessd
`

// host is one that natless is installed on, with a workload and a server outside.
type host struct {
	t             *testing.T
	ns, w, server *netns.NS
	bin           string
	holder        *exec.Cmd
	client        *api.Client
	connection    net.Conn
	ports         int // that connections were opened from
}

// unitCommand is the command line of the unit, without its directory.
func unitCommand(t *testing.T) string {
	unit, err := os.ReadFile("../../config/deploy/systemd/natlessd.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(unit)) {
		if command, is := strings.CutPrefix(line, "ExecStart=/usr/sbin/"); is {
			return strings.TrimSpace(command)
		}
	}
	t.Fatal("the unit has no ExecStart=/usr/sbin/…")
	return ""
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{t: t, ns: netns.New(t, name), w: netns.New(t, name+"-w"), server: netns.New(t, name+"-s"), bin: t.TempDir()}
	netns.Veth(t, h.ns, "up0", h.server, "eth0")
	netns.Veth(t, h.ns, "w0", h.w, "eth0")
	h.ns.IP("addr add 192.0.2.1/24 dev up0")
	h.ns.IP("route add default via " + server4)
	h.ns.IP("addr add 2001:db8:6::1/64 dev w0")
	h.w.IP("addr add " + workload6 + "/64 dev eth0")
	h.w.IP("route add default via 2001:db8:6::1")
	h.server.IP("addr add " + server4 + "/24 dev eth0")
	h.server.IP("route add default via 192.0.2.1")
	for _, program := range []string{"natless", "natlessd", "natless-cni"} {
		h.install(program, "")
	}
	h.install("systemctl", fmt.Sprintf(systemctl, h.bin, unitCommand(t)))
	h.install("apt", fmt.Sprintf(apt, h.bin))
	h.hold()
	h.echo()
	return h
}

// install puts a program, or a script, where the host looks for it.
func (h *host) install(name, script string) {
	at, err := filepath.Join(h.bin, name), error(nil)
	if script == "" {
		err = os.Symlink(filepath.Join(daemon.Build(h.t), name), at)
	} else {
		err = os.WriteFile(at, []byte(script), 0o755)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// hold makes the host's directories, which last as long as somebody is in there.
func (h *host) hold() {
	h.holder = h.ns.Command("unshare", "--mount", "sh", "-ec", mounts, "sh", h.t.TempDir())
	h.holder.Stderr = os.Stderr
	out, err := h.holder.StdoutPipe()
	if err == nil {
		err = netns.Start(h.holder)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		h.sh("systemctl stop natlessd")
		if h.t.Failed() {
			h.t.Logf("natlessd:\n%s", h.sh("cat /var/natlessd.log"))
		}
		h.holder.Process.Kill()
		h.holder.Wait()
	})
	if n, err := out.Read(make([]byte, 16)); err != nil || n == 0 {
		h.t.Fatalf("the host's directories: %v", err)
	}
	h.client = api.NewClient(fmt.Sprintf("/proc/%d/root/run/natless/natless.sock", h.holder.Process.Pid))
}

// sh runs commands on the host, each of which must succeed.
func (h *host) sh(commands string) string {
	h.t.Helper()
	c := h.ns.Command("nsenter", "--mount", "--target", fmt.Sprint(h.holder.Process.Pid), "--wdns=/", "sh", "-eux", "-c", commands)
	c.Env = append(os.Environ(), "PATH="+h.bin+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8")
	out, err := c.CombinedOutput()
	if err != nil {
		h.t.Errorf("%v\n%s", err, out)
	}
	return string(out)
}

// echo has the server send back what comes.
func (h *host) echo() {
	var l net.Listener
	var err error
	h.server.Do(func() { l, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", server4, echoPort)) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() {
				defer c.Close()
				b := make([]byte, 100)
				for n, err := c.Read(b); err == nil; n, err = c.Read(b) {
					c.Write(b[:n])
				}
			}()
		}
	}()
}

// put makes a workload, whose name is that of its container as well.
func (h *host) put(name string, ipv6 string, at string) api.Workload {
	h.t.Helper()
	w, err := h.client.Put(h.t.Context(), api.Key{ContainerID: name, Interface: "eth0"},
		api.Request{Name: "shop/" + name, HostInterface: at, IPv6: []netip.Addr{netip.MustParseAddr(ipv6)}})
	if err != nil {
		h.t.Fatalf("%s: %v", name, err)
	}
	return w
}

func (h *host) delete(name string) {
	h.t.Helper()
	if err := h.client.Delete(h.t.Context(), api.Key{ContainerID: name, Interface: "eth0"}); err != nil {
		h.t.Errorf("%s: %v", name, err)
	}
}

// connect opens a connection from one of the workload's own ports, another one each time.
func (h *host) connect(w api.Workload) net.Conn {
	h.t.Helper()
	var c net.Conn
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		h.w.Do(func() {
			h.ports++
			from := &net.TCPAddr{IP: net.ParseIP(workload6), Port: int(w.Run().First) + h.ports}
			c, err = (&net.Dialer{LocalAddr: from, Timeout: time.Second}).Dial("tcp6", fmt.Sprintf("[%s]:%d", server6, echoPort))
		})
		if err == nil {
			h.t.Cleanup(func() { c.Close() })
			return c
		}
	}
	h.t.Fatalf("the workload reaches nobody: %v", err)
	return nil
}

// lives holds a connection to what it is for.
func (h *host) lives(c net.Conn, when string) {
	h.t.Helper()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	b := []byte("are you there?")
	if _, err := c.Write(b); err != nil {
		h.t.Errorf("%s: %v", when, err)
		return
	}
	if n, err := c.Read(b); err != nil || n == 0 {
		h.t.Errorf("%s: %v", when, err)
	}
}

// root is the host's file system, seen from here.
func (h *host) root() string { return fmt.Sprintf("/proc/%d/root", h.holder.Process.Pid) }

// configure writes the configuration and starts natlessd, with a workload.
func (h *host) configure() {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.root(), "etc/natless/natless.yaml"), []byte(configuration), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.sh("systemctl start natlessd")
	h.put("web", workload6, "w0")
}

// receive copies what another host has saved.
func (h *host) receive(from *host) {
	h.t.Helper()
	if out, err := exec.Command("cp", "-a", from.root()+"/var/backups/.", h.root()+"/var/backups/").CombinedOutput(); err != nil {
		h.t.Errorf("%v\n%s", err, out)
	}
}
