package registry

import (
	"runtime"
	"testing"
	"time"
)

// TestPoolsLetOthersIn: a change does not wait until all addresses of a pool are counted.
func TestPoolsLetOthersIn(t *testing.T) {
	t.Parallel()
	r, _ := start(t, shared("10.64.0.0/22", 1024))
	mustPut(t, r, 1, request(1))
	pauses, p := 0, r.state.pools[0]
	r.mu.RLock()
	u := p.usage(nil, func() {
		pauses++
		r.mu.RUnlock()
		mustPut(t, r, pauses+1, request(pauses+1)) // it would wait for ever otherwise
		r.mu.RLock()
	})
	r.mu.RUnlock()
	if want := 1024 / addressesAtOnce; pauses != want || len(u.Addresses) != 1024 {
		t.Errorf("%d pauses for %d addresses, want %d", pauses, len(u.Addresses), want)
	}
	done := make(chan struct{})
	go func() { // and Pools itself, while others come and go
		defer close(done)
		for n := range 50 {
			_, _ = r.Put(t.Context(), key(n+100), request(n+100))
			_ = r.Delete(t.Context(), key(n+100))
		}
	}()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); runtime.Gosched() {
		u := r.Pools()[0]
		if u.PortsCooling < 0 || u.Headroom < 0 || u.Workloads < 1 {
			t.Fatalf("%+v", u)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
