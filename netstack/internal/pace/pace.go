// Package pace says when a manager looks at the host again: soon after a change, later
// the longer looking takes, and after an error by itself. What is looked at may not
// enter here.
package pace

import "time"

const (
	// settle is how long a change is waited with, so that a burst of them is one
	// look at the host.
	settle = 20 * time.Millisecond
	// longest is how long it is waited with where changes do not end.
	longest = 10 * settle
	// share bounds what looking at the host may take of the time: a fifth.
	share = 4
	// retryFirst and retryMost bound the pause after an error.
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// Pace is one manager's, and belongs to its goroutine.
type Pace struct {
	timer    *time.Timer
	earliest time.Time
	pause    time.Duration
	since    time.Time // the first change that nobody has looked at; zero: there is none
}

// New makes a pace of which the first look is due at once.
func New() *Pace { return &Pace{timer: time.NewTimer(0), pause: retryFirst} }

// Stop has nothing be due any more.
func (p *Pace) Stop() { p.timer.Stop() }

// Due has an element when it is time to look.
func (p *Pace) Due() <-chan time.Time { return p.timer.C }

// Changed says that there is something to look at.
func (p *Pace) Changed() {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	p.timer.Reset(max(min(settle, time.Until(p.since.Add(longest))), time.Until(p.earliest)))
}

// Looked says how long a look took. After an error another is due by itself, in the
// time that it gives.
func (p *Pace) Looked(took time.Duration, err error) (again time.Duration) {
	p.earliest, p.since = time.Now().Add(share*took), time.Time{}
	if err == nil {
		p.pause = retryFirst
		return 0
	}
	again = p.pause
	p.timer.Reset(again)
	p.pause = min(2*p.pause, retryMost)
	return again
}
