package shed

import (
	"slices"
	"time"
)

// How a host is judged. A host is overloaded when its processors have nothing left and
// the daemon takes a notable part of them, or when packets are lost in front of its
// queues. Each way of each workload may always bring as many packets as the least part
// of the processors is enough for: a stream of superpackets needs fewer, at any speed.
const (
	notable = 1.0 / 32 // of the processors
	least   = 1.0 / 24
	// spared is by how much less that is where streams take the fast path: who brings much
	// to the daemon then does so with what it leaves.
	spared = 3

	// slowest is how many small packets a processor manages in a second, at least: what is
	// measured while the loops move superpackets is less.
	slowest = 250_000

	drowning = 0.25 // of what is brought is lost in front of the queues

	scarce = 0.04 // of the processors idle: nothing is left
	enough = 0.10 // something is
)

// measured is what a host has done in a time.
type measured struct {
	over    time.Duration
	cpus    float64
	spent   time.Duration // of processors' time, by the loops
	idle    float64       // part of the processors that nobody used
	packets float64       // that the loops have moved, in what small ones would have cost
	lost    uint64        // in front of the queues

	fastPath  bool // streams do not come to the daemon
	elsewhere bool // packets were translated without it
	company   bool // there is more than one workload that brings anything, or was of late
}

// part is how much of the processors the loops have used.
func (m *measured) part() float64 { return m.spent.Seconds() / m.over.Seconds() / m.cpus }

func (m *measured) scarce() bool { return m.idle < scarce || m.lost > 0 }

// drowned says that so much is lost in front of the queues that a neighbour may get nothing
// at all through, and so would not be known of.
func (m *measured) drowned(demands []demand) bool {
	return float64(m.lost)/m.over.Seconds() > drowning*sum(demands)
}

// sum is what all bring.
func sum(demands []demand) (all float64) {
	for _, d := range demands {
		all += d.rate
	}
	return all
}

// floor is how many packets a second the least part of the processors is enough for.
func (m *measured) floor() float64 {
	rate := float64(slowest)
	if m.spent > 0 {
		rate = max(rate, m.packets/m.spent.Seconds())
	}
	if m.fastPath {
		rate /= spared
	}
	return rate * m.cpus * least
}

// demand is what one way of a workload brings, in packets a second.
type demand struct {
	slot   uint32
	way    Way
	rate   float64
	weight float64
}

// fair is the level up to which all get what they want, each as high as its weight,
// when so many packets a second are to be had by all together (max-min fairness). 0: all
// get all.
func fair(demands []demand, capacity float64) float64 {
	sorted := slices.Clone(demands)
	slices.SortFunc(sorted, func(a, b demand) int {
		switch x, y := a.rate/a.weight, b.rate/b.weight; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	var weights float64
	for _, d := range sorted {
		weights += d.weight
	}
	for _, d := range sorted {
		if d.rate/d.weight*weights >= capacity {
			return capacity / weights
		}
		capacity -= d.rate
		weights -= d.weight
	}
	return 0
}

// level is what each way of a workload may bring, by its weight, in packets a second. The
// zero value is no limit.
type level struct {
	packets float64
	floor   float64 // as it was measured when nothing was dropped yet
	calm    int     // looks since anything was
}

const (
	calmLooks = 20 // then it is over
	lower     = 0.7
	higher    = 1.2

	// Of a host that somebody may have to himself: his level follows what the queues take,
	// up and down within a second, and is gone soon after.
	looksAlone  = 3
	higherAlone = 1.5
)

// begin sets the level of a host that is overloaded, if somebody brings more than that
// and others bring anything. Where that cannot be known, who brings most loses in front of the
// queues what he would have lost in them: so they have room for whoever else there is.
func (l *level) begin(m *measured, demands []demand) {
	floor := m.floor()
	switch {
	case !m.company && m.drowned(demands):
		*l = level{packets: max(highest(demands), floor), floor: floor}
		return
	case m.company && (highest(demands) > floor || m.lost > 0):
		*l = level{packets: floor, floor: floor}
	default:
		return
	}
	l.lose(m, demands)
}

// step follows what became of a host. dropped says that something was since the last look.
func (l *level) step(m *measured, demands []demand, dropped bool) {
	if l.calm++; dropped || m.lost > 0 {
		l.calm = 0
	}
	if l.calm >= calmLooks || l.calm >= looksAlone && !m.company {
		*l = level{}
		return
	}
	if !m.company {
		l.alone(m, demands)
		return
	}
	switch {
	case m.scarce():
		l.packets = max(l.packets*lower, l.floor)
	case m.idle > enough && highest(demands) > l.packets:
		l.packets *= higher
	}
	l.lose(m, demands)
}

// alone follows what the queues take of somebody of whom it is not known whether he has
// the host to himself.
func (l *level) alone(m *measured, demands []demand) {
	switch {
	case m.lost > 0:
		l.packets = max(l.packets*lower, l.floor)
	case highest(demands) > l.packets:
		l.packets *= higherAlone
	}
}

// lose has what is lost in front of the queues be lost by those who bring most.
func (l *level) lose(m *measured, demands []demand) {
	if m.lost == 0 {
		return
	}
	lost := float64(m.lost) / m.over.Seconds()
	if f := fair(demands, sum(demands)-lost); f > 0 {
		l.packets = min(l.packets, f)
	}
}

// highest is what they bring who bring most, by their weight.
func highest(demands []demand) (most float64) {
	for _, d := range demands {
		most = max(most, d.rate/d.weight)
	}
	return most
}

// company says that somebody brings something besides who brings most. A neighbour of a
// flooder may get hardly anything through.
func company(demands []demand) bool {
	var who uint32
	most := map[uint32]float64{}
	for _, d := range demands {
		if !Stranger(d.slot) && d.rate > 0 {
			if most[d.slot] += d.rate; most[d.slot] > most[who] {
				who = d.slot
			}
		}
	}
	return len(most) > 1 || who == 0 // strangers flood
}
