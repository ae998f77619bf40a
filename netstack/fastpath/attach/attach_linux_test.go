package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// rig is a host with an uplink and a workload's interface.
type rig struct {
	*netns.NS
	t      *testing.T
	config Config
}

func newRig(t *testing.T) *rig {
	netns.Require(t, netns.Root, "ip", "tc")
	r := &rig{NS: netns.New(t, "host"), t: t, config: Config{Device: "natless0", Uplinks: []string{"uplink"}}}
	for _, l := range []string{"uplink", "w1"} {
		r.IP("link add " + l + " type veth peer name " + l + "-far")
		r.IP("link set " + l + " up")
	}
	r.IP("tuntap add natless0 mode tun")
	r.IP("link set natless0 up")
	r.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	r.IP("-6 route add 2001:db8:6::/64 dev w1")
	t.Cleanup(func() { r.Do(func() { Cleanup(r.config) }) })
	return r
}

// run runs a manager with a table of one mapping; stop ends it.
func (r *rig) run(c Config) (m *Manager, stop func() error) {
	r.t.Helper()
	table, err := mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")}})
	if err != nil {
		r.t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: netip.MustParseAddr("198.51.100.1"), IPv6: netip.MustParseAddr("2001:db8::1")}, table)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	made, done := make(chan *Manager), make(chan error, 1)
	go r.Do(func() {
		m, err := New(c)
		if err == nil {
			err = m.Replace(tr.Table(), tr.Config())
		}
		if err != nil {
			r.t.Error(err)
			close(made)
			return
		}
		made <- m
		done <- m.Run(ctx)
	})
	if m = <-made; m == nil {
		r.t.FailNow()
	}
	select {
	case <-m.Ready():
	case err := <-done:
		r.t.Fatal(err)
	}
	return m, func() error { cancel(); return <-done }
}

func (r *rig) filters() string {
	return r.Run("bash", "-c", "for d in uplink w1; do tc qdisc show dev $d clsact; tc filter show dev $d ingress; done")
}

// TestClsact: what kernels before 6.6 have. The next manager takes the filters
// over, a qdisc of somebody else stays, and cleaning up leaves nothing.
func TestClsact(t *testing.T) {
	r := newRig(t)
	r.config.clsact = true
	before := r.filters()
	r.Run("tc", "qdisc", "add", "dev", "w1", "clsact")
	own := r.filters()
	keep := r.config
	keep.Keep = true
	m, stop := r.run(keep)
	if s := m.Status(); s.Attach != "clsact" || !s.On || len(s.Interfaces) != 2 || s.Detail != "" {
		t.Errorf("%+v", s)
	}
	attached := r.filters()
	if strings.Count(attached, "natless_uplink") != 1 || strings.Count(attached, "natless_workload") != 1 {
		t.Errorf("not attached:\n%s", attached)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if after := r.filters(); strings.Count(after, "natless_") != 2 {
		t.Errorf("not kept:\n%s", after)
	}
	m, stop = r.run(r.config)
	if s := m.Status(); !s.Adopted || !s.On {
		t.Errorf("not adopted: %+v", s)
	}
	if again := r.filters(); strings.Count(again, "natless_") != 2 {
		t.Errorf("attached twice:\n%s", again)
	}
	r.Run("tc", "filter", "del", "dev", "w1", "ingress")
	r.IP("link set w1 mtu 1400") // anything that makes it look
	for end := time.Now().Add(5 * time.Minute); !strings.Contains(r.filters(), "natless_workload"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what somebody took away is not back")
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if left := r.filters(); left != own {
		t.Errorf("left:\n%s\nwant\n%s", left, own)
	}
	r.Run("tc", "qdisc", "del", "dev", "w1", "clsact")
	if left := r.filters(); left != before {
		t.Errorf("left:\n%s", left)
	}
}

// TestTwoDaemons: a second one of the same namespace and device is refused, as is
// cleaning up behind the first.
func TestTwoDaemons(t *testing.T) {
	r := newRig(t)
	_, stop := r.run(r.config)
	defer stop()
	r.Do(func() {
		if m, err := New(r.config); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("%v %v", m, err)
		}
		if removed, err := Cleanup(r.config); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("%v %v", removed, err)
		}
	})
}

// TestUnasked: an interface of a workload that forwards no IPv6 by its own setting is
// named, for the kernel forwards from there all the same; and no longer when it does.
func TestUnasked(t *testing.T) {
	r := newRig(t)
	m, stop := r.run(r.config)
	defer stop()
	for _, c := range []struct {
		forwarding string
		named      bool
	}{{"1", false}, {"0", true}, {"1", false}} {
		r.Run("sysctl", "-qw", "net.ipv6.conf.w1.forwarding="+c.forwarding)
		for end := time.Now().Add(time.Minute); strings.Contains(m.Status().Detail, "net.ipv6.conf.w1.forwarding") != c.named; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("forwarding is %s: %q", c.forwarding, m.Status().Detail)
			}
		}
	}
}

// TestCollects: pins of namespaces that are gone go when the next manager starts.
func TestCollects(t *testing.T) {
	r := newRig(t)
	keep := r.config
	keep.Keep = true
	m, stop := r.run(keep)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	live, dead := m.store.dir, filepath.Join(filepath.Dir(m.store.dir), fmt.Sprintf("natless0@%d", 1))
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	other := newRig(t)
	_, stop = other.run(other.config)
	defer stop()
	if _, err := os.Stat(dead); err == nil {
		t.Errorf("%s is still there", dead)
		os.Remove(dead)
	}
	if _, err := os.Stat(live); err != nil {
		t.Errorf("pins of a namespace that lives are gone: %v", err)
	}
}

// TestMissingFeature: what is missing has a name, and the kernel that has it.
func TestMissingFeature(t *testing.T) {
	err := error(&MissingFeatureError{"the helper bpf_redirect_neigh", "5.10", unix.EINVAL})
	if got, want := err.Error(), "the kernel lacks the helper bpf_redirect_neigh (Linux 5.10 or later): invalid argument"; got != want || !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %q, want %q", got, want)
	}
}
