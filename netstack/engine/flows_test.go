//go:build linux

package engine

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/translator/mapping"
)

// gaveWay is packets and bytes that were dropped, by slot.
type gaveWay map[uint32][2][shed.NumWays]uint64

func (g gaveWay) Each(f func(uint32, [shed.NumWays]uint64, [shed.NumWays]uint64)) {
	for slot, n := range g {
		f(slot, n[0], n[1])
	}
}

// TestShedSource: what a workload gave way with is told once, each way, as IPv4 has it.
func TestShedSource(t *testing.T) {
	t.Parallel()
	table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")}})
	if err != nil {
		t.Fatal(err)
	}
	slot := table.Get(netip.MustParsePrefix("2001:db8:6::2/128")).Slot()
	gone := gaveWay{}
	s := newShedSource(nil, func() *mapping.Table { return table })
	s.shed = gone
	drain := func() (all map[flows.Direction][2]uint64) {
		all = map[flows.Direction][2]uint64{}
		err := s.Drain(func(k *flows.Key, sum *flows.Sum) {
			if k.Verdict != flows.Shed || k.LocalAddr().Addr() != netip.MustParseAddr("198.51.100.2") || k.Slot != slot || sum.First > sum.Last || sum.First == 0 {
				t.Errorf("%+v %+v", k, sum)
			}
			all[sum.Began] = [2]uint64{sum.Packets[sum.Began], sum.Bytes[sum.Began]}
		}, nil)
		if err != nil {
			t.Error(err)
		}
		return all
	}
	if all := drain(); len(all) != 0 {
		t.Errorf("%v of nothing", all)
	}
	gone[slot] = [2][shed.NumWays]uint64{{10, 3}, {1000, 300}}
	if all := drain(); all[flows.Sent] != [2]uint64{10, 800} || all[flows.Received] != [2]uint64{3, 300} {
		t.Errorf("%v", all)
	}
	gone[slot] = [2][shed.NumWays]uint64{{11, 3}, {1080, 300}}
	if all := drain(); len(all) != 1 || all[flows.Sent] != [2]uint64{1, 60} {
		t.Errorf("%v", all)
	}
	if all := drain(); len(all) != 0 {
		t.Errorf("%v twice", all)
	}
}
