//go:build linux

package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// inFront is a fast path with XDP, at the rig's two interfaces.
func inFront(t testing.TB, r *rig, options ...Option) *FastPath {
	t.Helper()
	f, err := Load("natless0", append(options, InFront())...)
	if err == nil {
		err = f.XDP.Err
	}
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { f.Close() })
	r.join(t, f)
	return f
}

// join has XDP at the rig's interfaces.
func (r *rig) join(t testing.TB, f *FastPath) {
	t.Helper()
	if err := f.XDP.SetLinks(map[int]Link{
		r.up:   {MAC: [6]byte(r.upMAC), From4: true, Sends: true, SendsLong: true},
		r.work: {MAC: [6]byte(r.workMAC), From6: true, Sends: true, SendsLong: true},
	}); err != nil {
		t.Fatal(err)
	}
}

// front runs the program in front of traffic control. It belongs to one goroutine.
type front struct {
	*judge
	run4, run6 *runner
}

func (j *judge) front() *front {
	program := j.fast.XDP.Program.FD()
	return &front{j, newFrontRunner(program, j.rig.up, j.rig.upMAC), newFrontRunner(program, j.rig.work, j.rig.workMAC)}
}

var errPassedOn = errors.New("is plain, and was passed on")

// check says where XDP did anything else than either pass the frame on as it was, or give
// it the translator's bytes and the next hop's Ethernet header; and where it passed on what
// is plain for traffic control, too, for no reason of its own.
func (f *front) check(in reference.Packet) (translated bool, err error) {
	run, to, from := f.run4, byte(3), f.rig.workMAC
	if in.Bytes[0]>>4 == 6 {
		run, to, from = f.run6, 2, f.rig.upMAC
	}
	action, frame, err := run.run(in, 0)
	if err != nil {
		return false, err
	}
	want := &translator.Packet{Buf: f.buffer, Start: translator.Headroom}
	want.End = want.Start + copy(f.buffer[want.Start:], in.Bytes)
	verdict := f.worker.Translate(want)
	forward := (verdict == translator.Forward4 || verdict == translator.Forward6) && !f.worker.Fragments()
	must := forward && f.plain(in, want, 0) && f.plainlyAllowed(in) && !maybePartial(in.Bytes)
	switch {
	case action == xdpPass && !bytes.Equal(frame, run.frame()):
		return false, fmt.Errorf("passed on, but changed:\n%x", frame)
	case action == xdpPass && must:
		return false, errPassedOn
	case action == xdpPass:
		return false, nil
	case action != xdpRedirect:
		return false, fmt.Errorf("action %d", action)
	case !forward:
		return false, fmt.Errorf("translated, but for the translator it is %v:\n%x", verdict, frame)
	case !bytes.Equal(frame[:12], append([]byte{2, 0, 0, 0, 0, to}, from...)):
		return false, fmt.Errorf("Ethernet header %x", frame[:sizeEthernet])
	}
	return true, f.same(frame, want.Bytes())
}

// maybePartial says that the checksum of a packet might be one that the device is to
// complete: the sum of its pseudo header.
func maybePartial(b []byte) bool {
	at, proto, length, addresses := 40, b[6], int(binary.BigEndian.Uint16(b[4:])), b[8:40]
	if b[0]>>4 == 4 {
		at, proto, length, addresses = 20, b[9], int(binary.BigEndian.Uint16(b[2:]))-20, b[12:20]
	}
	field := 6
	switch proto {
	case 6:
		field = 16
	case 17:
		length = int(binary.BigEndian.Uint16(b[at+4:]))
	default:
		return false
	}
	sum := onesSum(addresses, []byte{byte(length >> 8), byte(length), 0, proto})
	is := binary.BigEndian.Uint16(b[at+field:])
	return is == sum || is == 0 && sum == 0xffff
}

// TestDifferentialXDP: what XDP makes of a packet is what the translator makes of it, or
// nothing at all.
func TestDifferentialXDP(t *testing.T) {
	netns.Require(t, netns.Root)
	t.Parallel()
	r := newRig(t)
	path := inFront(t, r)
	for i, w := range generate.AllWorlds() {
		if !w.Prefix.IsValid() || w.Client || w.Name == "budget" {
			continue
		}
		if w.Config.MTU4 > 0 {
			w.Config.MTU4 = max(w.Config.MTU4, 1280)
		}
		f := newPair(t, r, w, path).judge().front()
		s, translated := newSource(w, 4000+uint64(i), 1000), 0
		r.Do(func() {
			for range 6000 {
				in, segments := s.next()
				if segments > 0 || in.From.IsValid() {
					continue
				}
				in.Offload = translator.Offload{}
				done, err := f.check(in)
				if err != nil {
					t.Errorf("%v\n%s", err, f.describe(in, 0))
					return
				}
				if done {
					translated++
				}
			}
		})
		if translated < 50 {
			t.Errorf("world %s: %d packets translated: that proves little", w.Name, translated)
		}
	}
}

// frontWays are what XDP passes on by itself, and what it does not.
func frontWays(t *testing.T, r *rig, f *FastPath) {
	p := newPair(t, r, prefixed()[0], f)
	run := func(name string, at int, mac net.HardwareAddr, in []byte, want bool) {
		t.Helper()
		r.Do(func() {
			a, frame, err := newFrontRunner(f.XDP.Program.FD(), at, mac).run(reference.Packet{Bytes: in}, 0)
			if got := a == xdpRedirect; err != nil || got != want || a != xdpRedirect && a != xdpPass {
				t.Errorf("%s: action %d (%v)", name, a, err)
			}
			if !want && !bytes.Equal(frame[sizeEthernet:], in) {
				t.Errorf("%s: passed on, but changed", name)
			}
		})
	}
	both := func(name string, six, four bool) {
		t.Helper()
		run(name, r.work, r.workMAC, udp6(1300), six)
		run(name, r.up, r.upMAC, udp4(1200), four)
	}
	link := func(mac net.HardwareAddr, l Link) Link { l.MAC = [6]byte(mac); return l }
	set := func(up, work Link) {
		t.Helper()
		if err := f.XDP.SetLinks(map[int]Link{r.up: link(r.upMAC, up), r.work: link(r.workMAC, work)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name      string
		up, work  Link
		six, four bool
	}{
		{"nothing comes in", Link{Sends: true}, Link{Sends: true}, false, false},
		{"the other family comes in", Link{From6: true, Sends: true}, Link{From4: true, Sends: true}, false, false},
		{"the uplink takes no frames", Link{From4: true}, Link{From6: true, Sends: true}, false, true},
		{"the fabric takes no frames", Link{From4: true, Sends: true}, Link{From6: true}, true, false},
		{"all", Link{From4: true, Sends: true}, Link{From6: true, Sends: true}, true, true},
	} {
		set(c.up, c.work)
		both(c.name, c.six, c.four)
	}
	run("another host's", r.work, []byte{2, 9, 9, 9, 9, 9}, udp6(1300), false)
	run("everybody's", r.work, []byte{255, 255, 255, 255, 255, 255}, udp6(1300), false)
	run("another interface", 1, r.workMAC, udp6(1300), false)
	partial := udp4(1200)
	binary.BigEndian.PutUint16(partial[26:], onesSum(partial[12:20], []byte{4, 184, 0, 17})) // 1208 bytes
	run("a partial checksum", r.up, r.upMAC, partial, false)

	if err := f.SetHost(Host{}); err != nil {
		t.Fatal(err)
	}
	r.long(t, f, set, run)
	r.neighbours(both)
	capped(t, f, p, both)
	assuredWays(t, r, f)
	r.join(t, f)
}

// deviceRoutes are those to the translator's device.
var deviceRoutes = ownRoutes + "; ip route add " + prefixed()[0].Config.IPv6.String() + " dev natless0; ip route add 64:ff9b::/96 dev natless0"

// ownDevice makes the translator's device, until it is done with.
func (r *rig) ownDevice(t *testing.T) (device int, done func()) {
	t.Helper()
	r.IP("tuntap add natless0 mode tun")
	r.IP("link set natless0 up mtu 1500")
	r.Run("bash", "-c", deviceRoutes)
	r.Do(func() {
		if i, err := net.InterfaceByName("natless0"); err == nil {
			device = i.Index
		}
	})
	return device, func() { r.IP("link del natless0") }
}

// assuredWays has somebody see to prefix and mappings: nobody asks about a packet, but whether
// the device and its routes are there, whether the interface forwards, and for sources.
func assuredWays(t *testing.T, r *rig, f *FastPath) {
	t.Helper()
	device, done := r.ownDevice(t)
	defer done()
	j := newPair(t, r, prefixed()[0], f).judge()
	front := j.front()
	host := Host{Device: device, Via: r.work, Alone: true}
	for _, c := range []struct {
		name, do, undo string
		assured        bool
		six, four      bool
		size           int
		strict         bool
	}{
		{name: "assured", assured: true, six: true, four: true},
		{name: "a route that nobody has told of", do: "ip route add blackhole 198.51.100.2; ip route add blackhole 64:ff9b::c000:202",
			undo: "ip route del 198.51.100.2; ip route del 64:ff9b::c000:202", assured: true, six: true, four: true},
		{name: "the same, not assured", do: "ip route add blackhole 198.51.100.2; ip route add blackhole 64:ff9b::c000:202",
			undo: "ip route del 198.51.100.2; ip route del 64:ff9b::c000:202"},
		{name: "longer than the device takes", assured: true, four: true, size: 1460},
		{name: "no forwarding of IPv4 there", do: "sysctl -qw net.ipv4.conf.uplink.forwarding=0", undo: "sysctl -qw net.ipv4.conf.uplink.forwarding=1",
			assured: true, six: true},
		{name: "source is the host's own", do: "ip addr add 192.0.2.2/32 dev uplink", undo: "ip addr del 192.0.2.2/32 dev uplink", assured: true},
		{name: "source is here, rp_filter=1", assured: true, six: true, four: true, strict: true},
		{name: "the device lost its routes", do: "ip route flush dev natless0; ip -6 route flush dev natless0", undo: deviceRoutes, assured: true, six: true, four: true},
	} {
		h := host
		h.Strict = c.strict
		during := time.Duration(0)
		if c.assured {
			during = time.Hour
		}
		if err := errors.Join(f.SetHost(h), f.Assure(during)); err != nil {
			t.Fatal(err)
		}
		if c.do != "" {
			r.Run("bash", "-c", c.do)
		}
		time.Sleep(tick)
		size := 1200
		if c.size > 0 {
			size = c.size
		}
		r.Do(func() {
			for run, want := range map[*runner]bool{front.run6: c.six, front.run4: c.four} {
				in := udp6(size)
				if run == front.run4 {
					in = udp4(1200)
				}
				a, _, err := run.run(reference.Packet{Bytes: in}, 0)
				if got := a == xdpRedirect; err != nil || got != want {
					t.Errorf("%s: IPv%d: translated is %v (%v)", c.name, in[0]>>4, got, err)
				}
			}
		})
		if c.undo != "" {
			r.Run("bash", "-c", c.undo)
		}
	}
	if err := errors.Join(f.SetHost(Host{}), f.Assure(0)); err != nil {
		t.Fatal(err)
	}
}

// long has frames in several pieces, which not every device takes.
func (r *rig) long(t *testing.T, f *FastPath, set func(up, work Link), run func(string, int, net.HardwareAddr, []byte, bool)) {
	t.Helper()
	in := udp4(3600)
	was := f.tables.Config
	wide := was
	wide.MTU4, wide.MTU6, wide.LowestMTU6 = 9000, 9000, 9000
	if err := f.Configure(wide); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Configure(was); err != nil {
			t.Error(err)
		}
	}()
	set(Link{From4: true, Sends: true}, Link{From6: true, Sends: true})
	run("in pieces, to who takes no such", r.up, r.upMAC, in, false)
	set(Link{From4: true, Sends: true, SendsLong: true}, Link{From6: true, Sends: true, SendsLong: true})
	run("in pieces", r.up, r.upMAC, in, true)
}

// neighbours come and go.
func (r *rig) neighbours(both func(string, bool, bool)) {
	r.IP("neigh del 172.31.0.2 dev uplink")
	r.IP("neigh del fe80::2 dev work")
	time.Sleep(tick)
	both("nobody knows the next hop", false, false)
	r.IP("neigh add 172.31.0.2 lladdr 02:00:00:00:00:02 dev uplink")
	r.IP("neigh add fe80::2 lladdr 02:00:00:00:00:03 dev work")
	time.Sleep(tick)
	both("the next hop is known again", true, true)
}

// capped has an operator's limits, which XDP leaves to traffic control.
func capped(t *testing.T, f *FastPath, p *pair, both func(string, bool, bool)) {
	t.Helper()
	index := make([]byte, 4)
	key6 := binary.NativeEndian.AppendUint32(nil, 128)
	key6 = append(key6, p.world.Mappings[0].IPv6.Addr().AsSlice()...)
	key4 := append(binary.NativeEndian.AppendUint32(nil, 32), 198, 51, 100, 2, 0, 0, 0, 0)
	put := func(capping uint32) {
		t.Helper()
		if err := f.maps.Capping.Put(uint32(0), capping); err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	both("somebody is limited", true, true)
	if err := errors.Join(f.maps.Senders.Put(key6, index), f.maps.Receivers.Put(key4, index)); err != nil {
		t.Fatal(err)
	}
	both("limited", false, false)
	put(0)
	both("only held to a share", true, true)
	if err := f.forgive(); err != nil {
		t.Fatal(err)
	}
}

// TestFrontWays: see frontWays, and hostWays.
func TestFrontWays(t *testing.T) {
	netns.Require(t, netns.Root)
	t.Parallel()
	r := newRig(t)
	f := inFront(t, r)
	frontWays(t, r, f)
	hostWays(t, r, f)
}
