package flows

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

// refuses is a source of many different flows that were denied, of one workload and a
// few of another, and of flows that were forwarded.
type refuses struct {
	table    *Table
	n        int
	rounds   int
	flood    int // denied flows of slot 1 in a round
	forwards int
}

func (r *refuses) Presses() bool { return false }
func (r *refuses) Drain(flow func(*Key, *Sum), lost func(uint32, Lost)) error {
	now := Now()
	for range r.flood {
		r.n++
		r.table.Refuse(Key{Slot: 1, Local: 1, Remote: uint32(r.n), Proto: protoUDP, Verdict: Denied}, Sent, 1, 60, 0, 7, now)
	}
	for i := range 10 {
		r.table.Refuse(Key{Slot: 2, Local: 2, Remote: uint32(i), Proto: protoTCP, Verdict: Denied}, Received, 1, 60, 2, 8, now)
	}
	for i := range r.forwards {
		k := keyOf(i)
		k.Slot = 1
		r.table.Add(k, Sent, 1, 60, 0, now)
	}
	r.rounds++
	r.table.Drain(flow, lost)
	return nil
}

// TestDeniedFlood: whoever is denied, with as many different packets as he likes, takes
// no room from what is translated, nor from what others are denied: not in a table, and
// not among the open flows. What of his finds none is told to the packet.
func TestDeniedFlood(t *testing.T) {
	t.Parallel()
	const forwards, rounds, flood = 2000, 20, 20_000
	s := &refuses{table: NewTable(forwards, 1), flood: flood, forwards: forwards}
	c := NewCollector(Config{Limits: Limits{Idle: int64(time.Hour), Active: int64(time.Hour), Most: forwards}, Sources: []Source{s},
		Owner: func(slot uint32, _ netip.AddrPort, _ time.Time) any { return slot },
		Name:  func(owner any) string { return map[any]string{uint32(1): "flooder", uint32(2): "other"}[owner] },
		Rule:  func(n uint32) string { return map[uint32]string{7: "seven", 8: "eight"}[n] }, Log: slog.New(slog.DiscardHandler)})
	for range rounds {
		c.Collect()
	}
	n := c.Stats()
	if n.Open != forwards || n.Lost.Packets != 0 || !n.LastLost.IsZero() {
		t.Errorf("%d flows are open, %d packets were lost: want %d and none", n.Open, n.Lost.Packets, forwards)
	}
	if n.Denied != refusedEach+10 || n.Lost.Denied != rounds*flood-refusedEach || n.By["flooder"].Denied != n.Lost.Denied || n.By["other"] != (Lost{}) {
		t.Errorf("%d denied are open, lost %+v, by %+v", n.Denied, n.Lost, n.By)
	}
	sums := map[Verdict]uint64{}
	for part := range c.Open(func(*Record) bool { return true }) {
		for _, r := range part {
			sums[r.Verdict] += r.Packets[Sent] + r.Packets[Received]
			if want := map[uint32]string{1: "seven", 2: "eight"}[r.Slot]; r.Verdict == Denied && r.Rule != want || r.Verdict == Forwarded && r.Rule != "" {
				t.Fatalf("slot %d: rule %q", r.Slot, r.Rule)
			}
		}
	}
	if sums[Forwarded] != rounds*forwards || sums[Denied] != refusedEach+10*rounds {
		t.Errorf("%v", sums)
	}
}

// A flow of which some packets pass by a rule that is only audited knows the rule.
func TestAuditedRule(t *testing.T) {
	t.Parallel()
	table := NewTable(10, 1)
	p := Packet{Bytes: make([]byte, 40), Length: 40, Source: 1}
	p.Bytes[0], p.Bytes[9] = 0x45, protoTCP
	for _, rule := range []uint32{0, 5, 0} {
		p.Rule = rule
		table.AddPacket(&p, 1)
	}
	n := 0
	table.Drain(func(k *Key, s *Sum) {
		if n++; s.Rule != 5 || k.Verdict != Forwarded || s.Packets[Sent] != 3 {
			t.Errorf("%+v %+v", k, s)
		}
	}, nil)
	if n != 1 {
		t.Errorf("%d flows", n)
	}
}

// Verdicts have names that parse back.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	for v := range NumVerdicts {
		if got, ok := ParseVerdict(v.String()); !ok || got != v {
			t.Errorf("%d: %q, %v", v, v, got)
		}
	}
	if _, ok := ParseVerdict("x"); ok {
		t.Error("x is a verdict")
	}
}
