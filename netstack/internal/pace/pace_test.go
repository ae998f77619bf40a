package pace

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A burst of changes is one look, a look is followed by a rest of four times as
// long, and an error by another look, later each time.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New()
		defer p.Stop()
		began := time.Now()
		due := func(want time.Duration) {
			t.Helper()
			if got := (<-p.Due()).Sub(began); got != want {
				t.Errorf("due after %v, want %v", got, want)
			}
			began = time.Now()
		}
		due(0)
		p.Looked(0, nil)
		p.Changed()
		time.Sleep(settle / 2)
		p.Changed()
		due(settle + settle/2)
		p.Looked(time.Second, nil)
		p.Changed()
		due(share * time.Second)
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			if again := p.Looked(0, errors.New("refused")); again != want*time.Second {
				t.Errorf("again in %v, want %v s", again, want)
			}
			due(want * time.Second)
		}
		p.Looked(0, nil)
		p.Looked(0, errors.New("refused"))
		due(retryFirst)
	})
}

// Changes that never end, as those of routes by BGP, keep nobody from looking: there is
// a look all the while, with rests as after any other.
func TestChangesWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New()
		defer p.Stop()
		<-p.Due()
		p.Looked(0, nil)
		looks := 0
		for range 1000 { // 10 s
			p.Changed()
			time.Sleep(settle / 2)
			select {
			case <-p.Due():
				looks++
				p.Looked(50*time.Millisecond, nil)
			default:
			}
		}
		if looks < 30 || looks > 60 {
			t.Errorf("%d looks in 10 s", looks)
		}
	})
}
