//go:build linux

package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// unreachable are branches that nothing in a test can make the kernel take: it
// would have to run out of memory in the middle of a packet.
var unreachable = map[string]bool{"PASS(UNCHANGED);": true, "PASS(LOST);": true}

// branches are the places that the program marks, by their number.
func branches(t *testing.T) map[uint32]string {
	t.Helper()
	marks := map[uint32]string{}
	files, err := filepath.Glob("bpf/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		number := uint32(0)
		for i, line := range strings.Split(string(text), "\n") {
			line = strings.TrimSpace(line)
			if n, err := fmt.Sscanf(line, "#define HERE COVER(%d)", &number); n == 1 && err == nil {
				continue
			}
			if line == "HERE;" || strings.HasPrefix(line, "PASS(") {
				marks[number*1024+uint32(i+1)] = fmt.Sprintf("%s:%d %s", file, i+1, line)
			}
		}
	}
	return marks
}

// covered is the program built so that it counts its branches.
func covered(t *testing.T) (*FastPath, *ebpf.Map) {
	t.Helper()
	netns.Require(t, netns.Root, "clang-14", "ethtool")
	spec, front := compiled(t, "program"), compiled(t, "xdp")
	marks, err := ebpf.NewMap(spec.Maps["coverage"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { marks.Close() })
	f, err := load(spec, map[string]*ebpf.Map{"coverage": marks}, "natless0")
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { f.Close() })
	f.XDP = &XDP{}
	if err := f.XDP.loadSpec(f, front, map[string]*ebpf.Map{"coverage": marks}); err != nil {
		t.Fatalf("%+v", err)
	}
	return f, marks
}

// compiled is a source, built so that it counts its branches.
func compiled(t *testing.T, source string) *ebpf.CollectionSpec {
	t.Helper()
	object, target := filepath.Join(t.TempDir(), source+".o"), "bpfel"
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		target = "bpfeb"
	}
	out, err := exec.Command("clang-14", "-DCOVERAGE", "-O2", "-g", "-mcpu=v3", "-target", target, "-c", "bpf/"+source+".c", "-o", object).CombinedOutput()
	if err != nil {
		t.Fatalf("clang-14: %v\n%s", err, out)
	}
	spec, err := ebpf.LoadCollectionSpec(object)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// oddWorlds hold what no real world has, but the program has a branch for.
func oddWorlds() []generate.World {
	one := func(v6, v4 string, set ...ports.Range) mapping.Mapping {
		return mapping.Mapping{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4), Ports: ports.Of(set...)}
	}
	short, zero := generate.Worlds()[0], generate.Worlds()[0]
	short.Name = "short prefixes"
	short.Mappings = []mapping.Mapping{one("::/0", "198.51.0.0/16"), one("2000::/3", "203.0.0.0/8"), one("2001:db8:9::/64", "5.1.0.0/16"),
		one("2001:db8:8::/68", "126.0.0.0/7")}
	zero.Name = "port 0"
	zero.Config.Host4 = netip.MustParseAddr("198.51.100.7")
	zero.Mappings = append(zero.Mappings[:6:6], one("2001:db8:5::1/128", "198.51.100.7/32", ports.Range{First: 0, Last: 0}),
		one("2001:db8:5::2/128", "198.51.100.7/32", ports.Range{First: 80, Last: 80}, ports.Range{First: 2048, Last: 3071}),
		one("2001:db8:5::3/128", "5.1.2.4/32", ports.Range{First: 0, Last: 255}),
		one("2001:db8::/124", "198.51.101.64/28")) // covers the translator's own address
	customer := generate.RuleWorlds()[0]
	customer.Name = "the translator's own address is a CE's"
	own, _, _ := customer.Rules.To6(mapping.Addr4From(netip.MustParseAddr("5.9.2.77")), 0)
	customer.Config.IPv6 = own.Addr()
	return []generate.World{short, zero, customer}
}

// TestBranches takes every branch of the program, and lists them with -v.
func TestBranches(t *testing.T) {
	t.Parallel()
	f, marks := covered(t)
	r := newRig(t)
	r.IP("route add unreachable 192.0.2.128/26")
	r.IP("route add 192.0.2.64/26 via 172.31.0.2 mtu lock 600")
	b := &branchRun{T: t, rig: r, f: f}
	r.join(t, f)
	b.disabled()
	for i, w := range slices.Concat(prefixed(), oddWorlds(), generate.InsideWorlds(), generate.PolicyWorlds(), edgeWorlds(), generate.RuleWorlds()) {
		b.world(w, uint64(i))
	}
	b.odd()
	b.identifications()
	b.links()
	b.summed()
	frontWays(t, r, f)
	partWays(t, r, f)
	hostWays(t, r, f)
	fabricWays(t, r, f)
	edgeWays(t, r, f)
	insideWays(t, r, f)
	var wrong uint64
	if err := marks.Lookup(uint32(0), &wrong); err != nil || wrong > 0 {
		t.Errorf("%d packets whose sum a device had computed got a wrong one (%v)", wrong, err)
	}
	missed := 0
	for at, where := range branches(t) {
		var n uint64
		if err := marks.Lookup(at, &n); err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(where, " ")
		t.Logf("%9d %s", n, where)
		if n == 0 && !unreachable[text] {
			missed++
			t.Errorf("never taken: %s", where)
		}
	}
	t.Logf("%d branches, %d of them not taken", len(branches(t)), missed)
}

type branchRun struct {
	*testing.T
	*rig
	f *FastPath
}

func (b *branchRun) lab() *judge { return newPair(b.T, b.rig, prefixed()[0], b.f).judge() }

// disabled runs packets before there are tables, and while they are taken away.
func (b *branchRun) disabled() {
	run := newRunner(b.f.Uplink.FD(), b.up, b.upMAC)
	packet := reference.Packet{Bytes: make([]byte, 60)}
	packet.Bytes[0] = 0x45
	action := func() (a uint32) {
		b.Do(func() {
			var err error
			if a, _, err = run.run(packet, 0); err != nil {
				b.Error(err)
			}
		})
		return a
	}
	if a := action(); a != actNext {
		b.Errorf("without tables: action %d", int32(a))
	}
	b.lab()
	var current uint32
	if err := b.f.maps.Active.Lookup(uint32(0), &current); err != nil {
		b.Fatal(err)
	}
	if err := b.f.forget(current); err != nil {
		b.Fatal(err)
	}
	if a := action(); a != actNext {
		b.Errorf("with tables taken away: action %d", int32(a))
	}
}

// world is a short differential run. Routes that refuse or are narrow make that
// plain packets are passed on, so that only wrong ones are errors.
func (b *branchRun) world(w generate.World, seed uint64) {
	p := newPair(b.T, b.rig, w, b.f)
	if err := b.f.maps.Blocks.Put(uint32(0), uint32(255)); err != nil { // identifications are about to begin anew
		b.Fatal(err)
	}
	s, j := newSource(w, 77+seed, 1500), p.judge()
	front := j.front()
	b.Do(func() {
		for i := range 12_000 {
			in, segments := s.next()
			if o, err := j.check(in, segments); err != nil && !(o.must && !o.translated) {
				b.Errorf("%v\n%s", err, j.describe(in, segments))
				return
			}
			if i%4 > 0 || segments > 0 || in.From.IsValid() || w.Edge.Enabled() {
				continue
			}
			if _, err := front.check(in); err != nil && !errors.Is(err, errPassedOn) {
				b.Errorf("XDP: %v\n%s", err, j.describe(in, 0))
				return
			}
		}
	})
}

// udp6 is a packet of the first world's first workload, and udp4 one to it.
func udp6(size int) []byte {
	b := make([]byte, 48, 48+size)
	b[0], b[6], b[7] = 0x60, 17, 64
	binary.BigEndian.PutUint16(b[4:], uint16(8+size))
	copy(b[8:], netip.MustParseAddr("2001:db8:6::2").AsSlice())
	copy(b[24:], netip.MustParseAddr("64:ff9b::192.0.2.2").AsSlice())
	binary.BigEndian.PutUint16(b[44:], uint16(8+size))
	b[46] = 1
	return append(b, make([]byte, size)...)
}

func udp4(size int) []byte {
	b := make([]byte, 28, 28+size)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(28+size))
	copy(b[12:], []byte{192, 0, 2, 2, 198, 51, 100, 2})
	binary.BigEndian.PutUint16(b[24:], uint16(8+size))
	b[26] = 1
	generate.Repair(b)
	return append(b, make([]byte, size)...)
}

// odd runs what the generator does not think of.
func (b *branchRun) odd() {
	b.f.counterBytes = 0 // CPUs share counters
	j := b.lab()
	b.f.counterBytes = maxCounterBytes
	reply := make([]byte, 44) // an echo reply that ends like one with a trailer
	reply[0], reply[3], reply[8], reply[9] = 0x45, 44, 64, 1
	copy(reply[12:], []byte{192, 0, 2, 2, 198, 51, 100, 7})
	reply[22], reply[24], reply[36], reply[37] = 9, 4, 0x6e, 0x6c
	generate.Repair(reply)
	zero := udp6(20) // whose checksum becomes 0, which UDP does not send
	to4 := onesSum([]byte{198, 51, 100, 2, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(zero[46:], onesSum(binary.BigEndian.AppendUint16(nil, ^onesSum(zero[8:40])), binary.BigEndian.AppendUint16(nil, to4)))
	b.Do(func() {
		if o, err := j.check(reference.Packet{Bytes: zero}, 0); err != nil || !o.translated {
			b.Errorf("a checksum that becomes 0: %+v, %v", o, err)
		}
		for _, in := range [][]byte{udp4(20), udp6(20), reply} {
			for i := range 300 {
				if len(in) == 48 || len(in) == 68 {
					binary.BigEndian.PutUint16(in[len(in)-2:], uint16(i))
				}
				if _, err := j.check(reference.Packet{Bytes: in}, 0); err != nil {
					b.Errorf("%v: %x", err, in)
					return
				}
			}
		}
		for _, run := range []*runner{newRunner(b.f.Workload.FD(), b.up, b.upMAC), newRunner(b.f.Workload.FD(), b.work, []byte{2, 9, 9, 9, 9, 9})} {
			if a, _, err := run.run(reference.Packet{Bytes: udp6(20)}, 0); err != nil || a != actNext {
				b.Errorf("at a wrong interface or for another host: %d, %v", int32(a), err)
			}
		}
		for _, in := range partialEchoes() {
			if o, err := j.check(reference.Packet{Bytes: in}, 0); err != nil || o.translated {
				b.Errorf("echo with a checksum that may be partial: %+v, %v", o, err)
			}
		}
		version5 := udp6(20)
		version5[0] = 0x50
		if a, _, err := j.workload.run(reference.Packet{Bytes: version5}, 0); err != nil || a != actNext {
			b.Errorf("IPv5: %d, %v", int32(a), err)
		}
		echo := udp6(20)
		echo[6], echo[40] = 58, 128
		if a, _, err := j.workload.run(reference.Packet{Bytes: echo, Offload: translator.Offload{GSOSize: 5}}, 0); err != nil || a != actNext {
			b.Errorf("echo as a superpacket: %d, %v", int32(a), err)
		}
	})
}

// partialEchoes are echo requests whose checksum may be the device's to complete.
func partialEchoes() [][]byte {
	echo6, echo4 := udp6(20), udp4(20)
	echo6[6], echo6[40] = 58, 128
	binary.BigEndian.PutUint16(echo6[42:], onesSum(echo6[8:40], []byte{0, 0, 0, 28, 0, 0, 0, 58}))
	echo4[9], echo4[20] = 1, 8
	echo4[22], echo4[23] = 0, 0
	generate.Repair(echo4)
	return [][]byte{echo6, echo4}
}

// identifications sends short packets of workloads whose share of the
// identifications starts at 0, or is 0.
func (b *branchRun) identifications() {
	j := newPair(b.T, b.rig, oddWorlds()[1], b.f).judge()
	b.Do(func() {
		own := udp4(20)
		copy(own[16:], []byte{198, 51, 101, 65})
		generate.Repair(own)
		if o, err := j.check(reference.Packet{Bytes: own}, 0); err != nil || o.translated {
			b.Errorf("to the translator's own IPv6 address: %+v, %v", o, err)
		}
		for source, port := range map[string]byte{"2001:db8:5::1": 0, "2001:db8:5::3": 5} {
			in := udp6(20)
			copy(in[8:], netip.MustParseAddr(source).AsSlice())
			in[41] = port
			for range 600 {
				if o, err := j.check(reference.Packet{Bytes: in}, 0); err != nil || !o.translated {
					b.Errorf("from port %d: %+v, %v", port, o, err)
					return
				}
			}
		}
	})
}

// links sends frames by devices: VLAN tags, packets in pieces, and packets
// without an Ethernet header.
func (b *branchRun) links() {
	j := b.lab()
	b.attach(b.T, b.f)
	d := &taps{judge: j, buf: make([]byte, 1<<17)}
	g := generate.New(prefixed()[0], 4711)
	for i := range 2000 {
		in := g.Next4()
		if i%2 == 0 {
			in = g.Next6()
		}
		if len(in.Bytes) < 20 || len(in.Bytes) > longestFrame || in.Bytes[0]>>4 != 4 && in.Bytes[0]>>4 != 6 {
			continue
		}
		if o, err := d.check(in); err != nil {
			b.Fatalf("%v %v", o, err)
		}
	}
	tagged := append(append(append([]byte(nil), b.workMAC...), 2, 0, 0, 0, 0, 9, 0x81, 0, 0, 5, 0x86, 0xdd), udp6(20)...)
	pieces := frame(b.workMAC, reference.Packet{Bytes: udp6(20)})
	pieces[2] = sizeEthernet // all but this is not in the first piece
	for _, f := range [][]byte{append(make([]byte, sizeVirtio), tagged...), pieces, frame(b.workMAC, tcpSuper(true, 65535))} {
		if _, err := syscall.Write(b.workload, f); err != nil {
			b.Fatal(err)
		}
	}
	var tun int
	var err error
	b.Do(func() { tun, err = b.tun() })
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(tun)
	for _, in := range [][]byte{udp4(20), udp6(20)} {
		if _, err := syscall.Write(tun, in); err != nil {
			b.Fatal(err)
		}
	}
}

// tun is a device without Ethernet, with both programs.
func (b *branchRun) tun() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	request, err := unix.NewIfreq("bare")
	if err != nil {
		return fd, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fd, err
	}
	b.IP("link set bare up")
	device, err := net.InterfaceByName("bare")
	if err != nil {
		return fd, err
	}
	for _, program := range []*ebpf.Program{b.f.Uplink, b.f.Workload} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: device.Index, Program: program, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fd, err
		}
		b.Cleanup(func() { l.Close() })
	}
	return fd, nil
}

// summed sends a packet whose whole sum is known to the kernel (CHECKSUM_COMPLETE,
// which some network cards give): a short one that came through a tunnel.
func (b *branchRun) summed() {
	j := b.lab()
	far := netns.New(b.T, "far")
	netns.Veth(b.T, far, "wire", b.NS, "wire")
	far.Run("ethtool", "-K", "wire", "tx", "off")
	for i, ns := range []*netns.NS{far, b.NS} {
		ns.IP(fmt.Sprintf("addr add 172.30.0.%d/24 dev wire", 1+i))
		ns.IP(fmt.Sprintf("link add tunnel type vxlan id 7 local 172.30.0.%d remote 172.30.0.%d dstport 4789 udpcsum", 1+i, 2-i))
		ns.IP("link set tunnel up")
	}
	var tunnel *net.Interface
	var err error
	b.Do(func() {
		if tunnel, err = net.InterfaceByName("tunnel"); err != nil {
			return
		}
		var l link.Link
		if l, err = link.AttachTCX(link.TCXOptions{Interface: tunnel.Index, Program: j.fast.Uplink, Attach: ebpf.AttachTCXIngress}); err == nil {
			b.Cleanup(func() { l.Close() })
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	send := func(family []byte, packet []byte) {
		b.Helper()
		header := append(append([]byte(nil), tunnel.HardwareAddr...), 2, 0, 0, 0, 0, 9)
		sent := b.translated()
		b.sendRaw(far, "tunnel", slices.Concat(header, family, packet))
		for range 500 {
			if b.translated() > sent {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		b.Errorf("a packet whose sum is known is not translated: %x", packet)
	}
	send([]byte{8, 0}, udp4(8))
	edge := generate.EdgeWorlds()[0]
	newPair(b.T, b.rig, edge, b.f)
	send([]byte{0x86, 0xdd}, fabricPacket(edge, 8))
}

// translated is how many packets the program at an uplink has.
func (b *branchRun) translated() uint64 {
	c, err := b.f.Counters()
	if err != nil {
		b.Fatal(err)
	}
	return c.Uplink[Translated].Packets
}

// sendRaw sends a frame by a device of a namespace.
func (b *branchRun) sendRaw(ns *netns.NS, device string, frame []byte) {
	b.Helper()
	var err error
	ns.Do(func() {
		var from *net.Interface
		var socket int
		if from, err = net.InterfaceByName(device); err != nil {
			return
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != nil {
			return
		}
		defer unix.Close(socket)
		err = unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: from.Index})
	})
	if err != nil {
		b.Fatal(err)
	}
}
