package dns64

import (
	"sync"
	"time"
)

// What timed out for a client is held against it for leniency; each time halves
// its share, as often as maxDemerits.
const (
	leniency    = 10 * time.Second
	maxDemerits = 4
	portion     = 2    // a quarter
	maxHolders  = 4096 // clients to remember anything about
)

// shares divides places among clients, so that none keeps the others out. A
// client may hold a quarter of as many as are free, so one alone gets a fifth of
// all, and however many take what they can, the next finds places (dynamic
// thresholds: Choudhury and Hahne, 1998). Who holds places for nothing gets
// fewer.
//
// Guests, who can be as many as they like, have half of the places together,
// and a sixteenth is for nobody but this host.
type shares struct {
	places int

	mu      sync.Mutex
	held    int
	guests  int // of them
	holders map[client]*holder
}

type holder struct {
	held     int
	demerits int
	demerit  time.Time // when it got the last
}

func newShares(places int) *shares {
	return &shares{places: places, holders: map[client]*holder{}}
}

// take gives the client a place, unless it has its share.
func (s *shares) take(who client, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[who]
	if h == nil {
		h = &holder{}
	}
	if h.demerits > 0 && now.Sub(h.demerit) > leniency {
		h.demerits = 0
	}
	free := s.free(who.class)
	if free <= 0 || h.held > 0 && h.held >= free>>(portion+h.demerits) {
		return false
	}
	h.held++
	s.held++
	if who.class >= guest {
		s.guests++
	}
	s.holders[who] = h
	return true
}

// free is how many places there are for a class.
func (s *shares) free(of class) int {
	free := s.places - s.held
	if of != host {
		free -= s.places / 16
	}
	if of >= guest {
		free = min(free, s.places/2-s.guests)
	}
	return free
}

// release gives a place back. It was in vain when it was held until a timeout.
func (s *shares) release(who client, vain bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[who]
	h.held--
	s.held--
	if who.class >= guest {
		s.guests--
	}
	if vain {
		h.blame(now)
	}
	if h.held == 0 && h.demerits == 0 {
		delete(s.holders, who)
	}
	if len(s.holders) > maxHolders {
		s.forget()
	}
}

func (h *holder) blame(now time.Time) {
	h.demerits, h.demerit = min(h.demerits+1, maxDemerits), now
}

// blame holds something against a client that has places.
func (s *shares) blame(who client, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.holders[who]; h != nil {
		h.blame(now)
	}
}

// forget drops everybody who holds nothing.
func (s *shares) forget() {
	for who, h := range s.holders {
		if h.held == 0 {
			delete(s.holders, who)
		}
	}
}

// inUse is how many places are held.
func (s *shares) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}
