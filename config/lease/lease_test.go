package lease

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

func block(n int, lease uint64) api.Block {
	return api.Block{IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 32), Pool: "lent", Lease: lease}
}

func draining(b api.Block) api.Block { b.Draining = true; return b }

func set(epoch uint64, blocks ...api.Block) api.BlockSet {
	return api.BlockSet{Epoch: epoch, Blocks: blocks}
}

// TestApply: what is taken, and what is refused and why. In use is the block 1.
func TestApply(t *testing.T) {
	t.Parallel()
	had := State{Boot: "b", Epoch: 10, Blocks: []api.Block{block(1, 3), block(2, 4), block(3, 5), block(4, 6)},
		Returned: []api.ReturnedBlock{{IPv4: block(9, 0).IPv4, Lease: 7}}}
	all := had.Blocks
	wide := block(8, 1)
	wide.IPv4 = netip.MustParsePrefix("198.51.100.8/31")
	other := block(2, 4)
	other.Pool = "other"
	for _, c := range []struct {
		name string
		set  api.BlockSet
		code api.Code // "": it is taken
		says string
	}{
		{"the same", set(10, all...), "", ""},
		{"an older epoch", set(9, all...), api.CodeStale, "9 is older than 10"},
		{"an older epoch by an operator", api.BlockSet{Epoch: 9, Blocks: all, Rewind: true}, "", ""},
		{"one more", set(11, append(all[:4:4], block(5, 8))...), "", ""},
		{"without one", set(11, all[0], all[1], all[2]), "", ""},
		{"without two at once", set(11, all[0], all[1]), api.CodeShrinks, "2 of 4"},
		{"without two by an operator", api.BlockSet{Epoch: 11, Blocks: all[:2], Shrink: true}, "", ""},
		{"without what is in use", set(11, all[1:]...), api.CodeInUse, "2 workloads have something of it (ns/web, …)"},
		{"without what is in use, by an operator", api.BlockSet{Epoch: 11, Blocks: all[1:], Revoked: []netip.Prefix{all[0].IPv4}}, "", ""},
		{"a loan that ended", set(11, append(all[:4:4], block(9, 7))...), api.CodeStale, "ended lease 7"},
		{"a later loan", set(11, append(all[:4:4], block(9, 8))...), "", ""},
		{"a wider block over a loan that ended", set(11, append(all[:4:4], wide)...), api.CodeStale, "198.51.100.8/31"},
		{"an older loan of a block", set(11, block(1, 2), all[1], all[2], all[3]), api.CodeStale, "2 of 198.51.100.1/32 is older"},
		{"another pool's", set(11, all[0], other, all[2], all[3]), api.CodeInvalid, "pool lent"},
		{"no loan", set(11, append(all[:4:4], block(5, 0))...), api.CodeInvalid, "lease"},
		{"one twice", set(11, append(all[:4:4], block(1, 9))...), api.CodeInvalid, "overlaps"},
		{"no prefix", set(11, append(all[:4:4], api.Block{Pool: "lent", Lease: 1})...), api.CodeInvalid, "ipv4"},
		{"there and revoked", api.BlockSet{Epoch: 11, Blocks: all, Revoked: []netip.Prefix{all[1].IPv4}}, api.CodeInvalid, "revoked"},
		{"nothing revoked", api.BlockSet{Epoch: 11, Blocks: all, Revoked: []netip.Prefix{{}}}, api.CodeInvalid, "is no IPv4 prefix"},
		{"IPv6 revoked", api.BlockSet{Epoch: 11, Blocks: all, Revoked: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}}, api.CodeInvalid, "is no IPv4 prefix"},
		{"what the host has for something else", set(11, append(all[:4:4], block(200, 1))...), api.CodeInvalid, "not here"},
		{"too many", set(11, make([]api.Block, Most+1)...), api.CodeInvalid, "more than 4096"},
	} {
		next, gone, err := had.Apply(c.set, Asked{Boot: "b", Use: func(p netip.Prefix) Use {
			if p == all[0].IPv4 {
				return Use{Workloads: 2, Names: []string{"ns/web"}}
			}
			return Use{}
		}, Check: func(b api.Block) (string, error) {
			if b.IPv4 == block(200, 0).IPv4 {
				return "ipv4", errors.New("not here")
			}
			return "", nil
		}})
		p := new(api.Problem)
		switch {
		case c.code == "" && (err != nil || len(next.Blocks) != len(c.set.Blocks) || len(gone) != max(0, len(all)-len(c.set.Blocks))):
			t.Errorf("%s: %+v, %v, %v", c.name, next, gone, err)
		case c.code != "" && (!errors.As(err, &p) || p.Code != c.code || !strings.Contains(err.Error(), c.says) || !next.Equal(had)):
			t.Errorf("%s: %v, want %s: %s", c.name, err, c.code, c.says)
		}
	}
}

// TestUsable: what drains, and what was not confirmed since the boot, is not given away.
func TestUsable(t *testing.T) {
	t.Parallel()
	s := State{Boot: "b", Blocks: []api.Block{block(1, 1), draining(block(2, 1))}}
	if got := fmt.Sprint(s.Usable("b", "lent"), s.Usable("b", "x"), s.Usable("c", "lent")); got != "[198.51.100.1/32] [] []" {
		t.Error(got)
	}
}

// TestNeverAgain: in whatever order sets come, a loan that has ended never begins again,
// and what is in use stays.
func TestNeverAgain(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	var s State
	ended, used := map[api.Block]bool{}, map[netip.Prefix]bool{}
	taken := 0
	for range 20_000 {
		var put api.BlockSet
		put.Epoch = s.Epoch + uint64(rnd.IntN(3)) - min(s.Epoch, 1)
		later := uint64(0)
		if rnd.IntN(2) == 0 {
			later = uint64(taken)
		}
		for n := range 6 {
			if rnd.IntN(3) > 0 {
				put.Blocks = append(put.Blocks, block(n, later+uint64(1+rnd.IntN(4))))
			}
		}
		clear(used)
		for _, b := range s.Blocks {
			used[b.IPv4] = rnd.IntN(4) == 0
		}
		next, gone, err := s.Apply(put, Asked{Use: func(p netip.Prefix) Use {
			if used[p] {
				return Use{Cooling: 1}
			}
			return Use{}
		}})
		if err != nil {
			continue
		}
		taken++
		for _, b := range gone {
			if ended[b] = true; used[b.IPv4] {
				t.Fatalf("seed %d: %v is in use, and gone", seed, b)
			}
		}
		for _, b := range next.Blocks {
			if ended[b] {
				t.Fatalf("seed %d: %v has ended, and begins again", seed, b)
			}
		}
		s = next
	}
	if taken < 100 || len(ended) < 20 {
		t.Errorf("seed %d: %d sets were taken, %d loans ended: this proves nothing", seed, taken, len(ended))
	}
}
