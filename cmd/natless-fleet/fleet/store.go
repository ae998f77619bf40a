package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Kind is what an object is.
type Kind string

// The kinds. Leaders has one object, by which controllers agree on one of them.
const (
	Pools   Kind = "pools"
	Blocks  Kind = "blocks"
	Hosts   Kind = "hosts"
	Relays  Kind = "relays"
	Leaders Kind = "leaders"
)

// Kinds are all.
var Kinds = []Kind{Pools, Blocks, Hosts, Relays, Leaders}

// Object is one object as a store has it. Version is what the store calls this very state
// of it, "" is one that is not there yet: the decimal number of the revision that it was
// written in, of those that List answers for its kind.
type Object struct {
	Kind    Kind
	Name    string
	Version string
	Spec    json.RawMessage
	Status  json.RawMessage // nil: none
	// Finalizers are those without whose leave the object does not go. Deleting says that
	// somebody has deleted it, and that it waits for them.
	Finalizers []string
	Deleting   bool
}

// Store keeps objects. What Get and List answer is what was written last, by whomever;
// a write goes by the version that was read, or fails. An error other than those below may
// mean that a write was made all the same.
type Store interface {
	Get(ctx context.Context, k Kind, name string) (Object, error)
	// List gives all objects of a kind, and a revision: higher than that of any list that
	// did not have a change that this one has.
	List(ctx context.Context, k Kind) ([]Object, uint64, error)
	// Watch tells of changes behind a revision, of one object or for "" of all, in their
	// order and without a gap; for 0, of those from about now on. What it tells may be late:
	// who must be certain asks again. The channel is closed when nothing more comes, at once
	// where the revision is too old.
	Watch(ctx context.Context, k Kind, name string, after uint64) (<-chan Event, error)
	// Create makes an object with its Spec and Finalizers. ErrExists.
	Create(ctx context.Context, o Object) (Object, error)
	// Update writes Spec and Finalizers, UpdateStatus writes Status. One that was deleted goes
	// with its last finalizer. ErrConflict, ErrNotFound.
	Update(ctx context.Context, o Object) (Object, error)
	UpdateStatus(ctx context.Context, o Object) (Object, error)
	// Delete removes the object if it still is of that version, or marks one that has
	// finalizers. ErrConflict, ErrNotFound.
	Delete(ctx context.Context, o Object) error
}

// Waiting is how many changes a watch holds that nobody has taken yet: who is slow takes them
// together, and does once what else were to be done for each.
const Waiting = 256

// Event is a change. Of one that is gone, Object is as it was last, or nothing but its
// name, and its version that of the change.
type Event struct {
	Object Object
	Gone   bool
}

// What a store answers when it is certain that a write was not made.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrConflict = errors.New("was changed by somebody else")
)

// ErrAnswered is what an error of a store is, besides, that is there and refuses.
var ErrAnswered = errors.New("the store answers")

// Of is an object with its spec and status understood.
type Of[S, T any] struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Spec    S      `json:"spec"`
	Status  T      `json:"status"`

	Finalizers []string `json:"finalizers,omitempty"`
	Deleting   bool     `json:"deleting,omitempty"`

	// Broken is why a host's or a relay's object is not understood, as it is listed: its status
	// is empty then, and where Unread its spec too.
	Broken string `json:"broken,omitempty"`
	Unread bool   `json:"-"`
}

// The objects by their names.
type (
	Pool   = Of[PoolSpec, PoolStatus]
	Block  = Of[BlockSpec, BlockStatus]
	Host   = Of[HostSpec, HostStatus]
	Relay  = Of[RelaySpec, RelayStatus]
	Leader = Of[LeaderSpec, struct{}]
)

// revisionOf is the revision that a version is of; 0: that of no object.
func revisionOf(version string) uint64 {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func parse[S, T any](o Object) (of Of[S, T], err error) {
	of.Name, of.Version, of.Finalizers, of.Deleting = o.Name, o.Version, o.Finalizers, o.Deleting
	var spec S
	var status T
	if err = json.Unmarshal(o.Spec, &spec); err == nil {
		of.Spec = spec
		if len(o.Status) > 0 {
			err = json.Unmarshal(o.Status, &status)
		}
	} else {
		of.Unread = true
	}
	if err != nil {
		return of, fmt.Errorf("%s %s: %w", o.Kind, o.Name, err)
	}
	of.Status = status
	return of, nil
}

func object[S, T any](k Kind, of Of[S, T]) Object {
	spec, err := json.Marshal(of.Spec)
	status, err2 := json.Marshal(of.Status)
	if err := errors.Join(err, err2); err != nil {
		panic(err) // a type of ours that has no JSON
	}
	return Object{Kind: k, Name: of.Name, Version: of.Version, Spec: spec, Status: status, Finalizers: of.Finalizers, Deleting: of.Deleting}
}

// Get reads one object. A status that nobody understands, of a host or a relay, is Broken:
// its agent writes it anew, and operators can say what they have to say of it.
func Get[S, T any](ctx context.Context, s Store, k Kind, name string) (of Of[S, T], err error) {
	o, err := s.Get(ctx, k, name)
	if err != nil {
		return of, err
	}
	if of, err = understood[S, T](o); of.Unread && err == nil {
		err = errors.New(of.Broken) // what it is told is not known
	}
	return of, err
}

// List reads all objects of a kind. One that nobody understands is an error: what it says
// may be that somebody has something. But what a host or a relay writes of itself is not to be in
// the way of all others: that is Broken.
func List[S, T any](ctx context.Context, s Store, k Kind) (all []Of[S, T], revision uint64, err error) {
	objects, revision, err := s.List(ctx, k)
	if err != nil {
		return nil, 0, err
	}
	for _, o := range objects {
		of, err := understood[S, T](o)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, of)
	}
	return all, revision, nil
}

func understood[S, T any](o Object) (Of[S, T], error) {
	of, err := parse[S, T](o)
	if err != nil && (o.Kind == Hosts || o.Kind == Relays) {
		of.Broken, err = err.Error(), nil
	}
	return of, err
}

// Create makes an object.
func Create[S, T any](ctx context.Context, s Store, k Kind, of Of[S, T]) (Of[S, T], error) {
	return written[S, T](s.Create(ctx, object(k, of)))
}

// Update writes an object's spec.
func Update[S, T any](ctx context.Context, s Store, k Kind, of Of[S, T]) (Of[S, T], error) {
	return written[S, T](s.Update(ctx, object(k, of)))
}

// UpdateStatus writes an object's status.
func UpdateStatus[S, T any](ctx context.Context, s Store, k Kind, of Of[S, T]) (Of[S, T], error) {
	return written[S, T](s.UpdateStatus(ctx, object(k, of)))
}

// Delete removes an object.
func Delete[S, T any](ctx context.Context, s Store, k Kind, of Of[S, T]) error {
	return s.Delete(ctx, object(k, of))
}

func written[S, T any](o Object, err error) (of Of[S, T], _ error) {
	if err != nil {
		return of, err
	}
	return understood[S, T](o)
}
