package fleet

import (
	"context"
	"errors"
	"time"
)

// Elector agrees with others on one that works. Nothing is right or wrong by who leads: a
// clock that is wrong, or one that slept, costs work that is done twice. It never compares
// clocks of two machines: who sees that nobody renews for long, by his own, takes over.
type Elector struct {
	Name     string // of who would lead; no other has it
	Store    Store
	Duration time.Duration
	Now      func() time.Time

	version string    // of the object as it was seen last
	seen    time.Time // since when it is as it is
	renewed time.Time // when this one wrote it last
}

const leader = "natless-fleet"

// Lead says whether this one leads now. Ask well within Duration.
func (e *Elector) Lead(ctx context.Context) (bool, error) {
	o, err := Get[LeaderSpec, struct{}](ctx, e.Store, Leaders, leader)
	if errors.Is(err, ErrNotFound) {
		return e.write(ctx, Create[LeaderSpec, struct{}], Leader{Name: leader})
	}
	if err != nil {
		return false, err
	}
	now := e.Now()
	if o.Version != e.version || now.Before(e.seen) {
		e.version, e.seen = o.Version, now
	}
	mine := o.Spec.HolderIdentity == e.Name
	switch {
	case mine && now.Sub(e.renewed) < e.Duration/3 && !now.Before(e.renewed):
		return true, nil
	case mine, o.Spec.HolderIdentity == "", now.Sub(e.seen) > e.Duration:
		return e.write(ctx, Update[LeaderSpec, struct{}], o)
	}
	return false, nil
}

func (e *Elector) write(ctx context.Context, by func(context.Context, Store, Kind, Leader) (Leader, error), o Leader) (bool, error) {
	if o.Spec.HolderIdentity != e.Name {
		o.Spec.LeaseTransitions++
	}
	o.Spec.HolderIdentity, o.Spec.LeaseDurationSeconds = e.Name, max(1, int(e.Duration.Seconds()))
	o.Spec.RenewTime = e.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	o, err := by(ctx, e.Store, Leaders, o)
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrExists) || errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	e.version, e.seen, e.renewed = o.Version, e.Now(), e.Now()
	return true, nil
}
