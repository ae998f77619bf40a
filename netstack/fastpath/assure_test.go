//go:build linux

package fastpath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
)

// partCase is what destinations are said to be parted by, what the host has there in truth,
// and what becomes of packets that are sent at once, one behind the other.
type partCase struct {
	name, do, undo string
	parts          []string // those that are led alike
	several        []string
	apart          []string
	first, then    byte // to 192.0.2.…
	size           int  // of the second
	front, tc      bool // the second is translated
}

var partCases = []partCase{
	{name: "alike", parts: []string{"0.0.0.0/0"}, first: 2, then: 9, front: true, tc: true},
	{name: "what is said holds", do: "ip route add blackhole 192.0.2.9", undo: "ip route del 192.0.2.9",
		parts: []string{"0.0.0.0/0"}, first: 2, then: 9, front: true, tc: true},
	{name: "a blackhole beside it", do: "ip route add blackhole 192.0.2.9", undo: "ip route del 192.0.2.9",
		parts: []string{"0.0.0.0/0"}, apart: []string{"192.0.2.9/32"}, first: 2, then: 9},
	{name: "nothing is said", do: "ip route add blackhole 192.0.2.9", undo: "ip route del 192.0.2.9", first: 2, then: 9},
	{name: "neighbours without a gateway", do: "ip route add 192.0.2.16/28 dev uplink; ip neigh add 192.0.2.17 lladdr 02:00:00:00:00:02 dev uplink",
		undo: "ip neigh del 192.0.2.17 dev uplink; ip route del 192.0.2.16/28", parts: []string{"0.0.0.0/0", "192.0.2.16/28"}, first: 17, then: 18, tc: true},
	{name: "longer than the first", do: "ip route add 192.0.2.32/28 via 172.31.0.2 mtu lock 600", undo: "ip route del 192.0.2.32/28",
		parts: []string{"0.0.0.0/0", "192.0.2.32/28"}, first: 33, then: 34, size: 1200},
	{name: "another class's MTU", do: "ip route add 192.0.2.32/28 via 172.31.0.2 mtu lock 600", undo: "ip route del 192.0.2.32/28",
		parts: []string{"0.0.0.0/0", "192.0.2.32/28"}, first: 33, then: 2, size: 1200, front: true, tc: true},
	{name: "a path MTU of one", do: "ip route add 192.0.2.35 via 172.31.0.2 mtu lock 600", undo: "ip route del 192.0.2.35",
		parts: []string{"0.0.0.0/0"}, apart: []string{"192.0.2.35/32"}, first: 2, then: 35, size: 1200},
	{name: "several ways, and a blackhole that nobody has told of", do: "ip route add 192.0.2.48/28 nexthop via 172.31.0.2 nexthop via 172.31.0.3; ip route add blackhole 192.0.2.50",
		undo: "ip route del 192.0.2.48/28; ip route del 192.0.2.50", parts: []string{"0.0.0.0/0"}, several: []string{"192.0.2.48/28"}, first: 49, then: 50},
	{name: "several ways, of another MTU", do: "ip route add 192.0.2.48/28 mtu lock 600 nexthop via 172.31.0.2 nexthop via 172.31.0.3",
		undo: "ip route del 192.0.2.48/28", parts: []string{"0.0.0.0/0"}, several: []string{"192.0.2.48/28"}, first: 49, then: 50, size: 1200},
	{name: "each of several ways", do: "ip route add 192.0.2.48/28 nexthop via 172.31.0.2 nexthop via 172.31.0.3", undo: "ip route del 192.0.2.48/28",
		parts: []string{"0.0.0.0/0"}, apart: []string{"192.0.2.48/28"}, first: 2, then: 50, tc: true, front: true},
}

func (c *partCase) said() Parts {
	all := Parts{netip.MustParsePrefix("::/0"): Alike}
	for _, p := range c.parts {
		all[netip.MustParsePrefix(p)] = Alike
	}
	for _, p := range c.several {
		all[netip.MustParsePrefix(p)] = Several
	}
	for _, p := range c.apart {
		all[netip.MustParsePrefix(p)] = Apart
	}
	return all
}

// partWays has somebody part destinations, at traffic control and in front of it.
func partWays(t *testing.T, r *rig, f *FastPath) {
	t.Helper()
	device, done := r.ownDevice(t)
	defer done()
	r.IP("neigh add 172.31.0.3 lladdr 02:00:00:00:00:02 dev uplink")
	defer r.IP("neigh del 172.31.0.3 dev uplink")
	j := newPair(t, r, prefixed()[0], f).judge()
	if err := f.SetHost(Host{Device: device, Via: r.work, Alone: true}); err != nil {
		t.Fatal(err)
	}
	for _, c := range partCases {
		if err := errors.Join(f.Part(c.said()), f.Assure(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if c.do != "" {
			r.Run("bash", "-c", c.do)
		}
		r.Do(func() {
			for _, at := range []struct {
				name string
				run  *runner
				done uint32
				want bool
			}{{"traffic control", j.workload, actRedirect, c.tc}, {"XDP", j.front().run6, xdpRedirect, c.front}} {
				got := false
				for range 20 { // two packets of a pair may be of two ticks
					time.Sleep(tick)
					first, _, err := at.run.run(reference.Packet{Bytes: to(c.first, 64)}, 0)
					then, _, err2 := at.run.run(reference.Packet{Bytes: to(c.then, max(c.size, 64))}, 0)
					if errors.Join(err, err2) != nil || first != at.done {
						t.Fatalf("%s, %s: the first: %d (%v)", c.name, at.name, int32(first), errors.Join(err, err2))
					}
					if got = then == at.done; got {
						break
					}
				}
				if got != at.want {
					t.Errorf("%s, %s: translated is %v", c.name, at.name, got)
				}
			}
			for run, want := range map[*runner]uint32{j.uplink: actRedirect, j.front().run4: xdpRedirect} { // by ::/0
				for range 2 {
					if a, _, err := run.run(reference.Packet{Bytes: udp4(1200)}, 0); err != nil || a != want {
						t.Errorf("%s: IPv4: %d (%v)", c.name, int32(a), err)
					}
				}
			}
		})
		if c.undo != "" {
			r.Run("bash", "-c", c.undo)
		}
	}
	r.hashed(t, f, j.front())
	if err := errors.Join(f.Assure(0), f.Part(nil), f.SetHost(Host{})); err != nil {
		t.Fatal(err)
	}
}

// hashed: each flow has the one of two ways that the kernel chooses, whether that is asked
// for it alone, is not known yet, or is remembered.
func (r *rig) hashed(t *testing.T, f *FastPath, j *front) {
	t.Helper()
	const flows = 3000 // of which some meet at a place
	r.Run("bash", "-ec", `sysctl -qw net.ipv4.fib_multipath_hash_policy=1; ip neigh replace 172.31.0.3 lladdr 02:00:00:00:00:04 dev uplink
		ip route replace default nexthop via 172.31.0.2 nexthop via 172.31.0.3`)
	defer r.IP("route replace default via 172.31.0.2")
	if err := f.Part(Parts{netip.MustParsePrefix("0.0.0.0/0"): Several}); err != nil {
		t.Fatal(err)
	}
	var first [flows]byte
	by := map[byte]int{}
	for round, during := range [...]time.Duration{0, time.Hour, 0, time.Hour, time.Hour} {
		if round < 4 { // the last one goes by what the one before remembered
			if err := f.Assure(during); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(tick)
		r.Do(func() {
			for i := range flows {
				in := to(2, 64)
				binary.BigEndian.PutUint16(in[40:], uint16(1024+i))
				a, frame, err := j.run6.run(reference.Packet{Bytes: in}, 0)
				if err != nil || a != xdpRedirect {
					t.Fatalf("flow %d: %d (%v)", i, a, err)
				}
				if hop := frame[5]; round == 0 {
					first[i] = hop
					by[hop]++
				} else if hop != first[i] {
					t.Fatalf("round %d, flow %d: by %d, and the kernel says %d", round, i, hop, first[i])
				}
			}
		})
	}
	if len(by) != 2 || by[2] < flows/4 || by[4] < flows/4 {
		t.Errorf("ways of flows: %v", by)
	}
}

// to is udp6 to a host at 192.0.2.0/24.
func to(host byte, size int) []byte {
	b := udp6(size)
	b[39] = host
	return b
}

// TestPartWays: see partWays.
func TestPartWays(t *testing.T) {
	netns.Require(t, netns.Root)
	t.Parallel()
	r := newRig(t)
	partWays(t, r, inFront(t, r))
}

// TestPart: what the programs go by is what was said last, of longer prefixes, too, and no
// number stands for two classes.
func TestPart(t *testing.T) {
	netns.Require(t, netns.Root)
	t.Parallel()
	f := loaded(t)
	used := map[uint32]bool{}
	for _, said := range []Parts{
		{netip.MustParsePrefix("0.0.0.0/0"): Alike, netip.MustParsePrefix("10.0.0.0/8"): Alike, netip.MustParsePrefix("10.1.0.0/16"): Apart},
		{netip.MustParsePrefix("0.0.0.0/0"): Alike, netip.MustParsePrefix("2001:db8::/32"): Several},
		nil,
		{netip.MustParsePrefix("::/0"): Alike},
	} {
		if err := errors.Join(f.Assure(time.Hour), f.Part(said)); err != nil {
			t.Fatal(err)
		}
		if f.Assured() {
			t.Error("assured, with other parts than before")
		}
		got := Parts{}
		for _, m := range f.partMaps() {
			key, number := make([]byte, m.KeySize()), uint32(0)
			for all := m.Iterate(); all.Next(&key, &number); {
				switch {
				case number >= several:
					got[partOf(key)] = Several
				case number != 0:
					got[partOf(key)] = Alike
				default:
					got[partOf(key)] = Apart
				}
				if number != 0 && used[number] {
					t.Errorf("%v: number %d was another's", partOf(key), number)
				}
				used[number] = true
			}
		}
		if len(got) != len(said) {
			t.Errorf("%v, and it is %v", said, got)
		}
		for p, led := range said {
			if is, there := got[p]; !there || is != led {
				t.Errorf("%v: %v, %v", p, is, there)
			}
		}
		if err := errors.Join(f.Assure(time.Hour), f.Part(said)); err != nil || !f.Assured() {
			t.Errorf("the same once more: %v", err)
		}
	}
}
