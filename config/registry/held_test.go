package registry

import (
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"
)

// TestIndex adds, finds and removes at random, under hashes of which many begin and
// end alike, and compares with a map.
func TestIndex(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	var x index
	want := map[uint64]*held{}
	hash := func() uint64 { return rnd.Uint64N(3)<<62 | rnd.Uint64N(2)<<31 | rnd.Uint64N(600) }
	for range 20_000 {
		n := hash()
		is := func(h *held) bool { return h == want[n] }
		switch h := want[n]; {
		case h == nil:
			want[n] = &held{}
			want[n].record = string(rune(n))
			x.add(n, want[n])
		case rnd.IntN(2) == 0:
			x.remove(n, h)
			delete(want, n)
			if x.find(n, func(o *held) bool { return o == h }) != nil {
				t.Fatalf("%x is there, and was removed", n)
			}
		default:
			x.remove(n, &held{}) // another, which is not there
			if x.find(n, is) != h {
				t.Fatalf("%x is not found", n)
			}
		}
	}
	if x.n != len(want) || len(x.all()) != x.n {
		t.Errorf("%d, want %d, and %d in all", x.n, len(want), len(x.all()))
	}
	for n, h := range want {
		if x.find(n, func(o *held) bool { return o == h }) == nil {
			t.Errorf("%x is not found", n)
		}
	}
}

// TestHeld: an assignment is the same after it was packed, with all that it may have;
// and nothing of one that is looked at stays with the next.
func TestHeld(t *testing.T) {
	t.Parallel()
	r, err := Open(Options{Path: filepath.Join(t.TempDir(), "r.db"), Pools: []Pool{shared("192.0.2.0/28", 1024)}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []*Assignment
	for n := range 20 {
		q := request(n)
		q.Name, q.Netns = "ns/pod", "/var/run/netns/x"
		if n%2 == 0 {
			q.HostInterface = "veth1"
		}
		if n%3 == 0 {
			q.ExtraPorts = []uint16{uint16(8000 + n), uint16(9000 + n)}
			q.IPv6 = append(q.IPv6, netip.MustParseAddr("2001:db8:1::").Next())
			q.IPv6[1] = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 15: byte(n)})
		}
		all = append(all, mustPut(t, r, n, q))
	}
	seen := map[*held]*Assignment{}
	for a := range r.Each() {
		seen[a.held] = a.Clone()
	}
	for _, a := range all {
		got, had := *seen[a.held], *a
		if !got.Since.Equal(had.Since) {
			t.Errorf("since %v, want %v", got.Since, had.Since)
		}
		got.Since, had.Since = time.Time{}, time.Time{}
		got.Request.ExtraPorts, had.Request.ExtraPorts = slices.Clip(got.Request.ExtraPorts), slices.Clip(had.Request.ExtraPorts)
		if len(had.Request.ExtraPorts) == 0 {
			got.Request.ExtraPorts, had.Request.ExtraPorts = nil, nil
		}
		if !reflect.DeepEqual(got, had) {
			t.Errorf("it is\n%+v, was\n%+v", got, had)
		}
	}
}
