package budget

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoomSendsAwayTheGreediest(t *testing.T) {
	r := Room[string]{Most: 4}
	var out []string
	enter := func(owner, name string) *Guest[string] {
		return r.Enter(owner, func() { out = append(out, name) })
	}
	a1 := enter("a", "a1")
	enter("a", "a2")
	enter("a", "a3")
	b1 := enter("b", "b1")
	done := a1.Serve()
	enter("c", "c1") // of a's, a1 is being served: a2 has waited longest
	done()           // a1 waits anew, behind a3
	enter("d", "d1")
	if b1.gone || len(out) != 2 || out[0] != "a2" || out[1] != "a3" {
		t.Fatalf("sent away: %v", out)
	}
	enter("b", "b2") // each has one, and b comes for a second: its own first goes
	if out[2] != "b1" || r.Len() != 4 || r.Evicted() != 3 {
		t.Fatalf("sent away: %v, %d are there", out, r.Len())
	}
	b1.Leave() // gone already
	if r.Len() != 4 {
		t.Error("who was sent away left a second time")
	}
	for g := range r.guests {
		g.Serve()
	}
	if g := enter("e", "e1"); g != nil || r.Len() != 4 {
		t.Error("somebody who was being served was sent away")
	}
}

// TestRoomLeavesTime: nobody goes before he has been there for Least; who comes
// waits for that.
func TestRoomLeavesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Room[int]{Most: 2, Least: time.Second}
		began := time.Now()
		var went []time.Duration
		for i := range 6 {
			r.Enter(i, func() { went = append(went, time.Since(began)) })
		}
		if want := []time.Duration{1e9, 1e9, 2e9, 2e9}; !slices.Equal(went, want) || r.Len() != 2 {
			t.Errorf("they went after %v, not %v; %d are there", went, want, r.Len())
		}
	})
}

// TestRoomLeavesLittle: whatever those do who take much, who has no more than an
// even share stays.
func TestRoomLeavesLittle(t *testing.T) {
	const most, owners = 64, 8
	r := Room[int]{Most: most}
	mine := 0
	for range most / (owners + 1) {
		r.Enter(-1, func() { mine++ })
	}
	for range 10_000 {
		r.Enter(rand.IntN(owners), func() {})
	}
	if mine != 0 || r.Len() != most {
		t.Errorf("%d of an even share were sent away; %d are there", mine, r.Len())
	}
}

func TestTurns(t *testing.T) {
	turns := Turns[string]{AtOnce: 3, Each: 2}
	end1, _ := turns.Try("a")
	turns.Try("a")
	if _, ok := turns.Try("a"); ok {
		t.Error("a third turn of one owner")
	}
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := turns.Wait(soon, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third turn of one owner: %v", err)
	}
	got := make(chan func())
	go func() { end, _ := turns.Wait(t.Context(), "a"); got <- end }()
	for {
		turns.mu.Lock()
		n := len(turns.waiting)
		turns.mu.Unlock()
		if n == 1 {
			break
		}
	}
	end2, ok := turns.Try("b")
	if !ok {
		t.Fatal("another waits behind one who has as many as he may have")
	}
	end2()
	select {
	case <-got:
		t.Fatal("a turn too many")
	default:
	}
	end1()
	(<-got)()
	if turns.Refused() != 2 || turns.now != 1 || len(turns.waiting) != 0 {
		t.Errorf("%+v", &turns)
	}
}

// TestTurnsTogether: never more than there are, and each gets one.
func TestTurnsTogether(t *testing.T) {
	turns := Turns[int]{AtOnce: 3, Each: 2}
	var mu sync.Mutex
	var now int
	of := map[int]int{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			end, err := turns.Wait(t.Context(), i%3)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			now++
			of[i%3]++
			if now > 3 || of[i%3] > 2 {
				t.Errorf("%d at once, %v", now, of)
			}
			mu.Unlock()
			time.Sleep(100 * time.Microsecond)
			mu.Lock()
			now--
			of[i%3]--
			mu.Unlock()
			end()
		})
	}
	wg.Wait()
	if turns.now != 0 || len(turns.of) != 0 {
		t.Errorf("left: %+v", &turns)
	}
}

// TestTurnsBetweenOthers: whoever has many waiting, and be it by the names of
// several, has another wait behind one of each and no more.
func TestTurnsBetweenOthers(t *testing.T) {
	const crowds, each = 3, 50
	turns := Turns[int]{AtOnce: 2, Each: 1}
	end1, _ := turns.Try(1)
	end2, _ := turns.Try(2)
	served := make(chan int)
	enter := func(owner, waiting int) {
		go func() {
			end, err := turns.Wait(t.Context(), owner)
			if err != nil {
				return
			}
			served <- owner
			end()
		}()
		for {
			turns.mu.Lock()
			n := len(turns.waiting)
			turns.mu.Unlock()
			if n == waiting {
				return
			}
			runtime.Gosched()
		}
	}
	for i := range each {
		for owner := range crowds {
			enter(1+owner, i*crowds+owner+1)
		}
	}
	enter(0, crowds*each+1)
	end1()
	end2()
	place, count := 0, map[int]int{}
	for i := range crowds*each + 1 {
		owner := <-served
		if count[owner]++; owner == 0 {
			place = i
		}
	}
	if place > crowds+2 { // two may overtake each other on their way to us
		t.Errorf("who came last, with one, was served after %d others", place)
	}
	if count[1] != each || count[2] != each || count[3] != each {
		t.Errorf("served: %v", count)
	}
	turns.mu.Lock()
	defer turns.mu.Unlock()
	if len(turns.rounds) != 0 || len(turns.waiting) != 0 {
		t.Errorf("left: %+v", turns.rounds)
	}
}
