package prefixes

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// drawn is one of few prefixes of a family, which lie in each other all the time.
func drawn(rnd *rand.Rand, six bool) netip.Prefix {
	if six {
		a := [16]byte{0x20, 1, 7: byte(rnd.IntN(2)), 8: byte(rnd.IntN(4) << 6), 15: byte(rnd.IntN(16))}
		return netip.PrefixFrom(netip.AddrFrom16(a), []int{0, 48, 63, 64, 65, 66, 124, 127, 128}[rnd.IntN(9)]).Masked()
	}
	a := [4]byte{10, 0, byte(rnd.IntN(4)), byte(rnd.IntN(64))}
	return netip.PrefixFrom(netip.AddrFrom4(a), []int{0, 8, 22, 23, 26, 28, 31, 32, 32, 32}[rnd.IntN(10)]).Masked()
}

// TestTree holds trees against maps that are looked through; trees of before stay as they were.
func TestTree(t *testing.T) {
	t.Parallel()
	for _, six := range []bool{false, true} {
		rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
		var tree Tree[int]
		want, by := map[netip.Prefix]int{}, NewEdit()
		type state struct {
			tree Tree[int]
			want map[netip.Prefix]int
		}
		var before []state
		for n := range 5000 {
			p := drawn(rnd, six)
			if _, there := want[p]; there && rnd.IntN(2) == 0 {
				tree.Drop(p, by)
				delete(want, p)
			} else {
				tree.Put(p, n+1, by)
				want[p] = n + 1
			}
			check(t, &tree, want, drawn(rnd, six))
			if rnd.IntN(20) == 0 {
				before, by = append(before, state{tree, maps.Clone(want)}), NewEdit()
			}
		}
		for _, s := range before {
			check(t, &s.tree, s.want, drawn(rnd, six))
		}
	}
	if got := new(Tree[int]).Get(netip.Prefix{}); got != 0 {
		t.Error(got)
	}
}

func check(t *testing.T, tree *Tree[int], want map[netip.Prefix]int, near netip.Prefix) {
	t.Helper()
	var all, some []int
	for _, p := range slices.SortedFunc(maps.Keys(want), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	}) {
		if all = append(all, want[p]); p.Overlaps(near) {
			some = append(some, want[p])
		}
	}
	if got := slices.Collect(tree.All()); !slices.Equal(got, all) || tree.Len() != len(all) {
		t.Fatalf("all %v, want %v", got, all)
	}
	if got := slices.Collect(tree.Near(near)); !slices.Equal(got, some) {
		t.Fatalf("near %s %v, want %v", near, got, some)
	}
	if tree.Get(near) != want[near] {
		t.Fatalf("%s: %d, want %d", near, tree.Get(near), want[near])
	}
	for range tree.Near(near) { // who has seen enough
		break
	}
}
