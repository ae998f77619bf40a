//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

const roundTrips = 2000

// turn runs a contender and takes one round of its figures.
func (l *lab) turn(o options, c *contender, r *report) error {
	defer l.stop(c)
	if err := l.start(c); err != nil {
		return err
	}
	began, machine, own := time.Now(), machineCPU(), ours(c)
	for _, m := range []struct {
		name    string
		measure func(options, *contender, *report) error
	}{{"tcp", l.measureTCP}, {"udp", l.measureUDP}, {"rate", l.measureRate}, {"rtt", l.measureRTT}} {
		if !strings.Contains(o.only, m.name) {
			continue
		}
		if err := m.measure(o, c, r); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if c.process != nil {
		r.add(c.name, "memory MB", residentMB(c.process.Process.Pid))
	}
	others := (machineCPU() - machine) - (ours(c) - own)
	r.add(c.name, otherWork, 100*max(0, others)/time.Since(began).Seconds()/float64(r.Machine.Cores))
	return nil
}

// otherWork is what was done meanwhile by none of ours: when it is more than a
// few percent, or unequal, the machine was not quiet and the figures say less.
const otherWork = "other work on the machine %"

func (l *lab) measureTCP(o options, c *contender, r *report) error {
	for _, t := range transfers {
		rate, perGB, err := l.tcp(c, t, o.seconds)
		if err != nil {
			return fmt.Errorf("%s: %w", t.figure, err)
		}
		r.add(c.name, t.figure+" Gb/s", rate)
		r.add(c.name, t.figure+" CPU-s/GB", perGB.machine)
		r.add(c.name, t.figure+" own CPU-s/GB", perGB.process)
	}
	return nil
}

func (l *lab) measureUDP(o options, c *contender, r *report) error {
	for _, size := range o.sizes {
		s := search{try: func(rate float64) (trial, error) { return l.try(c, size, rate, o.trial) }}
		if err := s.run(); err != nil {
			return fmt.Errorf("%d bytes: %w", size, err)
		}
		r.add(c.name, fmt.Sprintf("udp %d B kpps", size), s.few.kpps())
		r.add(c.name, fmt.Sprintf("udp %d B lossless kpps", size), s.none.kpps())
		r.add(c.name, fmt.Sprintf("udp %d B CPU-s/Mpkt", size), s.few.perMpkt.machine)
		r.add(c.name, fmt.Sprintf("udp %d B own CPU-s/Mpkt", size), s.few.perMpkt.process)
	}
	return nil
}

// measureRate sends at one rate, for a look at what that costs.
func (l *lab) measureRate(o options, c *contender, r *report) error {
	for _, size := range o.sizes {
		t, err := l.try(c, size, o.rate, o.trial)
		if err != nil {
			return fmt.Errorf("%d bytes: %w", size, err)
		}
		r.add(c.name, fmt.Sprintf("udp %d B at %.0f pps: loss %%", size, o.rate), 100*t.lost())
		r.add(c.name, fmt.Sprintf("udp %d B at %.0f pps: own CPU-s/Mpkt", size, o.rate), t.perMpkt.process)
	}
	return nil
}

func (l *lab) measureRTT(_ options, c *contender, r *report) error {
	p50, p99, err := l.rtt(c.target, roundTrips)
	if err != nil {
		return err
	}
	r.add(c.name, "rtt p50 µs", p50)
	r.add(c.name, "rtt p99 µs", p99)
	if p50, p99, err = l.loaded(c, roundTrips/4); err != nil {
		return fmt.Errorf("under load: %w", err)
	}
	r.add(c.name, "rtt loaded p50 µs", p50)
	r.add(c.name, "rtt loaded p99 µs", p99)
	return nil
}
