//go:build linux

package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// attach puts the programs where they belong.
func (r *rig) attach(t testing.TB, f *FastPath) {
	t.Helper()
	r.Do(func() {
		for index, program := range map[int]*ebpf.Program{r.up: f.Uplink, r.work: f.Workload} {
			l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				t.Errorf("attach: %v", err)
				return
			}
			t.Cleanup(func() { l.Close() })
		}
	})
}

const sizeVirtio = 10

// longestFrame is what stays in one piece at a device (gso_max_size, 64 KiB less
// one byte, and that with an Ethernet header), also when it has grown by 20
// bytes. TestLongest has what is longer.
const longestFrame = 65535 - sizeEthernet - 20

// frame is what is written to a tap: virtio-net header, Ethernet, packet.
func frame(to net.HardwareAddr, p reference.Packet) []byte {
	o := p.Offload
	b := []byte{o.Flags, o.GSOType}
	start := o.CsumStart
	if o.Flags != 0 {
		start += sizeEthernet
	}
	header := o.HdrLen
	if header != 0 {
		header = max(header, sizeEthernet)
	}
	for _, v := range []uint16{header, o.GSOSize, start, o.CsumOffset} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	b = append(append(b, to...), 2, 0, 0, 0, 0, 9, 8, 0)
	if p.Bytes[0]>>4 == 6 {
		b[len(b)-2], b[len(b)-1] = 0x86, 0xdd
	}
	return append(b, p.Bytes...)
}

// unframe is the other way of frame.
func unframe(b []byte) (p reference.Packet, err error) {
	if len(b) < sizeVirtio+sizeEthernet+20 {
		return p, fmt.Errorf("%d bytes are no packet", len(b))
	}
	v := func(at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
	p.Offload = translator.Offload{Flags: b[0], GSOType: b[1], GSOSize: v(4), CsumStart: v(6), CsumOffset: v(8)}
	if b[0]&translator.FlagNeedsCsum != 0 {
		p.Offload.CsumStart -= sizeEthernet
	} else {
		p.Offload.CsumStart, p.Offload.CsumOffset = 0, 0
	}
	p.Bytes = b[sizeVirtio+sizeEthernet:]
	return p, nil
}

// taps sends packets through both translators by the rig's devices.
type taps struct {
	*judge
	buf   []byte
	frame []byte // the last one read
}

// sent says how many packets a program has translated.
func (d *taps) sent(to4 bool) (n uint64, err error) {
	at := uint32(0)
	if to4 {
		at = uint32(NumReasons)
	}
	var counts []programCount
	err = d.fast.maps.Reasons.Lookup(at, &counts)
	for _, c := range counts {
		n += c.Packets
	}
	return n, err
}

// drain reads what has come out of a tap, but what the kernel itself says to
// everybody (MLD, ARP).
func (d *taps) drain(tap int) (last []byte, n int) {
	d.each(tap, func([]byte) error {
		last = append(last[:0], d.frame...)
		n++
		return nil
	})
	return last, n
}

// each yields the IP packets that have come out of a tap; their frame is d.frame.
func (d *taps) each(tap int, yield func(packet []byte) error) error {
	for {
		size, err := syscall.Read(tap, d.buf)
		if err != nil {
			return nil
		}
		if d.frame = d.buf[:size]; d.frame[sizeVirtio]&1 != 0 {
			continue
		}
		if err := yield(d.frame[sizeVirtio+sizeEthernet:]); err != nil {
			return err
		}
	}
}

func write(tap int, frame []byte) error {
	_, err := syscall.Write(tap, frame)
	return err
}

// check is judge.check for packets with all their offloads. refused ones are
// those that the tap does not take.
func (d *taps) check(in reference.Packet) (o outcome, err error) {
	notSuper(&in)
	from, to, mac := d.rig.uplink, d.rig.workload, d.rig.upMAC
	to4 := in.Bytes[0]>>4 == 6 && d.blockOf(in) == nil
	if to4 {
		from, to, mac = to, from, d.rig.workMAC
	}
	before, err := d.sent(to4)
	if err != nil {
		return o, err
	}
	if _, err := syscall.Write(from, frame(mac, in)); err != nil {
		if errors.Is(err, syscall.EINVAL) {
			return outcome{refused: true}, nil
		}
		return o, err
	}
	after, err := d.sent(to4)
	if err != nil {
		return o, err
	}
	d.drain(from) // what the kernel's own stack made of it
	got, n := d.drain(to)
	o.translated = after > before
	want := &translator.Packet{Buf: make([]byte, translator.Headroom+len(in.Bytes)+translator.Tailroom), Start: translator.Headroom, Offload: in.Offload}
	want.End = want.Start + copy(want.Buf[want.Start:], in.Bytes)
	o.verdict = d.translate(want)
	switch {
	case !o.translated && n > 0 && !d.world.Edge.Enabled(): // there, the kernel forwards IPv6 that is none of ours
		return o, fmt.Errorf("%d packets came through, and none was translated", n)
	case !o.translated:
		return o, nil
	case n != 1:
		return o, fmt.Errorf("was translated, and %d packets came out", n)
	case o.verdict != translator.Forward4 && o.verdict != translator.Forward6 || d.worker.Fragments():
		return o, fmt.Errorf("translated, but for the translator it is %v", o.verdict)
	}
	out, err := unframe(got)
	if err != nil {
		return o, err
	}
	if err := d.same(got[sizeVirtio:], want.Bytes()); err != nil {
		return o, err
	}
	return o, sameOffload(out.Offload, want.Offload)
}

// notSuper makes a packet of a superpacket of one segment, as the kernel does.
func notSuper(p *reference.Packet) {
	b, o := p.Bytes, &p.Offload
	header := int(o.CsumStart) + 8
	if at := int(o.CsumStart) + 12; o.CsumOffset == 16 && at < len(b) {
		header = int(o.CsumStart) + int(b[at]>>4)*4
	}
	if o.GSOType != 0 && len(b)-header <= int(o.GSOSize) {
		o.GSOType, o.GSOSize = 0, 0
	}
}

// sameOffload compares the fields of a virtio-net header that are not hints.
func sameOffload(got, want translator.Offload) error {
	got.Flags &= translator.FlagNeedsCsum
	want.Flags &= translator.FlagNeedsCsum
	got.HdrLen, want.HdrLen = 0, 0
	if got != want {
		return fmt.Errorf("offloads %+v, want %+v", got, want)
	}
	return nil
}

// TestDevices sends generated packets through real devices: superpackets of up
// to 64 KiB, checksums left to the device, VLAN tags and the rest.
func TestDevices(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	n := 20_000
	if testing.Short() {
		n /= 10
	}
	seen := map[string]int{}
	for i, w := range slices.Concat(prefixed(), generate.EdgeWorlds()) {
		t.Run(w.Name, func(t *testing.T) {
			r := newRig(t)
			f := loaded(t)
			if w.Edge.Enabled() {
				r.IP("neigh add fe80::4 lladdr 02:00:00:00:00:04 dev uplink")
				r.IP("route add " + w.Edge.Prefix.String() + " via fe80::4 dev uplink")
			}
			devices(t, r, newPair(t, r, w, f), uint64(i), n/8, seen)
		})
	}
	for _, way := range []string{"4→6", "6→4", "from the fabric", "to the fabric"} {
		for _, what := range []string{"whole", "partial tcp", "partial udp", "tcp super"} {
			t.Logf("%6d %s %s", seen[way+" "+what], way, what)
			if seen[way+" "+what] == 0 {
				t.Errorf("no packet was translated that is %s %s", way, what)
			}
		}
	}
}

func devices(t *testing.T, r *rig, p *pair, seed uint64, n int, seen map[string]int) {
	r.attach(t, p.fast)
	d := &taps{judge: p.judge(), buf: make([]byte, 1<<17)}
	g := generate.New(p.world, 1000+seed)
	for i := range n {
		in := g.Next4()
		if i%2 == 0 {
			in = g.Next6()
		} else if p.world.Edge.Enabled() {
			in = g.NextFabric()
		}
		if len(in.Bytes) == 0 || len(in.Bytes) > longestFrame || in.Bytes[0]>>4 != 4 && in.Bytes[0]>>4 != 6 {
			continue
		}
		o, err := d.check(in)
		if err != nil {
			t.Fatalf("%v\noffload %+v\n%s", err, in.Offload, d.describe(reference.Packet{Bytes: in.Bytes[:min(len(in.Bytes), 200)]}, 0))
		}
		if o.translated {
			seen[d.offloadKind(in)]++
		}
	}
}

func (d *taps) offloadKind(in reference.Packet) string {
	way := "4→6"
	switch {
	case in.Bytes[0]>>4 == 4:
	case d.blockOf(in) != nil:
		way = "from the fabric"
	case d.world.Edge.Enabled():
		way = "to the fabric"
	default:
		way = "6→4"
	}
	switch {
	case in.Offload.GSOType != 0:
		return way + " tcp super"
	case in.Offload.CsumOffset == 16:
		return way + " partial tcp"
	case in.Offload.CsumOffset == 6:
		return way + " partial udp"
	}
	return way + " whole"
}
