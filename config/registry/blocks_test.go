package registry

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

func lentState() lease.State {
	return lease.State{Boot: "b", Epoch: 7, Blocks: []api.Block{{IPv4: netip.MustParsePrefix("198.51.100.8/31"), Pool: "lent", Lease: 3},
		{IPv4: netip.MustParsePrefix("198.51.100.12/32"), Pool: "lent", Lease: 4, Draining: true}},
		Returned: []api.ReturnedBlock{{IPv4: netip.MustParsePrefix("198.51.100.20/32"), Lease: 2}}}
}

// TestBlocksOnDisk: what a host was lent is there again, also beside a registry of before,
// and a file of which a byte is another is refused and not believed.
func TestBlocksOnDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	open := func() (*Registry, error) { return Open(Options{Path: path}) }
	r, err := open()
	if err != nil || !r.Blocks().Equal(lease.State{}) {
		t.Fatalf("at first: %v", err)
	}
	if err := errors.Join(r.SetBlocks(lentState()), r.Close()); err != nil {
		t.Fatal(err)
	}
	if r, err = open(); err != nil || !r.Blocks().Equal(lentState()) {
		t.Fatalf("%+v, %v", r.Blocks(), err)
	}
	r.Close()
	whole, err := os.ReadFile(blocksPath(path))
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 0x02 // also of a digit another digit
		var s lease.State
		if err := decodeSummed(damaged, &s); err == nil && !s.Equal(lentState()) {
			t.Errorf("byte %d: %+v", i, s)
		}
		if err := decodeSummed(whole[:i], &s); err == nil {
			t.Errorf("cut short to %d: %+v", i, s)
		}
	}
	whole[len(whole)/2] ^= 0x02
	if err := os.WriteFile(blocksPath(path), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "delete it, and natless-fleet agent says it again") {
		t.Errorf("%v", err)
	}
}

// TestBlocksNotWritten: what cannot be written is not believed.
func TestBlocksNotWritten(t *testing.T) {
	t.Parallel()
	r, _ := start(t)
	if err := os.Mkdir(blocksPath(r.path)+".new", 0o700); err != nil { // in the way, also of root
		t.Fatal(err)
	}
	disk := new(WriteError)
	if err := r.SetBlocks(lentState()); !errors.As(err, &disk) || !r.Blocks().Equal(lease.State{}) {
		t.Errorf("%v, %+v", err, r.Blocks())
	}
}

// TestPoolOfBlocks: a pool of the fleet's gives of its blocks what it has, none where it
// has none, and follows blocks that come and go; what goes stays whose it is.
func TestPoolOfBlocks(t *testing.T) {
	t.Parallel()
	pool := Pool{Name: "lent", Fleet: true, PortsPerWorkload: 16384}
	r, _ := start(t, pool)
	full := new(ExhaustedError)
	if _, err := r.Put(t.Context(), key(1), request(1)); !errors.As(err, &full) || !strings.Contains(err.Error(), "no block") {
		t.Fatalf("%v", err)
	}
	lend := func(blocks ...string) error {
		pool.Blocks = nil
		for _, b := range blocks {
			pool.Blocks = append(pool.Blocks, netip.MustParsePrefix(b))
		}
		p, err := r.Plan([]Pool{pool}, 100)
		if err != nil {
			return err
		}
		if _, err := p.Move(); err != nil {
			return err
		}
		p.Commit()
		return nil
	}
	if err := lend("198.51.100.8/32", "203.0.113.4/31"); err != nil {
		t.Fatal(err)
	}
	if n := r.PerAddress("lent"); r.Pools()[0].Headroom != 3*n || n == 0 || len(r.Pools()[0].Addresses) != 3 || !r.Pools()[0].Fleet {
		t.Errorf("%+v", r.Pools()[0])
	}
	wish := request(1)
	wish.Address = netip.MustParseAddr("203.0.113.5")
	a := mustPut(t, r, 1, wish)
	block := netip.MustParsePrefix("203.0.113.4/31")
	if u := r.Use(block); u.Workloads != 1 || len(u.Names) != 1 || u.Cooling != 0 {
		t.Errorf("%+v", u)
	}
	if err := lend("198.51.100.8/32"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Get(key(1)); err != nil || got.Address != a.Address || got.Serial != a.Serial {
		t.Errorf("%+v, %v", got, err)
	}
	other := request(2)
	other.Address = netip.MustParseAddr("203.0.113.4")
	wrong := new(FieldError)
	if _, err := r.Put(t.Context(), key(2), other); !errors.As(err, &wrong) {
		t.Errorf("of a block that is gone: %v", err)
	}
	if err := r.Delete(t.Context(), key(1)); err != nil {
		t.Fatal(err)
	}
	if err := lend("198.51.100.8/31", "198.51.100.9/32"); err == nil {
		t.Error("blocks that overlap")
	}
}
