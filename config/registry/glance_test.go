package registry

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/natless/natless/translator/ports"
)

// TestGlance: what is told without a look at the state is what the state has, whatever
// has come, gone, moved, and come back.
func TestGlance(t *testing.T) {
	all, upper := ports.MustParse("10240-20479"), ports.MustParse("14336-20479")
	sets := [][]Pool{
		{uplink("host", "192.0.2.1", all), shared("198.51.100.8/31", 1024)},
		{uplink("host", "192.0.2.1", upper), shared("198.51.100.8/32", 1024)},
		{uplink("host", "192.0.2.9", all), shared("198.51.100.9/32", 1024)},
		{shared("198.51.100.10/31", 1024)},
	}
	r, clock := start(t, sets[0]...)
	seen := map[string]int{}
	check := func(after string) {
		t.Helper()
		outside := r.state.outside(func(a netip.Addr) *pool { return r.state.addresses[a].pool })
		barred := r.state.onBarred(r.barred)
		if got := r.Outside(); !reflect.DeepEqual(got, outside) {
			t.Fatalf("after %s: %v is outside, want %v", after, got, outside)
		}
		if got := r.OnBarred(); !reflect.DeepEqual(got, barred) || r.Len() != len(r.present()) || r.Insiders() != r.state.insiders {
			t.Fatalf("after %s: %v on barred, want %v; %d there, want %d", after, got, barred, r.Len(), len(r.present()))
		}
		seen["outside"] += len(outside)
		seen["barred"] += len(barred)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		clock.advance(time.Minute) // nothing cools down for longer
		n := random.IntN(12)
		q := request(n)
		switch random.IntN(12) {
		case 0:
			p, err := r.Plan(sets[random.IntN(len(sets))], 10)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Move()
			if check("a move"); err == nil && random.IntN(4) > 0 {
				p.Commit()
				check("other pools")
			} else if err := p.Back(); err != nil {
				t.Fatal(err)
			}
		case 1:
			r.Bar(map[netip.Addr]string{netip.MustParseAddr("198.51.100.8"): "test"})
		case 2:
			r.Bar(nil)
		case 3, 4, 5:
			_ = r.Delete(t.Context(), key(n)) // it may not be there
		case 6, 7, 8:
			q.Pool = "host"
			fallthrough
		default:
			_, _ = r.Put(t.Context(), key(n), q) // the pool may be gone, or full
		}
		check("a change")
	}
	if seen["outside"] < 20 || seen["barred"] < 20 {
		t.Errorf("%v: the test tests little", seen)
	}
}

// TestGlanceDoesNotWait: a change holds the state until it is on disk, and who asks for
// the status does not wait for the disk.
func TestGlanceDoesNotWait(t *testing.T) {
	t.Parallel()
	r, _ := start(t, shared("198.51.100.8/31", 1024))
	mustPut(t, r, 1, request(1))
	r.Outside() // is found out once
	done := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	go func() {
		defer close(done)
		_, _, _, _ = r.Len(), r.Insiders(), r.OnBarred(), r.Outside()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("who glances waits for who writes")
	}
}
