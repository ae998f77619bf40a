package dataplane

import (
	"sync/atomic"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// Direction is where a packet was going when it was read.
type Direction uint8

// The directions; hairpins and what is for the local stack count as what they came in
// as. What stays IPv4, from or for a workload that has it inside, is Across.
const (
	To4 Direction = iota
	To6
	Across
	NumDirections
)

var directionNames = [NumDirections]string{To4: "6→4", To6: "4→6", Across: "4→4"}

func (d Direction) String() string { return directionNames[d] }

// Count is a number of packets, superpackets counting as one, and their bytes
// from the IP header on, as they were read.
type Count struct{ Packets, Bytes uint64 }

// Snapshot is what was counted since the start, by all queues and devices
// together.
type Snapshot struct {
	// Verdicts counts by verdict, Replied left aside. A superpacket that was
	// segmented counts under Segment, and each of its segments again under its
	// own verdict.
	Verdicts [NumDirections][translator.NumVerdicts]Count
	// Replied counts, of these, the packets that were answered by an ICMP error.
	Replied [NumDirections][translator.NumVerdicts]uint64

	// ErrorsLimited counts packets whose senders were not told, for a budget of
	// ICMP errors was used up.
	ErrorsLimited [NumDirections]translator.ErrorsLimited

	Superpackets  uint64 // superpackets read
	Fragments     uint64 // fragments made
	LocalDropped  uint64 // packets that the local stack did not take
	CrossDropped  uint64 // packets that were for the other device, and did not get there
	Unsegmentable uint64 // superpackets that were to be segmented and made no sense
	Reopened      uint64 // times that the device was made anew
	Device        tun.Stats
	Tracker       translator.TrackerStats
}

type count struct{ packets, bytes atomic.Uint64 }

// counters of one loop, on cache lines of their own. Only the loop adds; an
// atomic addition to a line that nobody else writes costs some 5 ns.
type counters struct {
	_             [64]byte
	verdicts      [NumDirections][translator.NumVerdicts]count
	replied       [NumDirections][translator.NumVerdicts]atomic.Uint64
	superpackets  atomic.Uint64
	fragments     atomic.Uint64
	localDropped  atomic.Uint64
	crossDropped  atomic.Uint64
	unsegmentable atomic.Uint64
	load          atomic.Uint64 // of placement
	_             [64]byte
}

func (c *counters) add(d Direction, v translator.Verdict, size int) {
	n := &c.verdicts[d][v.Reason()]
	n.packets.Add(1)
	n.bytes.Add(uint64(size))
	if v.Replied() {
		c.replied[d][v.Reason()].Add(1)
	}
}

func (c *counters) addTo(s *Snapshot) {
	for d := range c.verdicts {
		for v := range c.verdicts[d] {
			s.Verdicts[d][v].Packets += c.verdicts[d][v].packets.Load()
			s.Verdicts[d][v].Bytes += c.verdicts[d][v].bytes.Load()
			s.Replied[d][v] += c.replied[d][v].Load()
		}
	}
	s.Superpackets += c.superpackets.Load()
	s.Fragments += c.fragments.Load()
	s.LocalDropped += c.localDropped.Load()
	s.CrossDropped += c.crossDropped.Load()
	s.Unsegmentable += c.unsegmentable.Load()
}
