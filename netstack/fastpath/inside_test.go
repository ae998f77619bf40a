//go:build linux

package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// insider is a workload with IPv4 inside of the first of those worlds.
var insider = netip.MustParsePrefix("2001:db8:6::2/128")

// sent4 is a packet of the insider.
func sent4(dst string, port uint16) []byte { return sentFrom("198.51.100.2", dst, port) }

func sentFrom(src, dst string, port uint16) []byte {
	b := udp4(100)
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(b[22:], port)
	generate.Repair(b)
	return b
}

// fate is what sent4 makes of a packet.
type fate string

const (
	direct  fate = "goes on"
	steered fate = "comes to the daemon"
	dropped fate = "is dropped"
	blamed  fate = "comes to the daemon in another's name"
)

// insideWays has the insider send, on hosts of all kinds.
func insideWays(t *testing.T, r *rig, f *FastPath) {
	r.IP("tuntap add natless0 mode tun")
	r.IP("link set natless0 up")
	defer r.IP("link del natless0")
	w := generate.InsideWorlds()[0]
	for _, to := range []string{"198.51.100.0/24", w.Config.IPv4.String(), w.Config.IPv6.String()} {
		r.IP("route add " + to + " dev natless0")
	}
	device := 0
	r.Do(func() {
		if i, err := net.InterfaceByName("natless0"); err == nil {
			device = i.Index
		}
	})
	p := newPair(t, r, w, f)
	tag := p.table.Get(insider).Tag()
	host := Host{Device: device, Via: r.up, Inside: r.up}
	with := func(change func(*Host)) Host {
		h := host
		change(&h)
		return h
	}
	at := p.at(w.Mappings[0])
	for _, c := range []struct {
		name     string
		host     Host
		at       int
		out, to  fate // to the outside, and to another workload
		diverted time.Duration
	}{
		{name: "as usual", host: host, at: at, out: direct, to: direct},
		{"diverted", host, at, steered, steered, time.Hour},
		{"diverted, the device is gone", with(func(h *Host) { h.Device, h.Alone = noSuchDevice, true }), at, direct, direct, time.Hour},
		{"it was diverted", host, at, direct, direct, time.Nanosecond},
		{"by an uplink", with(func(h *Host) { h.Uplinks[1] = r.up; h.Uplinks[0] = 1 }), at, direct, direct, 0},
		{"by no uplink", with(func(h *Host) { h.Uplinks[0] = 1 }), at, steered, direct, 0},
		{"the device is gone", with(func(h *Host) { h.Device, h.Alone = noSuchDevice, true }), at, direct, direct, 0},
		{"the device is gone, others are there", with(func(h *Host) { h.Device = noSuchDevice }), at, steered, steered, 0},
		{"all is steered", with(func(h *Host) { h.Steer = true }), at, steered, steered, 0},
		{"there is no TAP", with(func(h *Host) { h.Inside = 0 }), at, dropped, dropped, 0},
		{"by another's interface", host, p.at(w.Mappings[1]), blamed, blamed, 0},
		{"by nobody's interface", host, r.work, dropped, dropped, 0},
	} {
		if err := errors.Join(f.SetHost(c.host), f.Divert(c.diverted)); err != nil {
			t.Fatal(err)
		}
		run := newRunner(f.Sent4.FD(), c.at, r.workMAC)
		for _, try := range []struct {
			dst  string
			port uint16
			want fate
		}{{"192.0.2.2", 53, c.out}, {"198.51.100.7", 1024, c.to}} {
			got := fate("")
			r.Do(func() { got = run.fate(t, tag, sent4(try.dst, try.port)) })
			if got != try.want {
				t.Errorf("%s: a packet to %s %s, want that it %s", c.name, try.dst, got, try.want)
			}
		}
	}
	config := p.slow.Config()
	config.Host4 = netip.MustParseAddr("203.0.114.9")
	if err := f.SetHost(host); err != nil {
		t.Fatal(err)
	}
	if err := f.Configure(config); err != nil {
		t.Fatal(err)
	}
	r.Do(func() {
		if got := newRunner(f.Sent4.FD(), at, r.workMAC).fate(t, tag, sent4("203.0.114.9", 53)); got != steered {
			t.Errorf("a packet to the host %s", got)
		}
		for _, src := range []string{"198.51.100.7", "203.0.114.9", "10.1.2.3"} { // another's, the host's, and who knows whose
			if got := newRunner(f.Sent4.FD(), at, r.workMAC).fate(t, tag, sentFrom(src, "192.0.2.2", 53)); got != steered {
				t.Errorf("a packet from %s, for which the daemon has an answer, %s", src, got)
			}
		}
	})
	// A superpacket that may be cut up, to a workload that may have IPv6 alone: the daemon cuts it first.
	super := reference.Packet{Bytes: udp4(3000), Offload: translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: 1400}}
	copy(super.Bytes[12:], netip.MustParseAddr("198.51.100.2").AsSlice())
	copy(super.Bytes[16:], netip.MustParseAddr("198.51.100.7").AsSlice())
	binary.BigEndian.PutUint16(super.Bytes[22:], 1024)
	binary.BigEndian.PutUint16(super.Bytes[6:], 0)
	generate.Repair(super.Bytes)
	r.Do(func() {
		if a, frame, err := newRunner(f.Sent4.FD(), at, r.workMAC).run(super, 3); err != nil || a != actRedirect || mapping.TagOf(frame[mapping.TagLen:]) != tag {
			t.Errorf("a superpacket that may be cut up: action %d, %v", int32(a), err)
		}
	})
	names := f.Names()
	for n, m := range w.Mappings {
		if e := p.table.Get(m.IPv6); m.Inside && names[e.Tag()] != mapping.Addr6From(m.IPv6.Addr()) {
			t.Errorf("mapping %d is not named: %v", n, names)
		}
	}
	insideFrames(t, r, f, p)
}

func (r *runner) fate(t *testing.T, tag mapping.Tag, b []byte) fate {
	a, frame, err := r.run(reference.Packet{Bytes: b}, 0)
	switch {
	case err != nil:
		t.Error(err)
	case a == actShot:
		return dropped
	case a == actRedirect && mapping.TagOf(frame[mapping.TagLen:]) == tag:
		return steered
	case a == actRedirect && bytes.Equal(frame[mapping.TagLen:][:mapping.TagLen], r.in[mapping.TagLen:][:mapping.TagLen]):
		return direct
	case a == actRedirect:
		return blamed
	}
	return fate("has another fate")
}

// insideFrames has the daemon send frames, and the insider tagged ones.
func insideFrames(t *testing.T, r *rig, f *FastPath, p *pair) {
	// The daemon has begun, and has no routes yet; then it has.
	for _, c := range []struct {
		host Host
		want uint32
	}{{Host{Device: noSuchDevice, Inside: r.up}, actShot}, {Host{Device: noSuchDevice, Via: r.up, Inside: r.up}, actRedirect}, {Host{Inside: r.up}, actRedirect}} {
		if err := f.SetHost(c.host); err != nil {
			t.Fatal(err)
		}
		r.Do(func() {
			run := newRunner(f.Given4.FD(), r.up, r.upMAC)
			p.table.Get(insider).Tag().Put(run.in[:])
			if a, _, err := run.run(reference.Packet{Bytes: udp4(20)}, 0); err != nil || a != c.want {
				t.Errorf("a frame, %+v: action %d, want %d, %v", c.host, int32(a), int32(c.want), err)
			}
		})
	}
	r.Do(func() {
		for _, c := range []struct {
			tag  mapping.Tag
			b    []byte
			want uint32
		}{
			{p.table.Get(insider).Tag(), udp4(20), actRedirect},
			{p.table.Get(insider).Tag(), udp6(20), actShot},
			{p.table.Get(insider).Tag() ^ 1<<30, udp4(20), actShot}, // one who had the slot before
			{0, udp4(20), actShot},
		} {
			run := newRunner(f.Given4.FD(), r.up, r.upMAC)
			c.tag.Put(run.in[:])
			if a, frame, err := run.run(reference.Packet{Bytes: c.b}, 0); err != nil || a != c.want || string(frame[14:]) != string(c.b) {
				t.Errorf("a frame for %x: action %d, %v", uint64(c.tag), int32(a), err)
			}
		}
	})
	at := func(mapping.Mapping) int { return r.work }
	if err := f.Replace(Tables{Table: p.table, Config: p.slow.Config(), Inside: at, Host: Host{Inside: r.up}}); err != nil {
		t.Fatal(err)
	}
	before, _ := f.Counters()
	links := true
	r.Do(func() {
		l, err := link.AttachTCX(link.TCXOptions{Interface: r.work, Program: f.Sent4, Attach: ebpf.AttachTCXIngress})
		if links = !errors.Is(err, link.ErrNotSupported); !links {
			return // before Linux 6.6; package attach has its own way there
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		tagged := append(append(append([]byte(nil), r.workMAC...), 2, 0, 0, 0, 0, 9, 0x81, 0, 0, 5, 8, 0), sent4("192.0.2.2", 53)...)
		if _, err := syscall.Write(r.workload, append(make([]byte, sizeVirtio), tagged...)); err != nil {
			t.Error(err)
		}
	})
	after, err := f.Counters()
	if err != nil || links && after.Inside[programReasonNOT_PLAIN_LINK].Packets != before.Inside[programReasonNOT_PLAIN_LINK].Packets+1 {
		t.Errorf("a frame with a VLAN tag: %+v, %v", after.Inside, err)
	}
}

// TestInsideWays: plain packets of a workload with IPv4 inside go on, all others come to
// the daemon in its name, and none passes that nobody judges.
func TestInsideWays(t *testing.T) {
	r := newRig(t)
	insideWays(t, r, loaded(t))
}

// TestInsideEdits: a workload with IPv4 inside comes, moves to another interface, and
// goes.
func TestInsideEdits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := loaded(t)
	table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := generate.InsideWorlds()[0]
	at := r.insides[0]
	tables := Tables{Table: table, Config: newPair(t, r, w, f).slow.Config(), Inside: func(mapping.Mapping) int { return at }, Host: Host{Inside: r.up}}
	if err := f.Replace(tables); err != nil {
		t.Fatal(err)
	}
	m := w.Mappings[0]
	expect := func(when string, fates ...fate) {
		t.Helper()
		tag := mapping.Tag(0)
		if e := table.Get(m.IPv6); e != nil {
			tag = e.Tag()
		}
		for i, want := range fates {
			r.Do(func() {
				if got := newRunner(f.Sent4.FD(), r.insides[i], r.workMAC).fate(t, tag, sent4("192.0.2.2", 53)); got != want {
					t.Errorf("%s: at interface %d it %s, want that it %s", when, i, got, want)
				}
			})
		}
	}
	edit := func(next *mapping.Table, err error, removed, added []mapping.Mapping) {
		t.Helper()
		if err == nil {
			err = f.Edit(next, removed, added)
		}
		if err != nil {
			t.Fatal(err)
		}
		table = next
	}
	expect("before", dropped, dropped)
	next, err := table.Insert(m)
	edit(next, err, nil, []mapping.Mapping{m})
	expect("there", direct, dropped)
	at = r.insides[1]
	if err := f.SetInside(m); err != nil {
		t.Fatal(err)
	}
	expect("moved", dropped, direct)
	next, err = table.Remove(m)
	edit(next, err, []mapping.Mapping{m}, nil)
	expect("gone", dropped, dropped)
}
