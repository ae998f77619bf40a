//go:build linux

package page

import (
	"cmp"
	"slices"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
)

// counts is what a view of the whole compares with the one before.
type counts struct {
	dataplane.Snapshot
	path api.FastPath
}

// directions are what was translated, by daemon and fast path together.
func directions(samples []sample[counts]) (both []flow) {
	for d, name := range map[dataplane.Direction]string{dataplane.To4: "IPv6 to IPv4", dataplane.To6: "IPv4 to IPv6"} {
		both = append(both, flowOf(name, samples, func(c *counts) (packets, bytes uint64) {
			n := translated(&c.Snapshot, d)
			return n.Packets, n.Bytes
		}))
	}
	slices.SortFunc(both, func(a, b flow) int { return cmp.Compare(b.Name, a.Name) })
	return both
}

func translated(s *dataplane.Snapshot, d dataplane.Direction) (n dataplane.Count) {
	for v := translator.Forward4; v.IsForward(); v++ {
		n.Packets += s.Verdicts[d][v].Packets
		n.Bytes += s.Verdicts[d][v].Bytes
	}
	return n
}

// reason is one way to be dropped, or to be left to the daemon.
type reason struct {
	Name, Meaning string
	Packets       uint64
	Rate          float64
}

func byRate(a, b reason) int {
	return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Name, b.Name))
}

// drops are those that happened, the most frequent now first.
func (p *Page) drops(samples []sample[counts]) (all []reason) {
	before, last, seconds := stretch(samples)
	for v := translator.Malformed; v < translator.NumVerdicts; v++ {
		var now, then uint64
		for d := range dataplane.NumDirections {
			now += last.counts.Verdicts[d][v].Packets
			then += before.counts.Verdicts[d][v].Packets
		}
		if now > 0 {
			all = append(all, reason{v.String(), p.Meaning(v), now, perSecond(then, now, seconds)})
		}
	}
	if now := last.counts.path.Lost; now > 0 {
		all = append(all, reason{"lost", "dropped: the kernel refused it once the fast path had translated it", now,
			perSecond(before.counts.path.Lost, now, seconds)})
	}
	slices.SortFunc(all, byRate)
	return all
}

// fastPath is what the kernel does by itself.
type fastPath struct {
	api.FastPath
	Packets, Bytes      uint64  // that it translated
	PacketRate, BitRate float64 // a second
	Share               string  // of all that is translated: now, else ever
	ShareNow            bool
	Passed              []reason
	Uplinks, Workloads  int // interfaces with the program
	Amiss               int // interfaces without it
}

// mostInterfaces is how many a table has, those with something amiss first.
const mostInterfaces = 24

// Some are the interfaces of the table.
func (f *fastPath) Some() []api.FastPathInterface {
	weight := func(i api.FastPathInterface) int {
		switch {
		case i.Error != "":
			return 0
		case i.Left != "":
			return 1
		case i.Uplink:
			return 2
		}
		return 3
	}
	all := slices.SortedStableFunc(slices.Values(f.Interfaces), func(a, b api.FastPathInterface) int {
		return cmp.Or(cmp.Compare(weight(a), weight(b)), words.Natural(a.Name, b.Name))
	})
	return all[:min(len(all), mostInterfaces)]
}

// Others is how many there are besides.
func (f *fastPath) Others() int { return max(len(f.Interfaces)-mostInterfaces, 0) }

// fastPathOf compares what the kernel did with what both did.
func fastPathOf(samples []sample[counts]) *fastPath {
	f := &fastPath{}
	before, last, seconds := stretch(samples)
	f.FastPath = last.counts.path
	var then api.FastPathCount
	for name, n := range f.Translated {
		f.Packets, f.Bytes = f.Packets+n.Packets, f.Bytes+n.Bytes
		was := before.counts.path.Translated[name]
		then.Packets, then.Bytes = then.Packets+was.Packets, then.Bytes+was.Bytes
	}
	f.PacketRate, f.BitRate = perSecond(then.Packets, f.Packets, seconds), 8*perSecond(then.Bytes, f.Bytes, seconds)
	var all, rate float64
	for d := range dataplane.NumDirections {
		now := translated(&last.counts.Snapshot, d).Packets
		all += float64(now)
		rate += perSecond(translated(&before.counts.Snapshot, d).Packets, now, seconds)
	}
	if f.ShareNow = rate > 0; f.ShareNow {
		f.Share = percent(f.PacketRate, rate)
	} else if all > 0 {
		f.Share = percent(float64(f.Packets), all)
	}
	for name, n := range f.FastPath.Passed {
		if n > 0 {
			f.Passed = append(f.Passed, reason{name, passedOn[name], n, perSecond(before.counts.path.Passed[name], n, seconds)})
		}
	}
	slices.SortFunc(f.Passed, byRate)
	for _, i := range f.Interfaces {
		switch {
		case i.Error != "" || i.Left != "" && f.Mode != "required":
			f.Amiss++
		case i.Uplink:
			f.Uplinks++
		default:
			f.Workloads++
		}
	}
	return f
}
