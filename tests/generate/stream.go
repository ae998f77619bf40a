package generate

import (
	"math/rand/v2"

	"github.com/natless/natless/tests/reference"
)

// Stream makes packets quickly: each new one of the generator's comes back many
// times, changed in a few places. It hands out a buffer of its own, which the
// next call overwrites.
type Stream struct {
	*Generator
	source *rand.PCG
	small  [poolSize]reference.Packet // at most smallest bytes long
	large  [poolSize]reference.Packet
	buf    []byte
}

const (
	poolSize = 32
	smallest = 1500 // the longest of the small
	longest  = 40 + 65535 + 64
)

// NewStream makes a stream for one world.
func NewStream(w World) *Stream {
	source := rand.NewPCG(0, 0)
	return &Stream{Generator: &Generator{Rand: rand.New(source), World: w}, source: source, buf: make([]byte, longest)}
}

// Start begins anew: the seeds decide all that follows.
func (s *Stream) Start(seed, episode uint64) {
	s.source.Seed(seed, episode)
	for i := range s.small {
		s.small[i], s.large[i] = s.fresh(), reference.Packet{}
	}
}

// fresh is a new packet.
func (s *Stream) fresh() reference.Packet {
	if s.World.Inside() && s.chance(40) {
		return s.NextInside()
	}
	if s.World.Edge.Enabled() && s.chance(50) {
		return s.NextFabric()
	}
	if s.chance(50) {
		return s.Next4()
	}
	return s.Next6()
}

// Next is the next packet.
func (s *Stream) Next() reference.Packet {
	switch n := s.IntN(64); {
	case n == 1:
		p := s.fresh()
		s.keep(p)
		return s.copied(p)
	case n == 2 && s.IntN(4) == 0:
		if p := s.large[s.IntN(poolSize)]; p.Bytes != nil {
			return s.changed(p)
		}
	case n == 3:
		return s.copied(s.small[s.IntN(poolSize)])
	}
	return s.changed(s.small[s.IntN(poolSize)])
}

func (s *Stream) keep(p reference.Packet) {
	switch {
	case len(p.Bytes) == 0:
	case len(p.Bytes) <= smallest:
		s.small[s.IntN(poolSize)] = p
	default:
		s.large[s.IntN(poolSize)] = p
	}
}

func (s *Stream) copied(p reference.Packet) reference.Packet {
	return reference.Packet{Bytes: s.buf[:copy(s.buf, p.Bytes)], Offload: p.Offload, From: p.From}
}

// changed is p with up to four changes, and mostly repaired where one has broken
// what no packet would get past the door with.
func (s *Stream) changed(old reference.Packet) reference.Packet {
	p := s.copied(old)
	for n := 1 + s.IntN(4); n > 0; n-- {
		if n > 2 && s.chance(50) {
			continue
		}
		s.Change(&p)
	}
	if len(p.Bytes) == 0 {
		p.Bytes = s.buf[:1]
	}
	if s.IntN(16) != 0 {
		repairICMP(p.Bytes)
	}
	if s.IntN(16) != 0 {
		Repair(p.Bytes)
	}
	return p
}
