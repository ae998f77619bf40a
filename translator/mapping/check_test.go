package mapping

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestCheck: what Check says of a mapping that comes, or takes another's place, is
// what the edit then says.
func TestCheck(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(11, 5))
	table, err := New(netip.Prefix{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var there []Mapping
	random := func() Mapping {
		data := make([]byte, 16)
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		return (&world{data: data}).mapping()
	}
	took, refused := 0, 0
	for range 20_000 {
		m, instead, edit := random(), Mapping{}, table.Edit()
		if len(there) > 0 && rnd.IntN(2) == 0 {
			instead = there[rnd.IntN(len(there))]
			if err := edit.Remove(instead); err != nil {
				t.Fatal(err)
			}
			if rnd.IntN(2) == 0 { // much of it stays
				m.IPv4, m.Ports = instead.IPv4, instead.Ports
			}
		}
		want, got := edit.Insert(m), table.Check(m, instead)
		if (want == nil) != (got == nil) {
			t.Fatalf("%v instead of %v: the edit says %v, Check %v", m, instead, want, got)
		}
		if want != nil {
			refused++
			continue
		}
		if took++; len(there) > 30 {
			continue
		}
		table, there = edit.Table(), nil
		for m := range table.All() {
			there = append(there, m)
		}
	}
	if took < 1000 || refused < 1000 {
		t.Errorf("%d were taken and %d refused: this proves nothing", took, refused)
	}
}
