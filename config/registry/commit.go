package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// op is one wish to change the registry.
type op struct {
	ctx context.Context
	// apply changes state and transaction, or fails before it changed either.
	// Any error of the database is a storeError.
	apply  func(*txn) error
	change Change
	err    error
	done   bool
}

// queue gathers what waits for the disk. Who comes first commits for all that
// queued up behind the commit before. db.Batch would do that too, but it makes
// a lone caller wait for company.
type queue struct {
	leader sync.Mutex // held by who commits, and while the sink works

	mu      sync.Mutex
	waiting []*op
}

// warmAtOnce bounds how many sets that cooled down one transaction frees, so
// that the first caller after a mass exodus does not pay for all.
const warmAtOnce = 256

// errClean rolls back a transaction that changed nothing, to spare the disk.
var errClean = errors.New("nothing changed")

// storeError is an error of the database: the whole transaction fails.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// do has ops applied, committed and handed to the sink, and gives the error of
// the last.
func (r *Registry) do(ctx context.Context, ops ...*op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, o := range ops {
		o.ctx = ctx
	}
	last := ops[len(ops)-1]
	r.commits.mu.Lock()
	r.commits.waiting = append(r.commits.waiting, ops...)
	r.commits.mu.Unlock()

	r.commits.leader.Lock()
	defer r.commits.leader.Unlock()
	if last.done {
		return last.err
	}
	r.commits.mu.Lock()
	batch := r.commits.waiting
	r.commits.waiting = nil
	r.commits.mu.Unlock()
	r.commit(batch)
	return last.err
}

// commit makes one transaction of the batch. The leader calls it.
func (r *Registry) commit(batch []*op) {
	if err := r.write(batch); err != nil {
		for _, o := range batch {
			o.err, o.done = err, true
		}
		return
	}
	for _, o := range batch {
		o.done = true
		if o.err != nil || o.change == (Change{}) {
			continue
		}
		// The change is durable, so neither a caller that left nor its
		// deadline may keep it from the table.
		if err := r.sink(context.WithoutCancel(o.ctx), o.change); err != nil {
			o.err = r.undo(o, err)
		}
	}
}

// write applies the batch and puts it on disk. When that fails, memory is built
// anew from what the disk has.
func (r *Registry) write(batch []*op) error {
	r.lock()
	defer r.unlock()
	err := r.update(func(tx *bolt.Tx) error {
		t := &txn{Registry: r, tx: tx, now: r.now()}
		if _, err := t.warmUp(warmAtOnce); err != nil {
			return err
		}
		for _, o := range batch {
			o.err = o.apply(t)
			var broken storeError
			if errors.As(o.err, &broken) {
				return o.err
			}
		}
		if !t.dirty {
			return errClean
		}
		at("registry: write")
		return nil
	})
	if err == nil {
		at("registry: written")
		r.failed.Store(nil)
	}
	if err == nil || err == errClean {
		return nil
	}
	if r.broken.Load() != nil {
		return err
	}
	failed := &WriteError{Path: r.path, Err: err}
	r.failed.Store(failed)
	return errors.Join(failed, r.rebuild())
}

// update is bbolt's Update, guarded. After a panic nothing is known of the
// database, and its locks may be held for ever; nor is anything known after an
// error behind which the transaction is seen to have happened: what the disk has
// is only known when it is read again by the next start, so until then nothing is
// written on top of it.
func (r *Registry) update(f func(*bolt.Tx) error) error {
	id := 0
	err := r.guarded(func() error {
		return change(r.db, func(tx *bolt.Tx) error { id = tx.ID(); return f(tx) })
	})
	if err == nil || err == errClean || r.broken.Load() != nil {
		return err
	}
	now := 0
	again := r.guarded(func() error { return r.db.View(func(tx *bolt.Tx) error { now = tx.ID(); return nil }) })
	if again == nil && now < id {
		return err
	}
	return r.breaks(err)
}

// view is bbolt's View, guarded.
func (r *Registry) view(f func(*bolt.Tx) error) error {
	return r.guarded(func() error { return r.db.View(f) })
}

func (r *Registry) guarded(f func() error) error {
	if broken := r.broken.Load(); broken != nil {
		return broken
	}
	err := guard(f)
	var damage *damageError
	if errors.As(err, &damage) {
		r.log.Error("registry", "path", r.path, "error", err, "stack", string(damage.stack))
		return r.breaks(err)
	}
	return err
}

// breaks ends all use of the database. What is assigned goes on as it is.
func (r *Registry) breaks(err error) error {
	r.broken.CompareAndSwap(nil, &WriteError{Path: r.path, Err: err, Unknown: true})
	return r.broken.Load()
}

// Failed is why the last change could not be written; nil when it could.
func (r *Registry) Failed() error {
	if failed := r.failed.Load(); failed != nil {
		return failed
	}
	return nil
}

// Broken says why nothing can be assigned any more, or nil.
func (r *Registry) Broken() error {
	if broken := r.broken.Load(); broken != nil {
		return broken
	}
	return nil
}

// rebuild makes memory the same as the disk.
func (r *Registry) rebuild() error {
	return r.view(func(tx *bolt.Tx) error {
		s, err := r.reload(tx, r.state.pools)
		if err == nil {
			r.state = s
			r.state.bar(r.barred)
		}
		return err
	})
}

// undo takes back an assignment that the sink refused. What it replaced has
// ended, too.
func (r *Registry) undo(o *op, cause error) error {
	cause = fmt.Errorf("assignment is durable but was not put into effect: %w", cause)
	gone := o.change.New
	if gone == nil {
		return cause
	}
	back := &op{apply: func(t *txn) error { return t.end(gone, false) }}
	err := r.write([]*op{back})
	if o.change.Old != nil {
		err = errors.Join(err, r.sink(context.WithoutCancel(o.ctx), Change{Old: o.change.Old}))
	}
	return errors.Join(cause, err, back.err)
}

// txn is a transaction and the time it happens at.
type txn struct {
	*Registry
	tx    *bolt.Tx
	now   time.Time
	dirty bool // something was changed
}
