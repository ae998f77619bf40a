package shed

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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = st
}
