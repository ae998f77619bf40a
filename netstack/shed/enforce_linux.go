package shed

import (
	"errors"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

// install puts the policer in front of the queues, or takes it away: while nobody has a
// limit, no packet comes by it.
func (s *Shed) install(on bool) {
	if s.filter == nil || on == s.installed {
		return
	}
	program := -1
	if on {
		program = s.filter.objects.Police.FD()
	}
	if err := s.config.Plane.Police(program); err != nil {
		s.complain(err)
		return
	}
	s.installed = on
}

// complain logs what the kernel refused, once: the loops do without.
func (s *Shed) complain(errs ...error) {
	for _, err := range errs {
		if err != nil && !s.complained {
			s.complained = true
			s.config.Log.Warn("the policer in front of the queues", "error", err)
		}
	}
}

// policed is how many packets were dropped in front of the queues.
func (s *Shed) policed() uint64 {
	n := s.gone
	for _, l := range s.limited {
		if l.inKernel.Load() {
			n += s.filter.dropped(l).queue
		}
	}
	return n
}

// note says how it stands.
func (s *Shed) note() {
	st := Status{Overloaded: s.level.packets > 0, Packets: s.level.packets, Kernel: s.installed}
	for _, l := range s.limited {
		if !l.capped {
			st.Limited = append(st.Limited, Limited{l.slot, l.way, l.seen})
		}
	}
	if s.config.Tell != nil {
		s.config.Tell(st.Packets)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = st
}

// enforce has those give way who are over the level.
func (s *Shed) enforce(demands []demand) {
	have := map[[2]uint32]*limited{}
	for _, l := range s.limited {
		have[[2]uint32{l.slot, uint32(l.way)}] = l
	}
	changed := false
	if s.level.packets > 0 {
		for _, d := range demands {
			key := [2]uint32{d.slot, uint32(d.way)}
			if d.rate <= s.level.packets*d.weight || have[key] != nil || len(s.limited) >= most {
				continue
			}
			s.limited = append(s.limited, s.limit(d.slot, d.way))
			changed = true
		}
	}
	changed = s.refresh() || changed
	if changed {
		s.publish()
	}
}

// refresh writes the rates of all, and drops those who have nothing to fear any more.
func (s *Shed) refresh() (changed bool) {
	table := s.config.Table()
	s.limited = slices.DeleteFunc(s.limited, func(l *limited) bool {
		l.calm++
		over := s.level.packets == 0 || l.calm > patience
		e := table.At(l.slot)
		gone := !Stranger(l.slot) && (e == nil || !same(e, &l.mapping))
		if over && !l.capped || gone {
			s.account(l)
			if l.inKernel.Load() {
				s.gone += l.kernelDropped.queue
				s.complain(s.filter.remove(l)...)
			}
			changed = true
			return true
		}
		r := s.rates(l)
		if was := l.rates.Load(); was == nil || *was != r {
			l.rates.Store(&r)
			if l.inKernel.Load() {
				s.complain(s.filter.write(l))
			}
		}
		return false
	})
	return changed
}

// limit makes a limited one.
func (s *Shed) limit(slot uint32, w Way) *limited {
	l := &limited{slot: slot, way: w}
	return s.admit(l)
}

// admit gives a limited one its mapping, its rates and its place in the kernel.
func (s *Shed) admit(l *limited) *limited {
	slot := l.slot
	if e := s.config.Table().At(slot); e != nil {
		l.mapping = e.Mapping()
	}
	r := s.rates(l)
	l.rates.Store(&r)
	if slot == strangersErrors || s.filter == nil {
		return l
	}
	s.install(true)
	switch {
	case !s.installed:
	case s.config.edge() != nil && slot == 0:
		// Who is a stranger at an edge is told by the loops alone.
	case slot != 0:
		l.entry = s.config.edge() != nil && l.way == Received // in front of the queues it is not known
		s.complain(s.filter.put(l))
	default:
		if err := s.filter.strangers(l, s.config.Table()); !errors.Is(err, errMany) {
			s.complain(err)
		}
	}
	return l
}

// know has the policer in the kernel follow who the workloads are, while strangers have a limit.
// Where it cannot, the loops do without it.
func (s *Shed) know(table *mapping.Table) {
	for _, l := range s.limited {
		if l.slot != 0 || !l.inKernel.Load() {
			continue
		}
		if err := s.filter.know(table); err != nil {
			s.account(l)
			s.gone += l.kernelDropped.queue
			s.complain(s.filter.remove(l)...)
			l.dropped.Add(l.kernelDropped.all())
			l.kernelDropped = dropped{}
		}
	}
}

// rates are what a limited one may bring.
func (s *Shed) rates(l *limited) (r rates) {
	if s.level.packets > 0 {
		r.share = rateOf(s.level.packets*s.weight(l.slot), unit, unit)
	}
	if l.capped {
		c := l.caps
		r.packets, r.connections = rateOf(float64(c.Packets), unit, unit), rateOf(float64(c.Connections), unit, unit)
		r.bytes = rateOf(float64(c.Bits)/8, 1, longest)
	}
	return r
}

// publish tells the loops who is limited.
func (s *Shed) publish() {
	var g *gate
	if len(s.limited) > 0 {
		made := newGate(s.limited)
		g = &made
	}
	for _, q := range s.queues {
		q.gate.Store(g)
	}
	if g == nil {
		s.install(false)
	}
}

// settle ends all limits but those that an operator wants.
func (s *Shed) settle() {
	if len(s.limited) > 0 && s.level.packets == 0 && slices.ContainsFunc(s.limited, func(l *limited) bool { return !l.capped }) {
		if s.refresh() {
			s.publish()
			s.note()
		}
	}
	if s.turn++; s.turn%seldom == 0 {
		s.collect()
	}
}

// collect takes note of what was dropped since the last look, and says how much.
func (s *Shed) collect() (all uint64) {
	for _, l := range s.limited {
		all += s.account(l)
	}
	return all
}

// account takes note of what was dropped of one.
func (s *Shed) account(l *limited) uint64 {
	if l.inKernel.Load() {
		before := l.kernelDropped
		l.kernelDropped = s.filter.dropped(l)
		s.kernel.Add(l.kernelDropped.queue - before.queue)
	}
	n, octets := l.kernelDropped.all()+l.dropped.Load(), l.kernelDropped.octets+l.octets.Load()
	more, moreOctets := n-l.seen, octets-l.seenOctets
	if more == 0 {
		return 0
	}
	l.seen, l.seenOctets, l.calm = n, octets, 0
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.totals[l.slot]
	if t == nil {
		t = new([NumWays]uint64)
		s.totals[l.slot], s.octets[l.slot] = t, new([NumWays]uint64)
	}
	t[l.way] += more
	s.octets[l.slot][l.way] += moreOctets
	return more
}
