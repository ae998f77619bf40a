//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
)

// relay is a host between two links, alone with who sends to it and gets what it sends:
//
//	far: fab ══ fab :relay: wan ══ wan :far
//
// All that a packet takes happens on one processor, in the thread that sends it.
type relay struct {
	name     string // of what forwards
	flows    int
	keys     string // of natlessd's configuration; "": there is none
	prefix   string
	files    string
	daemon   *exec.Cmd
	far      netns.NsHandle
	to4, to6 *generator
	sinks    [2][]*sink // at the uplinks, where 6→4 goes, and at fab
	uplinks  []string
}

// setup is what a relay's two namespaces are made of; its next hops never answer.
const setup = `ip netns add %[1]sx; ip netns add %[1]sf
for d in wan fab; do ip link add $d netns %[1]sx type veth peer name $d netns %[1]sf; done
x="nsenter --net=/run/netns/%[1]sx"; f="nsenter --net=/run/netns/%[1]sf"
for d in wan fab; do
  $x ethtool -K $d gro on rxvlan off >/dev/null; $f ethtool -K $d gro on >/dev/null
  $x sysctl -qw net.ipv6.conf.$d.accept_dad=0 net.ipv6.conf.$d.addr_gen_mode=1; $f sysctl -qw net.ipv6.conf.$d.disable_ipv6=1
done
$x sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
$x ip link set wan address 02:00:00:00:00:01; $f ip link set wan address 02:00:00:00:00:02
$x ip link set fab address 02:00:00:00:00:03; $f ip link set fab address 02:00:00:00:00:04
for n in "$x" "$f"; do $n ip link set wan up; $n ip link set fab up; $n ip link set lo up; done
$x ip addr add 10.9.0.1/24 dev wan; $x ip addr add 2001:db8:e::1/64 dev wan; $x ip addr add 2001:db8:f::1/64 dev fab
$x ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev wan; $x ip neigh add 2001:db8:e::2 lladdr 02:00:00:00:00:02 dev wan
$x ip neigh add 2001:db8:f::2 lladdr 02:00:00:00:00:04 dev fab
$x ip route add default via 10.9.0.2; $x ip route add 2001:db8:b::/64 via 2001:db8:e::2; $x ip route add 2001:db8:a::/64 via 2001:db8:f::2`

// second is another uplink, that half of what leaves goes by: each flow by one of them.
const second = `ip link add wan2 netns %[1]sx type veth peer name wan2 netns %[1]sf
x="nsenter --net=/run/netns/%[1]sx"; f="nsenter --net=/run/netns/%[1]sf"
$x ethtool -K wan2 gro on rxvlan off >/dev/null; $f ethtool -K wan2 gro on >/dev/null
$f sysctl -qw net.ipv6.conf.wan2.disable_ipv6=1
$x ip link set wan2 up; $f ip link set wan2 address 02:00:00:00:00:06 up
$x ip addr add 10.9.1.1/24 dev wan2; $x ip neigh add 10.9.1.2 lladdr 02:00:00:00:00:06 dev wan2
$x ip route replace default nexthop via 10.9.0.2 nexthop via 10.9.1.2`

var (
	relayWAN, farWAN = [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	relayFab, farFab = [6]byte{2, 0, 0, 0, 0, 3}, [6]byte{2, 0, 0, 0, 0, 4}

	workload6, workload4 = netip.MustParseAddr("2001:db8:a::"), netip.MustParseAddr("100.64.0.0")
	behind, server6      = netip.MustParseAddr("2001:db8:64::203.0.113.5"), netip.MustParseAddr("2001:db8:b::5")
	server4              = netip.MustParseAddr("203.0.113.5")
)

// begin makes the namespaces and starts what forwards; it waits until it does.
func (r *relay) begin(ctx context.Context, program string) error {
	if err := command("sh", "-ec", fmt.Sprintf(setup, r.prefix)); err != nil {
		return err
	}
	if len(r.uplinks) > 1 {
		if err := command("sh", "-ec", fmt.Sprintf(second, r.prefix)); err != nil {
			return err
		}
	}
	if r.keys != "" {
		if err := r.start(ctx, program); err != nil {
			return err
		}
	}
	var err error
	if r.far, err = netns.GetFromName(r.prefix + "f"); err != nil {
		return err
	}
	if err := r.inFar(r.ends); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := r.forwards()
		if err == nil {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%s, %d flows: %w", r.name, r.flows, err)
		}
	}
}

// ends are what sends to the relay, and what gets what it sends.
func (r *relay) ends() error {
	wan, err := net.InterfaceByName("wan")
	if err != nil {
		return err
	}
	fab, err := net.InterfaceByName("fab")
	if err != nil {
		return err
	}
	for i, names := range [][]string{r.uplinks, {"fab"}} {
		for _, name := range names {
			d, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			s, err := newSink(d.Index)
			if err != nil {
				return err
			}
			r.sinks[i] = append(r.sinks[i], s)
		}
	}
	to := behind
	if r.keys == "" {
		to = server6
	}
	if r.to4, err = newGenerator(frame6(workload6, to, farFab, relayFab), fab.Index, r.flows); err != nil || r.keys == "" {
		return err
	}
	r.to6, err = newGenerator(frame4(server4, workload4, farWAN, relayWAN), wan.Index, r.flows)
	return err
}

// forwards says what is not as it is to be measured.
func (r *relay) forwards() error {
	for _, d := range r.directions() {
		if _, err := r.measure(d, 640, ""); err != nil {
			return err
		}
	}
	for _, s := range r.sinks[0] {
		if r.flows >= 1024 && s.got() == 0 {
			return errors.New("nothing leaves by one of the uplinks")
		}
	}
	if !strings.Contains(r.keys, "xdp") {
		return nil
	}
	s, err := api.NewClient(filepath.Join(r.files, "natless.sock")).Status(context.Background())
	if err != nil {
		return err
	}
	if x := s.FastPath.XDP; x == nil || x.Packets["translated"] < 1000 {
		return fmt.Errorf("not by XDP: %+v", x)
	}
	return nil
}

// directions are those that there are frames for.
func (r *relay) directions() []string {
	if r.to6 == nil {
		return []string{to4}
	}
	return []string{to4, to6}
}

const to4, to6 = "6→4", "4→6"

// measure sends so many packets, and says what one took. What is interrupted counts for nothing.
func (r *relay) measure(direction string, count int, softirqd string) (ns float64, err error) {
	for range 10 {
		if ns, err = r.measureOnce(direction, count, softirqd); !errors.Is(err, errInterrupted) {
			break
		}
		time.Sleep(100 * time.Millisecond) // until all have come
	}
	return ns, err
}

func (r *relay) measureOnce(direction string, count int, softirqd string) (ns float64, err error) {
	g, s := r.to4, sinks(r.sinks[0])
	if direction == to6 {
		g, s = r.to6, r.sinks[1]
	}
	err = r.inFar(func() error {
		before, began := s.got(), worked(softirqd)
		if err := g.send(count); err != nil {
			return err
		}
		ns = float64(worked(softirqd)-began) / float64(count)
		got := int(s.got() - before)
		for end := time.Now().Add(time.Second); got < count && time.Now().Before(end); got = int(s.got() - before) {
			time.Sleep(time.Millisecond)
		}
		if got < count*99/100 || got > count*101/100 {
			return fmt.Errorf("%s: %d of %d packets came through", direction, got, count)
		}
		return nil
	})
	return ns, err
}

// inFar runs something on this thread, which is pinned, in the other namespace.
func (r *relay) inFar(f func() error) error {
	own, err := netns.Get()
	if err != nil {
		return err
	}
	defer own.Close()
	if err := netns.Set(r.far); err != nil {
		return err
	}
	err = f()
	if back := netns.Set(own); back != nil {
		panic(back) // nothing could be done in this thread any more
	}
	return err
}

// start starts natlessd, with a mapping for each flow.
func (r *relay) start(ctx context.Context, program string) error {
	var c, mappings bytes.Buffer
	fmt.Fprintf(&c, "prefix: 2001:db8:64::/96\naddresses: {ipv4: 192.0.2.1, ipv6: \"2001:db8::1\"}\nuplinks: [%[3]s]\nfabric: [fab]\nfast_path: required\n"+
		"api: {socket: %[1]s/natless.sock}\nregistry: {path: %[1]s/registry.db}\nlog: {level: warn}\n%[2]s\nmappings_file: %[1]s/mappings\n", r.files, r.keys, strings.Join(r.uplinks, ", "))
	a6, a4 := workload6, workload4
	for range r.flows {
		fmt.Fprintf(&mappings, "%v\t%v\n", a6, a4)
		a6, a4 = a6.Next(), a4.Next()
	}
	file := filepath.Join(r.files, "natless.yaml")
	if err := errors.Join(os.WriteFile(file, c.Bytes(), 0o600), os.WriteFile(filepath.Join(r.files, "mappings"), mappings.Bytes(), 0o600)); err != nil {
		return err
	}
	r.daemon = exec.CommandContext(ctx, "nsenter", "--net=/run/netns/"+r.prefix+"x", program, "--config", file)
	r.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.daemon.Stderr = os.Stderr
	return r.daemon.Start()
}

func (r *relay) end() {
	if r.daemon != nil && r.daemon.Process != nil {
		_ = syscall.Kill(-r.daemon.Process.Pid, syscall.SIGTERM)
		insist := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-r.daemon.Process.Pid, syscall.SIGKILL) })
		_ = r.daemon.Wait()
		insist.Stop()
	}
	for _, ns := range []string{"x", "f"} {
		_ = exec.Command("ip", "netns", "del", r.prefix+ns).Run()
	}
	_ = os.RemoveAll(r.files)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// pin keeps this goroutine on a thread, and that on a processor; it says where the
// kernel's thread beside it tells how long it ran.
func pin() (softirqd string, err error) {
	runtime.LockOSThread()
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return "", err
	}
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return "", err
	}
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == fmt.Sprintf("ksoftirqd/%d", cpu) {
			return filepath.Join(filepath.Dir(name), "schedstat"), nil
		}
	}
	return "", nil
}

// onProcessor is how long a thread ran, by its schedstat.
func onProcessor(schedstat string) time.Duration {
	b, err := os.ReadFile(schedstat)
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	n, _ := strconv.ParseInt(first, 10, 64)
	return time.Duration(n)
}
