package shed

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
)

// TestCapsEdge: where the host is an edge, what comes by the fabric is held to an operator's
// limits by the loops, whom no program in front of the queues helps, and has its place in the
// maps of the program where packets come in.
func TestCapsEdge(t *testing.T) {
	netns.Require(t, netns.Root)
	r := newRig(t, 100)
	fabric, err := mapping.New(netip.MustParsePrefix("2001:db8:f64::/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix("2001:db8:e::/120"), IPv4: netip.MustParsePrefix("192.0.2.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	r.config.Edge = func() *mapping.Table { return fabric }
	r.Wish(r.prefixOf(3), Wish{Caps: [NumWays]Caps{Received: {Packets: 5}}})
	r.look(r.now)
	b := make([]byte, 48)
	b[0], b[6] = 6<<4, 17
	copy(b[24:], netip.MustParseAddr("2001:db8:e::1").AsSlice())
	binary.BigEndian.PutUint16(b[42:], 1024+1024*3+7)
	asks, passed := r.queue.Begin(time.Now().UnixNano(), func() *mapping.Table { return r.table }), 0
	for range 3000 {
		if !asks || !r.queue.Over(b) {
			passed++
		}
	}
	if passed < 1 || passed > 2900 {
		t.Errorf("%d of 3000 passed the loop", passed)
	}
	key := filterReceiver{Length: 48, Addr: [4]uint8{192, 0, 2, 1}}
	binary.BigEndian.PutUint16(key.Port[:], 1024+1024*3+7)
	var index uint32
	if err := r.filter.objects.Receivers.Lookup(&key, &index); err != nil {
		t.Errorf("the program where packets come in does not know of it: %v", err)
	}
}
