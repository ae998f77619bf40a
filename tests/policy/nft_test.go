//go:build linux

package policy

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// The flags of a long run (make differential-policy). A failure names the seed.
var (
	packetsFlag = flag.Int("packets", 4000, "how many packets each way")
	seedFlag    = flag.Uint64("seed", 1, "what decides them")
)

// atOnce is how many packets are judged by one rule set: their identifications tell
// them apart.
const atOnce = 2000

// subject is a workload that both judge.
type subject struct {
	name   string
	m      mapping.Mapping
	client ports.Range
	ports  []uint16 // that packets have
}

func subjects() []subject {
	whole := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")}
	share := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:6::3/128"), IPv4: netip.MustParsePrefix("198.51.100.9/32"), Ports: ports.MustParse("80,1140,4096-5119,8080")}
	inside := func(m mapping.Mapping) mapping.Mapping { m.Inside = true; return m }
	a := []uint16{1100, 1120, 1145, 1160, 1200, 1300, 22, 32767, 32768, 50000, 65535}
	b := []uint16{80, 1140, 4096, 4700, 5119, 8080}
	return []subject{{"whole", whole, ports.Range{First: 32768, Last: 65535}, a}, {"share", share, ports.Range{First: 4096, Last: 5119}, b},
		{"whole, inside", inside(whole), ports.Range{First: 32768, Last: 65535}, a}, {"share, inside", inside(share), ports.Range{First: 4096, Last: 5119}, b}}
}

// TestAgainstNFTables: policies as the translator judges by them, and as nftables does.
func TestAgainstNFTables(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nft", "sysctl")
	k := newKernel(t)
	judged := map[string]int{}
	for round := 0; round*atOnce < *packetsFlag; round++ {
		for i, s := range subjects() {
			seed := *seedFlag<<20 + uint64(round)<<4 + uint64(i)
			r := &random{Rand: rand.New(rand.NewPCG(seed, 9))}
			all := r.policies()
			k.load(ruleset(all, s.m.IPv4.Addr(), s.client))
			for _, out := range []bool{true, false} {
				compare(t, k, r, s, all, out, judged)
			}
			if t.Failed() {
				t.Fatalf("repeat with -seed %d, round %d, %s", *seedFlag, round, s.name)
			}
		}
	}
	t.Log(judged)
	for _, what := range []string{"allowed", "denied", "denied-fragment"} {
		if judged[what] < *packetsFlag/200 {
			t.Errorf("only %d are %s: that proves little", judged[what], what)
		}
	}
}

// compare has both judge as many packets as go into a quarter of a round.
func compare(t *testing.T, k *kernel, r *random, s subject, all []policy.Policy, out bool, judged map[string]int) {
	w := workerFor(t, s.m, all)
	const n = atOnce / 4
	packets, ours := make([]packet, n), make([]translator.Verdict, n)
	for i := range packets {
		packets[i] = somePacket(r, s, out)
	}
	passed := k.forwards(packets)
	for i, p := range packets {
		ours[i] = p.translated(w, s, out)
		denied := ours[i].Reason() == translator.Denied || ours[i].Reason() == translator.DeniedFragment
		switch {
		case denied == passed[i]:
			t.Errorf("%s, out %v: %v, and nftables lets it pass: %v\n%x\n%+v", s.name, out, ours[i], passed[i], p.ipv4(uint16(i+1)), all)
			return
		case denied:
			judged[ours[i].Reason().String()]++
		case ours[i].IsForward():
			judged["allowed"]++
		default:
			t.Errorf("%s, out %v: %v\n%x", s.name, out, ours[i], p.ipv4(1))
			return
		}
	}
}

func workerFor(t *testing.T, m mapping.Mapping, all []policy.Policy) *translator.Worker {
	t.Helper()
	table, err := policy.Compile(all, policy.NewLedger())
	if err != nil {
		t.Fatal(err)
	}
	n, err := table.Number(policy.Workload{})
	if err == nil {
		table, err = table.With(n)
	}
	m.Policy = n
	mappings, wrong := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), []mapping.Mapping{m})
	if err = errors.Join(err, wrong); err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: netip.MustParseAddr("192.0.0.9"), IPv6: netip.MustParseAddr("2001:db8::1"), AllowNonGlobal: true,
		Policy: table}, mappings)
	if err != nil {
		t.Fatal(err)
	}
	return tr.NewWorker()
}

// packet is one in both families.
type packet struct {
	src, dst netip.Addr // as IPv4
	proto    uint8
	l4       []byte
	fragment uint16 // flags and offset, in IPv4's words
}

func somePacket(r *random, s subject, out bool) (p packet) {
	remote := netip.MustParseAddr(remotes[r.IntN(len(remotes))])
	if r.IntN(8) == 0 {
		remote = netip.AddrFrom4([4]byte{byte(1 + r.IntN(9)), byte(r.Uint32()), byte(r.Uint32()), byte(1 + r.IntN(250))})
	}
	far := uint16(1100 + 20*r.IntN(25) + 10*r.IntN(3)/2)
	local := s.ports[r.IntN(len(s.ports))]
	p.src, p.dst = remote, s.m.IPv4.Addr()
	sport, dport := far, local
	if out {
		p.src, p.dst = p.dst, p.src
		sport, dport = local, far
	}
	protos := []uint8{6, 6, 6, 17, 17, 132, 136, 33, 1, 47}
	if !s.m.Ports.IsZero() {
		protos = protos[:9] // who shares an address has no other
	}
	p.proto = protos[r.IntN(len(protos))]
	p.l4 = make([]byte, 32)
	for i := range p.l4 {
		p.l4[i] = byte(r.Uint32())
	}
	binary.BigEndian.PutUint16(p.l4, sport)
	binary.BigEndian.PutUint16(p.l4[2:], dport)
	switch p.proto {
	case 6:
		p.l4[12], p.l4[13] = 5<<4, []byte{2, 16, 18, 24, 17, 4, 20}[r.IntN(7)]
	case 17:
		binary.BigEndian.PutUint16(p.l4[4:], uint16(len(p.l4)))
		p.l4[6] |= 1
	case 136:
		p.l4[4], p.l4[5], p.l4[6] = 0, 8, p.l4[6]|1
	case 1:
		p.l4[0], p.l4[1] = 8*byte(r.IntN(2)), 0
		binary.BigEndian.PutUint16(p.l4[4:], local)
		return p
	}
	if r.IntN(4) == 0 && (s.m.Ports.IsZero() || out) { // to a share, a first fragment would have to come before
		p.fragment = []uint16{0x2000, 1, 2, 3, 100, 0x2000 | 100}[r.IntN(6)]
		if p.proto == 17 && p.fragment == 0x2000 {
			binary.BigEndian.PutUint16(p.l4[4:], 1000)
		}
	}
	return p
}

// sum16 is the ones' complement sum, inverted.
func sum16(parts ...[]byte) uint16 {
	n := uint32(0)
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			n += uint32(b[i])<<8 | uint32(b[i+1])
			n = n>>16 + n&0xffff
		}
	}
	return ^uint16(n)
}

func (p packet) ipv4(id uint16) []byte {
	b := make([]byte, 20, 20+len(p.l4))
	b[0], b[8], b[9] = 0x45, 64, p.proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(p.l4)))
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], p.fragment)
	copy(b[12:], p.src.AsSlice())
	copy(b[16:], p.dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], sum16(b))
	return append(b, p.l4...)
}

func (p packet) ipv6(s subject) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, p.proto, 64
	copy(b[8:], s.m.IPv6.Addr().AsSlice())
	copy(b[24:], []byte{0, 0x64, 0xff, 0x9b})
	copy(b[36:], p.dst.AsSlice())
	l4 := append([]byte(nil), p.l4...)
	if p.proto == 1 {
		b[6] = 58
		l4[0] = 128 + 1 - l4[0]/8
	}
	if p.fragment != 0 {
		h := []byte{b[6], 0, 0, 0, 0, 0, 0, 7}
		binary.BigEndian.PutUint16(h[2:], p.fragment<<3|p.fragment>>13&1)
		b[6] = 44
		l4 = append(h, l4...)
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(l4)))
	return append(b, l4...)
}

// translated is what the translator says of a packet on its way.
func (p packet) translated(w *translator.Worker, s subject, out bool) translator.Verdict {
	b := p.ipv4(9)
	if out && !s.m.Inside {
		b = p.ipv6(s)
	}
	buf := make([]byte, translator.Headroom+len(b)+translator.Tailroom)
	q := &translator.Packet{Buf: buf, Start: translator.Headroom, End: translator.Headroom + copy(buf[translator.Headroom:], b)}
	if out && s.m.Inside {
		return w.Pass4(q, tagOf(w, s))
	}
	return w.Translate(q)
}

func tagOf(w *translator.Worker, s subject) mapping.Tag {
	table, _ := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), []mapping.Mapping{s.m})
	return table.Get(s.m.IPv6).Tag()
}

// kernel forwards from one tun device to another, by rules.
type kernel struct {
	*netns.NS
	t           *testing.T
	left, right *os.File
	file        string
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	k := &kernel{NS: netns.New(t, "judge"), t: t, file: t.TempDir() + "/rules"}
	var err error
	k.Do(func() {
		if k.left, err = tun("left"); err == nil {
			k.right, err = tun("right")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.left.Close(); k.right.Close() })
	k.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
		"net.ipv4.conf.left.rp_filter=0", "net.ipv4.conf.right.rp_filter=0")
	for _, d := range []string{"left", "right"} {
		k.IP("link set " + d + " up txqueuelen 10000")
	}
	k.IP("addr add 10.255.0.1/32 dev left")
	k.IP("route add default dev right")
	return k
}

func tun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tun %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// load puts a rule set into force.
func (k *kernel) load(rules string) {
	k.t.Helper()
	if err := os.WriteFile(k.file, []byte("flush ruleset\n"+rules), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.Run("nft", "-f", k.file)
}

// last is the identification of a packet that is let pass, behind all others: when it has
// come, so have they.
const last = 0xffff

// forwards says which packets the kernel forwards.
func (k *kernel) forwards(packets []packet) []bool {
	k.t.Helper()
	passed := make([]bool, len(packets))
	end := packet{src: netip.MustParseAddr("198.18.0.1"), dst: netip.MustParseAddr("198.18.0.2"), proto: 253}
	k.Run("nft", "insert rule ip judge forward ip saddr 198.18.0.1 accept")
	for i, p := range packets {
		if _, err := k.left.Write(p.ipv4(uint16(i + 1))); err != nil {
			k.t.Fatal(err)
		}
	}
	if _, err := k.left.Write(end.ipv4(last)); err != nil {
		k.t.Fatal(err)
	}
	if err := k.right.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		k.t.Fatal(err)
	}
	b := make([]byte, 2048)
	for {
		n, err := k.right.Read(b)
		if err != nil {
			k.t.Fatalf("what the kernel forwards: %v", err)
		}
		if n < 20 || b[0]>>4 != 4 {
			continue // IPv6 of the kernel's own
		}
		switch id := binary.BigEndian.Uint16(b[4:]); {
		case id == last:
			return passed
		case int(id) <= len(packets) && id > 0:
			passed[id-1] = true
		}
	}
}
