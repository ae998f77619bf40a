//go:build linux

package fastpath

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// prefixed are the worlds that have a fast path.
func prefixed() (list []generate.World) {
	for _, w := range generate.Worlds() {
		if w.Prefix.IsValid() {
			list = append(list, w)
		}
	}
	return list
}

// source makes packets: new ones from the generator, and very many that differ
// from those in little.
type source struct {
	*generate.Generator
	pool []reference.Packet
	buf  [maxRun]byte
}

func newSource(w generate.World, seed uint64, n int) *source {
	s := &source{Generator: generate.New(w, seed)}
	for len(s.pool) < n {
		p := s.Next4()
		if len(s.pool)%2 == 0 {
			p = s.Next6()
		}
		if w.Edge.Enabled() && len(s.pool)%16 > 0 {
			p = s.Next6()
			if len(s.pool)%2 == 0 {
				p = s.NextFabric()
			}
		}
		if w.Inside() && len(s.pool)%5 < 2 {
			p = s.NextInside()
		}
		if len(p.Bytes) > 0 && len(p.Bytes) <= maxRun && (p.Bytes[0]>>4 == 4 || p.Bytes[0]>>4 == 6) {
			p.Offload = translator.Offload{}
			s.pool = append(s.pool, p)
		}
	}
	return s
}

// next is a packet of the pool with a change, and the number of its segments.
func (s *source) next() (reference.Packet, int) {
	old := s.pool[s.IntN(len(s.pool))]
	p := reference.Packet{Bytes: s.buf[:copy(s.buf[:], old.Bytes)], From: old.From}
	b := p.Bytes
	for range s.IntN(3) {
		switch s.IntN(12) {
		case 8, 9, 10, 11: // a field of this header or that
			s.Change(&p)
			p.Offload = translator.Offload{}
			b = p.Bytes
		case 0:
			b[s.IntN(min(len(b), 64))] ^= 1 << s.IntN(8)
		case 1:
			b[s.IntN(min(len(b), 64))] = byte(s.Uint32())
		case 2: // another size
			p.Bytes = s.buf[:max(1, min(maxRun, len(b)+s.IntN(64)-32))]
			b = p.Bytes
		case 3:
			resize(b)
		default: // of the payload, ports or addresses: all checksums stay what they are
			at := min(len(b), 20+s.IntN(44))
			binary.BigEndian.PutUint16(s.buf[at:], uint16(s.Uint32()))
		}
	}
	b[0] = old.Bytes[0]&0xf0 | b[0]&0xf
	if s.IntN(8) != 0 {
		generate.Repair(b)
	}
	if s.IntN(6) != 0 {
		return p, 0
	}
	return super(s.Rand, p)
}

// resize makes the length in the header that of the packet.
func resize(b []byte) {
	if len(b) >= 40 && b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	} else if len(b) >= 20 && b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	}
}

// super makes a superpacket of what can be one, at times with a wrong number of
// segments.
func super(r *rand.Rand, p reference.Packet) (reference.Packet, int) {
	b, proto, at, gso := p.Bytes, byte(0), 0, uint8(0)
	switch {
	case b[0]>>4 == 4 && len(b) > 20:
		proto, at, gso = b[9], 20, translator.GSOTCPv4
	case b[0]>>4 == 6 && len(b) > 40:
		proto, at, gso = b[6], 40, translator.GSOTCPv6
	}
	switch proto {
	case 6:
		p.Offload = translator.Offload{GSOType: gso, GSOSize: uint16(1 + r.IntN(1500))}
	case 17:
		p.Offload = translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: uint16(1 + r.IntN(1500))}
	default:
		return p, 0
	}
	payload := max(len(b)-at-8, 0)
	return p, (payload+int(p.Offload.GSOSize)-1)/int(p.Offload.GSOSize) + r.IntN(12)/11
}

// kind is what a translated packet is: its way, its protocol, what its mapping is
// like, and whether it is a superpacket.
type kind [4]uint8

var kindNames = [4][]string{
	{"4→6", "6→4", "from the fabric", "to the fabric"},
	{" tcp", " udp", " echo request", " echo reply"},
	{" address", " subnet", " port range", " port set with holes"},
	{"", " super"},
}

func (k kind) String() (name string) {
	for i, n := range k {
		name += kindNames[i][n]
	}
	return name
}

// index numbers the kinds.
func (k kind) index() int { return int(k[0]<<5 | k[1]<<3 | k[2]<<1 | k[3]) }

const numKinds = 4 * 4 * 4 * 2

// allKinds are those that there must be: no echo message is a superpacket.
func allKinds() (list []kind) {
	for i := range uint8(numKinds) {
		if k := (kind{i >> 5, i >> 3 & 3, i >> 1 & 3, i & 1}); k[1] < 2 || k[3] == 0 {
			list = append(list, k)
		}
	}
	return list
}

// kind names a plain packet.
func (j *judge) kind(in reference.Packet) (k kind) {
	b := in.Bytes
	var e *mapping.Entry
	upper, proto := b[20:], b[9]
	if b[0]>>4 == 6 {
		k[0] = 1
		proto, upper = b[6], b[40:]
		e = j.table.Lookup6(address(b[8:]))
		if j.world.Edge.Enabled() {
			k[0] = 3
		}
		if block := j.blockOf(in); block != nil {
			k[0] = 2
			e = j.owner(block.To4(address(b[24:])), proto, upper)
		}
	} else {
		e = j.owner(binary.BigEndian.Uint32(b[16:]), proto, upper)
	}
	switch {
	case proto == 6:
	case proto == 17:
		k[1] = 1
	case upper[0] == 8 || upper[0] == 128:
		k[1] = 2
	default:
		k[1] = 3
	}
	switch m := e.Mapping(); {
	case m.Ports.Len() > 1:
		k[2] = 3
	case !m.Ports.IsZero():
		k[2] = 2
	case m.IPv4.Bits() < 32:
		k[2] = 1
	}
	if in.Offload.GSOSize > 0 {
		k[3] = 1
	}
	return k
}

// owner is the mapping that a plain packet is for, by its IPv4 address and its upper layer.
func (j *judge) owner(dst uint32, proto byte, upper []byte) *mapping.Entry {
	e := j.table.Lookup4(dst)
	if !e.Shared() {
		return e
	}
	at := 2
	if proto == 1 || proto == 58 {
		at = 4
	}
	return j.table.Port(e, dst, binary.BigEndian.Uint16(upper[at:]))
}

// The flags of a long run (make differential-bpf). A failure names the seed and
// the episode that repeat it, with -packets 1.
var (
	packetsFlag = flag.Int64("packets", 500_000, "how many packets TestDifferential translates")
	seedFlag    = flag.Uint64("seed", 7915, "what decides them")
	episodeFlag = flag.Uint64("episode", 0, "the episode that it starts with")
)

// episodePackets is how many packets come from one seed: enough that to enter a
// namespace, and to make the packets of the pool, takes no time.
const episodePackets = 8192

// tally is what a run has met.
type tally struct {
	run, refused, translated, must int64
	kinds                          [numKinds]int64
	customers                      [2]int64      // of them, to CEs and from CEs
	verdicts                       [2][256]int64 // of the translator, for what the program passed on and what it translated
}

func (t *tally) add(o *tally) {
	t.run, t.refused, t.translated, t.must = t.run+o.run, t.refused+o.refused, t.translated+o.translated, t.must+o.must
	t.customers[0], t.customers[1] = t.customers[0]+o.customers[0], t.customers[1]+o.customers[1]
	for i, n := range o.kinds {
		t.kinds[i] += n
	}
	for i := range o.verdicts {
		for v, n := range o.verdicts[i] {
			t.verdicts[i][v] += n
		}
	}
}

// comparison is a run of TestDifferential: episodes, dealt out to all processors.
// Each packet is a system call of its own: the kernel repeats a run with the same
// packet alone, and takes many of them (BPF_F_TEST_XDP_LIVE_FRAMES) for XDP alone.
type comparison struct {
	t *testing.T
	*rig
	pairs   []*pair
	ways    []uint8       // of kinds
	most    int64         // packets
	next    atomic.Uint64 // episode
	packets atomic.Int64
	stop    atomic.Bool

	mu     sync.Mutex
	all    tally
	worlds map[string]int64 // translated
}

// TestDifferential translates generated and changed packets by the program and
// by the translator: the program gives the same bytes or leaves the packet as it
// is, and leaves none that is plain.
func TestDifferential(t *testing.T) {
	t.Parallel()
	c := newComparison(t, *packetsFlag, 0, 1)
	for _, w := range generate.AllWorlds() {
		switch {
		case !w.Prefix.IsValid() || w.Client || w.Name == "budget":
			// No fast path, or one of another world.
		case w.Host4.IsValid() && !w.Inside():
			c.pairs = append(c.pairs, c.asking(w))
		default:
			if w.Config.MTU4 > 0 {
				w.Config.MTU4 = max(w.Config.MTU4, 1280) // what IPv4 routers may have to cut, the programs leave to the daemon
			}
			c.pairs = append(c.pairs, newPair(t, c.rig, w, loaded(t)))
		}
	}
	c.run()
	for _, v := range []translator.Verdict{translator.Pass4, translator.Deliver4} {
		if c.all.verdicts[1][v] == 0 && c.most >= enough {
			t.Errorf("nothing was forwarded that is %v for the translator", v)
		}
	}
}

// TestDifferentialEdge is TestDifferential at the edge of a fabric without IPv4.
func TestDifferentialEdge(t *testing.T) {
	t.Parallel()
	c := newComparison(t, *packetsFlag, 2, 3)
	for _, w := range generate.EdgeWorlds() {
		c.pairs = append(c.pairs, newPair(t, c.rig, w, loaded(t)))
	}
	c.run()
	for _, v := range []translator.Verdict{translator.Denied, translator.Denied | translator.Replied, translator.Hairpin, translator.PortOutsideSet | translator.Replied} {
		if c.all.verdicts[0][v] == 0 && c.most >= enough {
			t.Errorf("nothing was passed on that is %v for the translator", v)
		}
	}
}

func newComparison(t *testing.T, packets int64, ways ...uint8) *comparison {
	return &comparison{t: t, rig: newRig(t), worlds: map[string]int64{}, ways: ways, most: packets}
}

// enough is how many packets there must be for one of each kind to be among them.
const enough = 400_000

func (c *comparison) run() {
	c.next.Store(*episodeFlag)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	defer signal.Stop(interrupted)
	began, ended := time.Now(), make(chan struct{})
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() { c.Do(c.work) })
	}
	go func() { wait.Wait(); close(ended) }()
	for tick := time.NewTicker(30 * time.Second); ; {
		select {
		case <-interrupted:
			c.stop.Store(true)
			continue
		case <-tick.C:
			n := c.packets.Load()
			rate := float64(n) / time.Since(began).Seconds()
			fmt.Fprintf(os.Stderr, "%d packets, %.0f a second, %v left\n", n, rate,
				time.Duration(float64(c.most-n)/rate*float64(time.Second)).Round(time.Second))
			continue
		case <-ended:
		}
		break
	}
	c.report(time.Since(began))
}

// asking is a world on a host that has routes to the translator's device: the
// programs ask for the way of each packet.
func (c *comparison) asking(w generate.World) *pair {
	c.IP("tuntap add natless0 mode tun")
	c.IP("link set natless0 up mtu 65521")
	for _, m := range w.Mappings {
		c.IP("route replace " + m.IPv4.String() + " dev natless0")
	}
	for _, to := range []string{w.Config.IPv4.String(), w.Config.IPv6.String(), w.Prefix.String()} {
		c.IP("route add " + to + " dev natless0")
	}
	device := 0
	c.Do(func() {
		if i, err := net.InterfaceByName("natless0"); err == nil {
			device = i.Index
		}
	})
	w.Name += ", asking the host"
	f := loaded(c.t)
	p := newPair(c.t, c.rig, w, f)
	if err := f.SetHost(Host{Device: device, Via: c.up, Uplinks: [maxUplinks]int{c.up}}); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// work takes episodes until enough packets are translated.
func (c *comparison) work() {
	var judges []*judge
	for _, p := range c.pairs {
		judges = append(judges, p.judge())
	}
	for c.packets.Load() < c.most && !c.stop.Load() {
		number := c.next.Add(1) - 1
		j := judges[number%uint64(len(judges))]
		n, err := j.episode(*seedFlag, number)
		c.packets.Add(n.run)
		c.mu.Lock()
		c.all.add(&n)
		c.worlds[j.world.Name] += n.translated
		c.mu.Unlock()
		if err != nil {
			c.t.Errorf("repeat with -seed %d -episode %d -packets 1\n%v", *seedFlag, number, err)
			return
		}
	}
}

// episode is a number of packets that a seed and a number decide.
func (j *judge) episode(seed, number uint64) (n tally, err error) {
	s := newSource(j.world, seed<<24^number, 200)
	for range episodePackets {
		in, segments := s.next()
		o, err := j.check(in, segments)
		if err != nil {
			return n, fmt.Errorf("%w\n%s", err, j.describe(in, segments))
		}
		if o.refused {
			n.refused++
			continue
		}
		n.run++
		if !o.translated {
			n.verdicts[0][o.verdict]++
			continue
		}
		n.verdicts[1][o.verdict]++
		n.translated++
		if o.must {
			n.must++
		}
		if o.verdict == translator.Pass4 || o.verdict == translator.Deliver4 {
			continue
		}
		if j.customer(in) {
			n.customers[(in.Bytes[0]>>4-4)/2]++
			continue
		}
		n.kinds[j.kind(in).index()]++
	}
	return n, nil
}

func (c *comparison) report(took time.Duration) {
	a := &c.all
	c.t.Logf("seed %d, episodes %d to %d: %d packets in %v, %.0f a second: %d translated, of which %d had to be; %d too short to be run",
		*seedFlag, *episodeFlag, c.next.Load()-1, a.run, took.Round(time.Millisecond), float64(a.run)/took.Seconds(), a.translated, a.must, a.refused)
	for v := range 256 {
		if passed, translated := a.verdicts[0][v], a.verdicts[1][v]; passed+translated > 0 {
			c.t.Logf("%12d passed on %12d translated, for the translator %v", passed, translated, translator.Verdict(v))
		}
	}
	for _, k := range allKinds() {
		if !slices.Contains(c.ways, k[0]) {
			continue
		}
		c.t.Logf("%12d %v", a.kinds[k.index()], k)
		if a.kinds[k.index()] == 0 && c.most >= enough {
			c.t.Errorf("no packet was translated that is %v", k)
		}
	}
	c.t.Logf("%12d to CEs, %d from CEs", a.customers[0], a.customers[1])
	rules := slices.ContainsFunc(c.pairs, func(p *pair) bool { return len(p.world.Rules.All()) > 0 })
	if rules && (a.customers[0] == 0 || a.customers[1] == 0) && *packetsFlag >= 400_000 {
		c.t.Errorf("translated of CEs: %v", a.customers)
	}
	for _, p := range c.pairs {
		if c.worlds[p.world.Name] == 0 && c.most >= enough {
			c.t.Errorf("nothing was translated in world %s", p.world.Name)
		}
	}
	if a.translated < a.run/16 {
		c.t.Errorf("only %d of %d packets were translated: that proves little", a.translated, a.run)
	}
}

// FuzzFastPath is TestDifferential for packets that the fuzzer thinks of.
func FuzzFastPath(f *testing.F) {
	r := newRig(f)
	var judges []*judge
	for i, w := range prefixed() {
		judges = append(judges, newPair(f, r, w, loaded(f)).judge())
		for _, p := range newSource(w, uint64(i), 40).pool {
			f.Add(uint8(i), true, uint16(0), uint16(0), p.Bytes)
			if p, segments := super(rand.New(rand.NewPCG(1, 2)), p); segments > 0 {
				f.Add(uint8(i), true, p.Offload.GSOSize, uint16(segments), p.Bytes)
			}
		}
	}
	jobs, ready := make(chan func()), make(chan struct{})
	go r.Do(func() { // a fuzz target may not enter the namespace itself
		close(ready)
		for job := range jobs {
			job()
		}
	})
	<-ready
	f.Cleanup(func() { close(jobs) })
	f.Fuzz(func(t *testing.T, world uint8, repair bool, gso, segments uint16, b []byte) {
		if len(b) == 0 || len(b) > maxRun || b[0]>>4 != 4 && b[0]>>4 != 6 {
			return
		}
		in := reference.Packet{Bytes: append([]byte(nil), b...)}
		if repair {
			generate.Repair(in.Bytes)
		}
		if gso != 0 {
			in, _ = super(rand.New(rand.NewPCG(1, 2)), in)
			if in.Offload.GSOType != 0 {
				in.Offload.GSOSize = gso
			}
		}
		j, done := judges[int(world)%len(judges)], make(chan error)
		jobs <- func() {
			_, err := j.check(in, int(segments))
			done <- err
		}
		if err := <-done; err != nil {
			t.Errorf("%v\n%s", err, j.describe(in, int(segments)))
		}
	})
}
