package attach

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
)

// TestInside: where workloads have IPv4 inside, the programs for it stand at their own
// interfaces, at ports of a bridge as well, and at the TAP; where something would be
// bypassed and with the fast path off, too, and steer; and they go with the workloads.
// Kernels without TCX have them as filters of traffic control.
func TestInside(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nft")
	for _, way := range []struct{ steer, clsact bool }{{false, false}, {true, true}} {
		steer := way.steer
		r := newRig(t)
		r.config.clsact = way.clsact
		r.IP("tuntap add natless4 mode tap")
		r.IP("link set natless4 up")
		r.IP("link add br0 type bridge")
		r.IP("link set br0 up")
		for _, p := range []string{"p1", "p2"} {
			r.IP("link add " + p + " type veth peer name " + p + "-far")
			r.IP("link set " + p + " up master br0")
		}
		r.IP("-6 route add 2001:db8:7::/64 dev br0")
		r.config.Inside, r.config.Steer = "natless4", steer
		m, stop := r.run(r.config)
		inside := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:7::2/128"), IPv4: netip.MustParsePrefix("198.51.100.3/32"), Inside: true}
		at := func(name string) Workload { return Workload{Mapping: inside, Interface: name} }
		edit := func(next *mapping.Table, err error, gone, come []Workload) {
			t.Helper()
			if err == nil {
				r.Do(func() { err = m.Edit(next, gone, come) })
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range come { // at once: who is added may speak
				var list []string
				r.Do(func() { list, err = Left("natless0") })
				if err != nil || !slices.ContainsFunc(list, func(s string) bool { return strings.HasSuffix(s, "sent4 at interface "+w.Interface) }) {
					t.Errorf("no program at %s: %v, %v", w.Interface, list, err)
				}
			}
		}
		others := []string{"uplink at uplink", "workload at br0", "workload at w1"}
		if steer {
			others = nil
		}
		r.stand(t, append(slices.DeleteFunc(slices.Clone(others), func(s string) bool { return strings.Contains(s, "br0") }), "given4 at natless4")...)

		table, err := m.table.Insert(inside)
		edit(table, err, nil, []Workload{at("p1")})
		r.stand(t, append(others, "sent4 at p1", "given4 at natless4")...)
		if got := m.steering.Load(); got != steer {
			t.Errorf("steered is %v, want %v", got, steer)
		}
		edit(table, nil, []Workload{at("p1")}, []Workload{at("p2")}) // as when it is made anew
		r.stand(t, append(others, "sent4 at p2", "given4 at natless4")...)

		r.Run("nft", "add table inet x; add chain inet x y { type filter hook forward priority 0; policy drop; }")
		if !steer {
			others = nil // left to the daemon
		}
		for end := time.Now().Add(time.Minute); !m.steering.Load(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("what would be bypassed is not heeded")
			}
		}
		r.stand(t, append(others, "sent4 at p2", "given4 at natless4")...)
		if s := m.Status(); s.Inside != 1 || s.On {
			t.Errorf("%+v", s)
		}

		table, err = table.Remove(inside)
		edit(table, err, []Workload{at("p2")}, nil)
		r.stand(t, "given4 at natless4")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.stand(t)
	}
}

// TestClosed: where natlessd ends and a workload with IPv4 inside does not, its
// interface takes no IPv4 until the next one is ready.
func TestClosed(t *testing.T) {
	inside := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:7::2/128"), IPv4: netip.MustParsePrefix("198.51.100.3/32"), Inside: true}
	for _, way := range []struct{ clsact, killed bool }{{false, true}, {true, false}} {
		r := newRig(t)
		for _, p := range []string{"p1", "p2"} {
			r.IP("link add " + p + " type veth peer name " + p + "-far")
			r.IP("link set " + p + " up")
			r.IP("link set " + p + "-far up")
		}
		r.Run("tc", "qdisc", "add", "dev", "p2", "clsact") // somebody else's
		r.IP("tuntap add natless4 mode tap")
		r.config.Inside, r.config.clsact = "natless4", way.clsact
		shown := func(port string) string { return r.Run("tc", "filter", "show", "dev", port, "ingress") }
		for _, port := range []string{"p1", "p2"} {
			c := r.config
			c.Keep = way.killed
			m, stop := r.run(c)
			table, err := m.table.Insert(inside)
			if err == nil {
				r.Do(func() { err = m.Edit(table, nil, []Workload{{Mapping: inside, Interface: port}}) })
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(port); strings.Contains(got, closedName) {
				t.Errorf("%+v: closed while the program is there:\n%s", way, got)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if way.killed {
				if got := shown(port); strings.Contains(got, closedName) {
					t.Errorf("%+v: what is left in force is closed:\n%s", way, got)
				}
				r.Do(func() { _, err = Cleanup(r.config) })
				if err != nil {
					t.Fatal(err)
				}
			}
			r.stand(t)
			if got := shown(port); strings.Count(got, closedName+" direct-action") != 1 {
				t.Errorf("%+v: %s is not closed:\n%s", way, port, got)
			}
			_, stop = r.run(r.config)
			if got := shown(port); strings.Contains(got, closedName) {
				t.Errorf("%+v: still closed:\n%s", way, got)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.Run("tc", "qdisc", "show", "dev", "p2", "clsact"); got == "" {
			t.Errorf("%+v: the qdisc of somebody else is gone", way)
		}
		if got := r.Run("tc", "qdisc", "show", "dev", "p1", "clsact"); got != "" {
			t.Errorf("%+v: left: %s", way, got)
		}
	}
}

// TestCloserDropsIPv4 alone: all else goes on.
func TestCloserDropsIPv4(t *testing.T) {
	netns.Require(t, netns.Root)
	c, err := newCloser(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.program.Close()
	for family, want := range map[uint16]netlink.TcAct{unix.ETH_P_IP: netlink.TC_ACT_SHOT, unix.ETH_P_IPV6: netlink.TC_ACT_UNSPEC, unix.ETH_P_ARP: netlink.TC_ACT_UNSPEC} {
		frame := append(binary.BigEndian.AppendUint16(make([]byte, 12), family), make([]byte, 60)...)
		if got, _, err := c.program.Test(frame); err != nil || netlink.TcAct(got) != want {
			t.Errorf("Ethernet type %#x: %v %v, want %v", family, netlink.TcAct(got), err, want)
		}
	}
}

// stand waits until programs stand where they should, and nowhere else.
func (r *rig) stand(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	slices.Sort(want)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var list []string
		var err error
		r.Do(func() { list, err = Left("natless0") })
		if err != nil {
			t.Fatal(err)
		}
		got = got[:0]
		for _, l := range list {
			got = append(got, strings.NewReplacer("tcx program ", "", "clsact program ", "", "interface ", "").Replace(l))
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("programs at %q, want %q", got, want)
		}
	}
}
