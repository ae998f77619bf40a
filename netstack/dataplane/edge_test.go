package dataplane

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

const fabric, block2, block3 = "2001:db8:f64::", "2001:db8:e::2", "2001:db8:e::3"

// edgeWorld is driverWorld at the edge of a fabric, which has no block of the third
// workload's.
func edgeWorld(t testing.TB) *translator.Translator {
	t.Helper()
	tr := driverWorld(t)
	c, edit := tr.Config(), tr.Table().Edit()
	third := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:6::4/128"), IPv4: netip.MustParsePrefix("198.51.100.4/32")}
	if err := edit.Insert(third); err != nil {
		t.Fatal(err)
	}
	c.MTU4 = 1260
	c.Edge = translator.Edge{Prefix: netip.MustParsePrefix(fabric + "/96"), Blocks: []mapping.Mapping{
		{IPv6: netip.MustParsePrefix(block2 + "/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")},
		{IPv6: netip.MustParsePrefix(block3 + "/128"), IPv4: netip.MustParsePrefix("198.51.100.3/32")},
	}}
	if err := tr.Reload(c, edit.Table()); err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestEdge: what passes both halves is sent as IPv6, once, and counted, itemised and
// shown as the IPv4 in between.
func TestEdge(t *testing.T) {
	const remote = "192.0.2.9"
	for name, c := range map[string]struct {
		in       []byte
		sent     []translator.Verdict
		dropped  int
		shown    []translator.Verdict
		read     int
		counted  [3]uint64 // forwarded to4, to6; dropped
		itemised int
	}{
		"out": {in: udp("2001:db8:6::2", prefix+remote, 10, 64, 0, 0), sent: []translator.Verdict{translator.Forward4},
			shown: []translator.Verdict{translator.Forward4}, read: 1, counted: [3]uint64{1, 0, 0}, itemised: 1},
		"in": {in: udp(fabric+remote, block3, 10, 64, 0, 0), sent: []translator.Verdict{translator.Forward6},
			shown: []translator.Verdict{translator.Forward6}, read: 1, dropped: 1, counted: [3]uint64{0, 1, 0}, itemised: 1},
		"between workloads": {in: udp("2001:db8:6::2", prefix+"198.51.100.3", 10, 64, 0, 0), sent: []translator.Verdict{translator.Hairpin},
			shown: []translator.Verdict{translator.Hairpin}, read: 1, itemised: 2},
		"refused by the first half": {in: udp("2001:db8:9::9", block3, 10, 64, 0, 0), sent: []translator.Verdict{translator.UntranslatableSource | translator.Replied},
			shown: []translator.Verdict{translator.UntranslatableSource | translator.Replied}, read: 1, dropped: 1, counted: [3]uint64{0, 0, 1}},
		"spoofed": {in: udp("2001:db8:6::2", block3, 10, 64, 0, 0), shown: []translator.Verdict{translator.SpoofedSource}, read: 1, dropped: 2,
			counted: [3]uint64{0, 0, 1}},
		"refused by the second half": {in: udp("2001:db8:6::4", prefix+remote, 10, 64, 0, 0), sent: []translator.Verdict{translator.UntranslatableSource | translator.Replied},
			shown: []translator.Verdict{translator.Forward4, translator.UntranslatableSource | translator.Replied}, read: 1, counted: [3]uint64{1, 0, 1}, itemised: 1},
		"answered": {in: udp(fabric+remote, block3, 10, 1, 0, 0), sent: []translator.Verdict{translator.HopLimitExceeded | translator.Replied},
			shown: []translator.Verdict{translator.HopLimitExceeded | translator.Replied}, read: 1, dropped: 1, counted: [3]uint64{0, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			l, seen := newLedger(t), &judged{}
			d := NewDriver(edgeWorld(t).NewWorker(), l, seen)
			d.counters = new(counters)
			d.flows.Table = flows.NewTable(10, 1)
			d.Move(l.packet(c.in, translator.Offload{}))
			if !slices.Equal(l.sent, c.sent) || l.dropped != c.dropped || len(l.out) != 0 {
				t.Errorf("sent %v, dropped %d, kept %d; want %v, %d", l.sent, l.dropped, len(l.out), c.sent, c.dropped)
			}
			if seen.read != c.read || !slices.Equal(seen.verdicts, c.shown) {
				t.Errorf("shown %d as they came, then %v; want %d, %v", seen.read, seen.verdicts, c.read, c.shown)
			}
			var got [3]uint64
			v := &d.counters.verdicts
			got[0], got[1] = v[To4][translator.Forward4].packets.Load(), v[To6][translator.Forward6].packets.Load()
			for way := range v {
				for verdict := range v[way] {
					if translator.Verdict(verdict).IsDrop() {
						got[2] += v[way][verdict].packets.Load()
					}
				}
			}
			if got != c.counted {
				t.Errorf("counted %v, want %v", got, c.counted)
			}
			all := drained(d.flows.Table)
			if len(all) != c.itemised {
				t.Errorf("itemised %+v", all)
			}
			for _, f := range all {
				if n := f.sum[0][1] + f.sum[1][1]; n != 38 || !netip.MustParsePrefix("198.51.100.0/29").Contains(netip.MustParseAddrPort(f.local).Addr()) {
					t.Errorf("%+v: %d bytes, want those of IPv4", f, n)
				}
			}
		})
	}
}

// TestEdgeCuts: a fragment that is longer than the fabric's MTU leaves in pieces.
func TestEdgeCuts(t *testing.T) {
	l := newLedger(t)
	d := NewDriver(edgeWorld(t).NewWorker(), l, nil)
	whole := udp("2001:db8:6::2", prefix+"192.0.2.9", 1300, 64, 0, 0)
	b := slices.Concat(whole[:40], []byte{17, 0, 0, 1, 0, 0, 0, 7}, whole[40:40+1296])
	b[4], b[5], b[6] = byte(1304>>8), byte(1304&0xff), 44
	d.Move(l.packet(b, translator.Offload{}))
	if len(l.sent) != 2 || l.longest > 1280 || len(l.out) != 0 {
		t.Errorf("sent %v, the longest has %d bytes, %d kept", l.sent, l.longest, len(l.out))
	}
}

// TestEdgeOwn: what the local stack says is nobody's on the fabric.
func TestEdgeOwn(t *testing.T) {
	l := newLedger(t)
	d := NewDriver(edgeWorld(t).NewWorker(), l, nil)
	p := l.packet(udp("198.51.100.1", "192.0.2.9", 10, 64, 0, 0), translator.Offload{})
	if v := d.MoveOwn(p); v != translator.Forward4 || len(l.sent) != 1 || l.longest != 38 {
		t.Errorf("%v, sent %v with %d bytes", v, l.sent, l.longest)
	}
}
