package conformance

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// episodeSteps is how many steps an episode has: each a packet, or a few that
// belong together.
const episodeSteps = 4096

// Of all packets, one in so many is held against gopacket, which is slow.
const soundEvery = 256

// episode is a run of packets through both translators of one world. A seed and
// a number decide all of it, and the one before it leaves nothing behind.
type episode struct {
	*pair
	*generate.Stream
	now      int64
	packets  int64
	verdicts [2][256]int64 // from IPv6, from IPv4

	recorded []packetAt // what was given so far, where recording
	record   bool
}

// packetAt is a packet and when it comes, in nanoseconds since the start.
type packetAt struct {
	at int64
	reference.Packet
}

func newEpisodes(p *pair) *episode {
	return &episode{pair: p, Stream: generate.NewStream(p.world), now: 1}
}

// run gives all packets of an episode to both. Its error is the first difference.
func (e *episode) run(seed, number uint64, rules map[string]int) error {
	// A minute later nothing is left of the episode before.
	begin := e.now + int64(time.Minute)
	e.now = begin
	e.recorded = e.recorded[:0]
	e.slow = reference.New(e.world.World)
	e.slow.Rules = rules
	e.pair.setTime(e.now)
	e.Start(seed, number)
	for range episodeSteps {
		if err := e.step(begin); err != nil {
			return err
		}
	}
	return nil
}

func (e *episode) step(begin int64) error {
	switch e.IntN(100) {
	case 0:
		return e.datagram(begin)
	case 1:
		return e.ping(begin)
	case 2:
		e.wait(time.Millisecond)
	case 3:
		if e.IntN(20) == 0 {
			return e.flood(begin)
		}
	}
	_, err := e.give(e.Next(), begin)
	return err
}

// give lets both translate a packet, and looks at the result.
func (e *episode) give(in reference.Packet, begin int64) (result, error) {
	if e.record {
		e.recorded = append(e.recorded, packetAt{e.now - begin, reference.Packet{Bytes: slices.Clone(in.Bytes), Offload: in.Offload, From: in.From}})
	}
	r, err := e.pair.check(in)
	e.packets++
	from := 0
	if len(in.Bytes) > 0 && in.Bytes[0]>>4 == 4 {
		from = 1
	}
	e.verdicts[from][r.verdict]++
	if err == nil && e.packets%soundEvery == 0 {
		err = e.judge(in, r)
	}
	return r, err
}

// judge holds a result against what every result must be.
func (p *pair) judge(in reference.Packet, r result) error {
	if len(in.Bytes) == 0 {
		return nil
	}
	if err := sound(in, r); err != nil {
		return &difference{"unsound " + r.verdict.String(), err.Error() + "\n" + describe(in)}
	}
	if err := p.circles(in, r); err != nil {
		return &difference{"circles", err.Error() + "\n" + describe(in)}
	}
	return nil
}

// wait lets time pass: never so that a limit is met to the nanosecond.
func (e *episode) wait(d time.Duration) {
	e.now += int64(d)
	e.setTime(e.now)
}

// datagram sends a datagram in fragments.
func (e *episode) datagram(begin int64) error {
	for _, piece := range e.Datagram() {
		if e.IntN(20) == 0 {
			e.Change(&piece)
		}
		if _, err := e.give(piece, begin); err != nil {
			return err
		}
		switch e.IntN(30) {
		case 0:
			e.wait(1500 * time.Millisecond) // what is held is forgotten
		case 1:
			e.wait(31 * time.Second) // so is everything
		}
	}
	e.wait(time.Millisecond)
	return nil
}

// flood sends more fragments of one datagram than are held, now and a second later.
func (e *episode) flood(begin int64) error {
	pieces := e.Datagram()
	for _, piece := range pieces {
		if at := offsetOf(piece.Bytes); at == 0 || len(piece.Bytes) < 700 {
			continue
		}
		for n := range 200 {
			if _, err := e.give(piece, begin); err != nil {
				return err
			}
			if n%100 == 99 {
				e.wait(time.Second + time.Duration(e.IntN(3)-1)*time.Millisecond)
			}
		}
		break
	}
	for _, piece := range pieces {
		if _, err := e.give(piece, begin); err != nil {
			return err
		}
	}
	return nil
}

// ping sends an echo request and the answer to what became of it.
func (e *episode) ping(begin int64) error {
	got, err := e.give(e.Ping(), begin)
	if err != nil || got.verdict != translator.Forward4 && got.verdict != translator.Hairpin && got.verdict != translator.Pass4 || len(got.packets) != 1 {
		return err
	}
	if got.verdict == translator.Pass4 && e.IntN(4) == 0 {
		_, err = e.give(e.Expired(got.packets[0]), begin)
		return err
	}
	if b := got.packets[0].Bytes; b[0]>>4 == 6 && b[6] == 58 || b[0]>>4 == 4 && b[9] == 1 {
		_, err = e.give(e.Pong(got.packets[0]), begin)
	}
	return err
}

// offsetOf is where a fragment begins.
func offsetOf(b []byte) uint16 {
	if b[0]>>4 == 6 {
		return binary.BigEndian.Uint16(b[42:]) >> 3
	}
	return binary.BigEndian.Uint16(b[6:]) & 0x1fff
}
