//go:build linux

package metrics

import (
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
)

// ways are who translates: the daemon, or the kernel's fast path. A packet
// goes one of them, so that sums over both are right.
const wayDaemon = "daemon"

var (
	translatedPackets = desc("translated_packets_total", "Packets translated, a superpacket counting as one.", "direction", "way", "verdict")
	translatedBytes   = desc("translated_bytes_total", "Bytes of the packets translated, from the IP header on, as they came.",
		"direction", "way", "verdict")
	droppedPackets = desc("dropped_packets_total", "Packets refused, by the reason; see natless explain.", "direction", "way", "reason")
	droppedBytes   = desc("dropped_bytes_total", "Bytes of the packets refused.", "direction", "way", "reason")
	errorsSent     = desc("icmp_errors_sent_total", "Packets refused, of which the sender was told by an ICMP error.", "direction",
		"way", "reason")
	errorsLimited = desc("icmp_errors_limited_total", "Packets refused without an ICMP error, since a budget of such errors was used up.",
		"direction", "way", "kind", "budget")
	localPackets = desc("local_packets_total", "Packets for the translator's own addresses.", "direction", "way")
	segmented    = desc("segmented_superpackets_total", "Superpackets that had to be translated segment by segment.",
		"direction", "way")
	held = desc("held_fragments_total", "Fragments that came before the first of their datagram and were kept until it came.",
		"direction", "way")

	superpackets  = desc("superpackets_total", "Superpackets read from the device.")
	unsegmentable = desc("unsegmentable_superpackets_total", "Superpackets dropped because they were to be segmented and made no sense.")
	fragments     = desc("fragments_made_total", "IPv6 fragments made of IPv4 packets too long for IPv6.")
	tracked       = desc("fragment_tracker_datagrams", "Fragmented datagrams to shared addresses that the tracker knows.")
	trackedMost   = desc("fragment_tracker_capacity_datagrams", "Fragmented datagrams that the tracker can know.")
	evictions     = desc("fragment_tracker_evictions_total", "Fragmented datagrams that the tracker forgot early, for want of room.")
)

// directions in the order of the dataplane's.
var directions = [dataplane.NumDirections]dataplane.Direction{dataplane.To4, dataplane.To6, dataplane.Across}

func (c *Collector) verdicts(s sink, t dataplane.Snapshot) {
	for _, d := range directions {
		byVerdict(s, d.String(), wayDaemon, &t.Verdicts[d])
		for v, n := range t.Replied[d] {
			if v := translator.Verdict(v); v.IsDrop() && v != translator.FragmentHeld && v != translator.FirstUse {
				s.counter(errorsSent, n, d.String(), wayDaemon, v.String())
			}
		}
		for k, budgets := range t.ErrorsLimited[d] {
			for b, n := range budgets {
				s.counter(errorsLimited, n, d.String(), wayDaemon, translator.ErrorKind(k).String(), translator.Budget(b).String())
			}
		}
	}
	s.counter(superpackets, t.Superpackets)
	s.counter(unsegmentable, t.Unsegmentable)
	s.counter(fragments, t.Fragments)
	s.gauge(tracked, float64(t.Tracker.Tracked))
	s.gauge(trackedMost, float64(t.Tracker.Capacity))
	s.counter(evictions, t.Tracker.Evicted)
}

// byVerdict sorts counts by what they mean: a fragment that is held comes back
// and gets another verdict, as the segments of a superpacket do.
func byVerdict(s sink, direction, way string, counts *[translator.NumVerdicts]dataplane.Count) {
	for v, n := range counts {
		switch v := translator.Verdict(v); {
		case v.IsForward():
			if possible(direction, v) {
				s.counter(translatedPackets, n.Packets, direction, way, v.String())
				s.counter(translatedBytes, n.Bytes, direction, way, v.String())
			}
		case v == translator.Local:
			s.counter(localPackets, n.Packets, direction, way)
		case v == translator.Segment:
			s.counter(segmented, n.Packets, direction, way)
		case v == translator.FirstUse:
			s.counter(firstUseHeld, n.Packets, direction, way)
		case v == translator.FragmentHeld:
			s.counter(held, n.Packets, direction, way)
		default:
			s.counter(droppedPackets, n.Packets, direction, way, v.String())
			s.counter(droppedBytes, n.Bytes, direction, way, v.String())
		}
	}
}

// possible leaves out what never happens, such as IPv4 made from IPv4.
func possible(direction string, v translator.Verdict) bool {
	switch direction {
	case dataplane.To4.String():
		return v == translator.Forward4 || v == translator.Hairpin || v == translator.Deliver4
	case dataplane.To6.String():
		return v == translator.Forward6
	}
	return v == translator.Pass4 || v == translator.Deliver4 || v == translator.Hairpin
}
