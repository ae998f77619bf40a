package dns64

import (
	"net/netip"
	"sync"
	"time"
)

// What timed out for a client is held against it for leniency; each time halves
// its share, as often as maxDemerits.
const (
	leniency    = 10 * time.Second
	maxDemerits = 4
	maxHolders  = 4096 // clients to remember anything about
)

// shares divides places among clients, so that none keeps the others out. A
// client may hold as many as are free, so one alone gets half of all, and
// however many take what they can, the next finds places (dynamic thresholds:
// Choudhury and Hahne, 1998). Who holds places for nothing gets fewer.
type shares struct {
	places int

	mu      sync.Mutex
	held    int
	holders map[netip.Addr]*holder
}

type holder struct {
	held     int
	demerits int
	demerit  time.Time // when it got the last
}

func newShares(places int) *shares {
	return &shares{places: places, holders: map[netip.Addr]*holder{}}
}

// take gives the client a place, unless it has its share.
func (s *shares) take(client netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[client]
	if h == nil {
		h = &holder{}
	}
	if h.demerits > 0 && now.Sub(h.demerit) > leniency {
		h.demerits = 0
	}
	free := s.places - s.held
	if free == 0 || h.held > 0 && h.held >= free>>h.demerits {
		return false
	}
	h.held++
	s.held++
	s.holders[client] = h
	return true
}

// release gives a place back. It was in vain when it was held until a timeout.
func (s *shares) release(client netip.Addr, vain bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[client]
	h.held--
	s.held--
	if vain {
		h.demerits, h.demerit = min(h.demerits+1, maxDemerits), now
	}
	if h.held == 0 && (h.demerits == 0 || len(s.holders) > maxHolders) {
		delete(s.holders, client)
	}
	if len(s.holders) > maxHolders {
		s.forget()
	}
}

// forget drops everybody who holds nothing.
func (s *shares) forget() {
	for client, h := range s.holders {
		if h.held == 0 {
			delete(s.holders, client)
		}
	}
}

// inUse is how many places are held.
func (s *shares) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}
