//go:build linux

package fastpath

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// traffic is datagrams and connections, both ways, between a workload and the server.
type traffic struct {
	datagrams []*load.Datagrams
	streams   []*load.Stream
}

func (n *topology) traffic() *traffic { n.t.Helper(); return n.trafficOf(n.w1, workload1v4) }

// trafficOf is that of the workload with an address.
func (n *topology) trafficOf(w *netns.NS, v4 string) *traffic {
	n.t.Helper()
	return &traffic{
		[]*load.Datagrams{load.SendDatagrams(n.t, w, n.server, serverv6), load.SendDatagrams(n.t, n.server, w, v4)},
		[]*load.Stream{load.StartPaced(n.t, w, n.server, serverv6), load.StartPaced(n.t, n.server, w, v4)},
	}
}

// tailProbes is how many segments TCP may send again although nothing was lost: to ask
// a receiver that waits for a processor (tail loss probes, RFC 8985 7).
const tailProbes = 5

// finish fails the test when a packet was lost.
func (f *traffic) finish(t *testing.T, least int64) {
	t.Helper()
	for i, d := range f.datagrams {
		sent, lost := d.Finish()
		t.Logf("flow %d: %d of %d datagrams lost", i, lost, sent)
		if lost > 0 || sent < least {
			t.Errorf("flow %d: %d of %d datagrams lost, at least %d were to be sent", i, lost, sent, least)
		}
	}
	for i, s := range f.streams {
		again := s.Retransmitted()
		t.Logf("connection %d: %d kB, %d segments sent again", i, s.Written()>>10, again)
		if again > tailProbes || s.Written() < least*100 {
			t.Errorf("connection %d: %d bytes, %d segments sent again", i, s.Written(), again)
		}
		s.Finish()
	}
}

func TestKernelTranslates(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	if err := n.ping(n.w1, 10); err != nil {
		t.Error(err)
	}
	if got := n.kernel(); got != 20 {
		t.Errorf("the kernel translated %d packets of 20", got)
	}
}

var kills = flag.Int("kills", 8, "how often TestKilledUnderLoad kills natlessd; make crash does it 400 times")

// TestKilledUnderLoad: the fast path goes on while nobody is there, and the next
// daemon takes it over, eight times, with no packet lost.
func TestKilledUnderLoad(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	f := n.traffic()
	var last uint64
	for i := range *kills {
		time.Sleep(100 * time.Millisecond)
		n.daemon.Kill()
		time.Sleep(200 * time.Millisecond)
		n.daemon.Start()
		n.attached("uplink w1 w2")
		o := n.fastPath()
		if !o.Adopted {
			t.Fatalf("start %d: the fast path was not adopted: %+v", i, o)
		}
		last = n.kernel()
	}
	if last == 0 {
		t.Error("the kernel translates nothing")
	}
	f.finish(t, 250*int64(*kills))
}

// TestUpgradeUnderLoad: what is pinned has another layout. A daemon that does not
// know it puts its own programs and maps in the place of the old ones, which go on
// until then.
func TestUpgradeUnderLoad(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	f := n.traffic()
	for i := range 5 {
		time.Sleep(200 * time.Millisecond)
		n.daemon.Kill()
		n.otherLayout()
		time.Sleep(200 * time.Millisecond)
		n.daemon.Start()
		n.attached("uplink w1 w2")
		if o := n.fastPath(); o.Adopted || !strings.Contains(n.daemon.Log(), "layout 999, this is layout") {
			t.Fatalf("upgrade %d: the maps of another layout were adopted: %+v", i, o)
		}
	}
	f.finish(t, 1000)
}

// pins is the directory where this host's daemon pins.
func (n *topology) pins() string {
	n.t.Helper()
	inode := n.host.Run("stat", "-L", "-c", "%i", "/proc/self/ns/net")
	return filepath.Join("/sys/fs/bpf/natless", "natless0@"+inode)
}

// otherLayout makes what is pinned that of another version.
func (n *topology) otherLayout() {
	n.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(n.pins(), "layout"), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	if err := m.Put(uint32(0), uint32(999)); err != nil {
		n.t.Fatal(err)
	}
}

// left lists what of a fast path is there.
func (n *topology) left() (left []string) {
	n.t.Helper()
	if _, err := os.Stat(n.pins()); err == nil {
		left = append(left, n.pins())
	}
	for _, device := range []string{"uplink", "w1", "w2"} {
		n.host.Do(func() {
			i, err := net.InterfaceByName(device)
			if err != nil {
				n.t.Error(err)
				return
			}
			r, err := link.QueryPrograms(link.QueryOptions{Target: i.Index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				n.t.Error(err)
			} else if len(r.Programs) > 0 {
				left = append(left, fmt.Sprintf("%d programs at %s", len(r.Programs), device))
			}
		})
		if out := n.host.Run("tc", "qdisc", "show", "dev", device); strings.Contains(out, "clsact") {
			left = append(left, out)
		}
	}
	return left
}

// TestEnds: a daemon that is asked to end takes its fast path along, and one
// that is not to have any takes what a killed one left.
func TestEnds(t *testing.T) {
	n := newTopology(t, required)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	if len(n.left()) != 4 {
		t.Fatalf("attached, and this is seen: %q", n.left())
	}
	n.daemon.Stop()
	if left := n.left(); left != nil {
		t.Errorf("left after SIGTERM: %q", left)
	}
	n.daemon.Start()
	n.attached("uplink w1 w2")
	n.daemon.Kill()
	n.daemon.Write(baseConfig + "fast_path: off\n")
	n.daemon.Start()
	if left := n.left(); left != nil {
		t.Errorf("left with fast_path: off: %q", left)
	}
	if o := n.fastPath(); o.State != "off" || o.Mode != "off" {
		t.Errorf("%+v", o)
	}
	if err := n.ping(n.w1, 3); err != nil {
		t.Error(err)
	}
}

// TestHiddenFileSystem: a daemon is killed, and the next one has another BPF file
// system at the same path, as in another mount namespace. No workload is translated
// by the tables of before, and --cleanup and fast_path: off see what is left.
func TestHiddenFileSystem(t *testing.T) {
	n := newTopology(t, baseConfig)
	natlessd := filepath.Join(daemon.Build(t), "natlessd")
	hidden := func(args ...string) string {
		script := `mount -t bpf bpf /sys/fs/bpf && exec "$@" 2>&1`
		return n.host.Run("unshare", append([]string{"--mount", "bash", "-c", script, "bash"}, args...)...)
	}
	n.daemon.Start()
	n.attached("uplink w1 w2")
	n.daemon.Kill()
	out := hidden(natlessd, "--config", n.daemon.Config, "--cleanup")
	for _, what := range []string{"tcx program uplink at interface uplink", "tcx program workload at interface w2"} {
		if !strings.Contains(out, what) {
			t.Errorf("it does not say %q:\n%s", what, out)
		}
	}
	if left := n.left(); len(left) != 1 { // the hidden pins, of nothing that is attached
		t.Errorf("left: %q", left)
	}
	// The pins of before are hidden by another file system, mounted over them.
	n.daemon.Start()
	n.attached("uplink w1 w2")
	n.daemon.Kill()
	if err := os.Rename(n.pins(), n.pins()+"-hidden"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(n.pins() + "-hidden") })
	n.daemon.Write(strings.Replace(baseConfig, "198.51.100.3}", "198.51.100.7}", 1))
	n.daemon.Start()
	n.attached("uplink w1 w2")
	if err := n.server.Command("ping", "-n", "-c", "2", "-i", "0.05", "-W", "1", workload2v4).Run(); err == nil {
		t.Error("the address of before still answers")
	}
	if err := n.server.Command("ping", "-n", "-c", "2", "-i", "0.05", "-W", "1", "198.51.100.7").Run(); err != nil {
		t.Errorf("the new address does not answer: %v", err)
	}
	for _, what := range n.left() {
		if strings.Contains(what, "programs at") && !strings.HasPrefix(what, "1 ") {
			t.Errorf("two generations: %s", what)
		}
	}
	n.daemon.Stop()
	if left := n.left(); left != nil {
		t.Errorf("left after SIGTERM: %q", left)
	}
}
