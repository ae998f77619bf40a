package mapping

import (
	"net/netip"
	"runtime"
	"testing"
)

// TestEntriesBreathe: whoever goes through a large table on the only processor lets
// others have it in between, and not only when he is interrupted, after 10 ms.
func TestEntriesBreathe(t *testing.T) { // not parallel: it is about processors
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const n = 40 * breath
	table, err := New(netip.Prefix{}, hosts(n))
	if err != nil {
		t.Fatal(err)
	}
	done, turns := false, 0
	go func() {
		for !done {
			turns++
			runtime.Gosched()
		}
	}()
	runtime.Gosched()
	turns = 0
	for range table.Entries() {
	}
	if turns < n/breath/2 { // now and then the runtime has something of its own to do
		t.Errorf("others came first %d times in %d entries", turns, n)
	}
	done = true
}
