//go:build linux

package fastpath

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
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
	p := reference.Packet{Bytes: s.buf[:copy(s.buf[:], old.Bytes)]}
	b := p.Bytes
	for range s.IntN(3) {
		switch s.IntN(8) {
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

// kinds counts what was translated, by what it is.
type kinds struct {
	mu     sync.Mutex
	counts map[string]int
}

func (k *kinds) add(kind string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counts[kind]++
}

// kind names a plain packet: its way, its protocol, what its mapping is like,
// and whether it is a superpacket.
func (j *judge) kind(in reference.Packet) string {
	b, way, name := in.Bytes, "4→6", ""
	var e *mapping.Entry
	var upper []byte
	proto := b[9]
	if b[0]>>4 == 6 {
		way, proto, upper = "6→4", b[6], b[40:]
		e = j.table.Lookup6(address(b[8:]))
	} else {
		dst := binary.BigEndian.Uint32(b[16:])
		upper = b[20:]
		if e = j.table.Lookup4(dst); e.Shared() {
			at := 2
			if proto == 1 {
				at = 4
			}
			e = j.table.Port(e, dst, binary.BigEndian.Uint16(upper[at:]))
		}
	}
	switch {
	case proto == 6:
		name = "tcp"
	case proto == 17:
		name = "udp"
	case upper[0] == 8 || upper[0] == 128:
		name = "echo request"
	default:
		name = "echo reply"
	}
	m := e.Mapping()
	switch {
	case m.Ports.Len() > 1:
		name += " port set with holes"
	case !m.Ports.IsZero():
		name += " port range"
	case m.IPv4.Bits() < 32:
		name += " subnet"
	default:
		name += " address"
	}
	if in.Offload.GSOSize > 0 {
		name += " super"
	}
	return way + " " + name
}

// allKinds are those that there must be.
func allKinds() (list []string) {
	for _, way := range []string{"4→6", "6→4"} {
		for _, proto := range []string{"tcp", "udp", "echo request", "echo reply"} {
			for _, m := range []string{"address", "subnet", "port range", "port set with holes"} {
				list = append(list, way+" "+proto+" "+m)
				if len(proto) == 3 {
					list = append(list, way+" "+proto+" "+m+" super")
				}
			}
		}
	}
	return list
}

// cases is how many packets TestDifferential translates.
const cases = 2_000_000

// TestDifferential translates generated and changed packets by the program and
// by the translator: the program gives the same bytes or leaves the packet as it
// is, and leaves none that is plain.
func TestDifferential(t *testing.T) {
	r := newRig(t)
	worlds, n := prefixed(), cases
	if testing.Short() {
		n /= 50
	}
	seen := kinds{counts: map[string]int{}}
	var translated, must, run, refused atomic.Int64
	var pairs []*pair
	for _, w := range worlds {
		pairs = append(pairs, newPair(t, r, w, loaded(t)))
	}
	began := time.Now()
	var wait sync.WaitGroup
	for i := range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			r.Do(func() {
				for k := i; k < len(pairs); k += runtime.GOMAXPROCS(0) {
					p := pairs[k]
					s, j := newSource(p.world, uint64(k), 3000), p.judge()
					for range n / len(worlds) {
						in, segments := s.next()
						o, err := j.check(in, segments)
						if err != nil {
							t.Errorf("%v\n%s", err, j.describe(in, segments))
							return
						}
						count(&run, !o.refused)
						count(&refused, o.refused)
						count(&translated, o.translated)
						count(&must, o.must)
						if o.translated {
							seen.add(p.world.Name)
							seen.add(j.kind(in))
						}
					}
				}
			})
		})
	}
	wait.Wait()
	rate := float64(run.Load()) / time.Since(began).Seconds()
	t.Logf("%d packets, %.0f a second: %d translated, of which %d had to be; %d too short to be run",
		run.Load(), rate, translated.Load(), must.Load(), refused.Load())
	for _, w := range worlds {
		if seen.counts[w.Name] == 0 {
			t.Errorf("nothing was translated in world %s", w.Name)
		}
	}
	for _, kind := range allKinds() {
		if seen.counts[kind] == 0 {
			t.Errorf("no packet was translated that is %s", kind)
		}
		t.Logf("%8d %s", seen.counts[kind], kind)
	}
	if translated.Load() < run.Load()/10 {
		t.Errorf("only %d of %d packets were translated: that proves little", translated.Load(), run.Load())
	}
}

func count(n *atomic.Int64, yes bool) {
	if yes {
		n.Add(1)
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
