//go:build linux

package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// step is a step of a commit. It does all or nothing, unless it is partial. Doing or
// undoing it twice is the same as once.
type step struct {
	name    string
	do      func() error
	undo    func() error
	partial bool // when it fails, some of it may have been done
}

// StepError says at which step a commit failed. The state before it is in force
// again, unless Back says why not.
type StepError struct {
	Step      string
	Err, Back error
}

func (e *StepError) Error() string {
	if e.Back != nil {
		return fmt.Sprintf("%s: %v; and going back: %v: parts of the new configuration are in force, until a reload succeeds or natlessd "+
			"is restarted", e.Step, e.Err, e.Back)
	}
	return fmt.Sprintf("%s: %v; what was before is in force again", e.Step, e.Err)
}

func (e *StepError) Unwrap() []error {
	return slices.DeleteFunc([]error{e.Err, e.Back}, func(err error) bool { return err == nil })
}

// failpoint is the name of an environment variable that names the step before which
// the process is killed. Only what tests/crash links has one.
var failpoint string

func at(step string) {
	if failpoint != "" && os.Getenv(failpoint) == step {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// run does steps in order. When one fails, those before it are undone, the last
// first.
func run(steps []step) error {
	for i, s := range steps {
		at(s.name)
		err := s.do()
		if err == nil {
			continue
		}
		done := steps[:i]
		if s.partial {
			done = steps[:i+1]
		}
		return &StepError{s.name, err, undo(done)}
	}
	return nil
}

func undo(done []step) error {
	var errs []error
	for _, s := range slices.Backward(done) {
		if err := s.undo(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}

// Commit puts the plan's state in force. Either all of it is afterwards, or the one
// before is and the error says at which step it failed: a *StepError, if any was
// begun. Changes of workloads wait while the table is swapped, and for nothing else.
func (p *Plan) Commit() error {
	defer p.Drop()
	if err := p.catchUp(); err != nil {
		return err
	}
	e, next := p.engine, p.next
	steps, err := p.swap()
	if err != nil {
		return p.failed(err)
	}
	routes := step{name: "routes", do: func() error {
		if p.told {
			return nil // they stay
		}
		return e.parts.Routes.Set(next.Routes)
	}}
	at(routes.name)
	if err := routes.do(); err != nil {
		p.prepareBack()
		e.mu.Lock()
		defer e.mu.Unlock()
		return p.failed(&StepError{routes.name, err, undo(steps)})
	}
	e.state.Store(next)
	e.torn = nil
	at("end")
	return nil
}

// failed remembers where going back failed: the next plan makes everything anew.
func (p *Plan) failed(err error) error {
	if e := (*StepError)(nil); errors.As(err, &e) && e.Back != nil {
		p.engine.torn = append(p.engine.torn, p.next.Explicit)
	}
	return err
}

// swap does what must happen between two changes of workloads: first what judges
// packets, then what translates them. It gives the steps that were done.
func (p *Plan) swap() (steps []step, err error) {
	e := p.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !p.changesTranslator():
		return nil, nil
	case p.beside != nil:
		p.back = wayBack{table: e.Table(), config: e.parts.Translator.Config(), at: len(e.since)}
		if err := p.replay(e.since[p.replayed:]); err != nil {
			return nil, err
		}
		if p.beside, err = p.catchUpPolicies(p.beside); err != nil {
			return nil, err
		}
		steps = p.replacing()
	default:
		after, err := p.edit(e.Table())
		if err != nil {
			return nil, err
		}
		if after, err = p.catchUpPolicies(after); err != nil {
			return nil, err
		}
		steps = p.editing(after)
	}
	began := time.Now()
	err = run(steps)
	p.took.Swap = time.Since(began)
	return steps, err
}

// replacing are the steps where another table stands beside the one in force.
func (p *Plan) replacing() []step {
	e := p.engine
	come := comers(p.moves, e.since) // since the plan was made, and the moved
	before := sync.OnceValues(p.tableBefore)
	return []step{{
		name: "guard",
		do:   func() error { return p.police(p.beside, come...) },
		undo: back(before, p.policeBack),
	}, {
		name: "translator",
		do:   func() error { return e.renumber(p.next.Translator, p.beside, p.slots) },
		undo: back(before, func(table *mapping.Table) error { return e.renumber(p.back.config, table, p.slotsBack(table)) }),
	}, {
		name: "fast path", partial: true,
		do: func() error {
			if p.kernel == nil {
				return nil
			}
			if err := p.kernel.Commit(p.beside); err != nil || p.policies() == p.written {
				return err
			}
			return e.parts.FastPath.Configure(e.parts.Translator.Config()) // of numbers that came since
		},
		undo: back(before, p.kernelBack),
	}}
}

func comers(changes ...[]Change) (come []guard.Workload) {
	for _, c := range slices.Concat(changes...) {
		if c.New != nil {
			come = append(come, c.New.policed())
		}
	}
	return come
}

// back is a step's way back to a table.
func back(before func() (*mapping.Table, error), to func(*mapping.Table) error) func() error {
	return func() error {
		table, err := before()
		if err != nil {
			return err
		}
		return to(table)
	}
}

// editing are the steps where the table in force is edited to after.
func (p *Plan) editing(after *mapping.Table) []step {
	e, was := p.engine, p.engine.parts.Translator.Config()
	gone, come := policed(p.gone), policed(p.come)
	for _, c := range p.moves {
		come = append(come, c.New.policed())
	}
	before := sync.OnceValues(func() (*mapping.Table, error) {
		table, err := p.unedit(e.Table())
		if err == nil {
			table, was.Policy, err = p.restored(table, was.Policy)
		}
		return table, err
	})
	return []step{{
		name: "guard", partial: true,
		do: func() error { return e.parts.Guard.Put(after, come...) },
		undo: func() error {
			e.parts.Guard.Delete(e.Table(), policed(p.come)...)
			return nil
		},
	}, {
		name: "translator",
		do: func() error {
			e.account(after, p.moves...)
			if err := e.parts.Translator.Reload(p.next.Translator, after); err != nil {
				e.account(e.Table(), reversed(p.moves)...)
				return err
			}
			e.parts.Guard.Delete(after, gone...)
			return nil
		},
		undo: back(before, func(table *mapping.Table) error {
			if err := e.parts.Guard.Put(table, gone...); err != nil {
				return err
			}
			e.account(table, stillThere(table, reversed(p.moves))...)
			return e.parts.Translator.Reload(was, table)
		}),
	}, {
		name: "fast path", partial: true,
		do: func() error { return p.editFastPath(after, was) },
		// What stands in the way of an edit is in no order that another could go by.
		undo: back(before, func(table *mapping.Table) error { return e.replaceFastPath(table, was) }),
	}}
}

// reversed are the ways back of moves.
func reversed(moves []Change) (back []Change) {
	for _, c := range moves {
		back = append(back, Change{Old: c.New, New: c.Old})
	}
	return back
}

// stillThere keeps the changes whose new mapping a table still has.
func stillThere(table *mapping.Table, changes []Change) []Change {
	return slices.DeleteFunc(changes, func(c Change) bool { return !holds(table, c.New.Mapping) })
}

// renumber swaps configuration and table in, where workloads may have other slots.
func (e *Engine) renumber(c translator.Config, table *mapping.Table, slots *accounting.Renumbering) error {
	swap := func() error { return e.parts.Translator.Reload(c, table) }
	if slots == nil {
		return swap()
	}
	return slots.Commit(swap)
}

func (e *Engine) replaceFastPath(table *mapping.Table, c translator.Config) error {
	if e.parts.FastPath == nil {
		return nil
	}
	return e.parts.FastPath.Replace(table, c)
}

// editFastPath has the kernel go by an edit of the table, and by the configuration.
func (p *Plan) editFastPath(after *mapping.Table, was translator.Config) error {
	e := p.engine
	if e.parts.FastPath == nil {
		return nil
	}
	// Where the host's address is another, the way of its packets is asked for by ports before
	// workloads have that address: what the host's rules do not lead to them is the host's.
	if host := e.parts.Translator.Config().Host4; host != was.Host4 {
		was.Host4 = host
		if err := e.parts.FastPath.Configure(was); err != nil {
			return err
		}
	}
	gone, come := located(p.gone), located(p.come)
	for _, c := range p.moves {
		gone, come = append(gone, c.Old.located()), append(come, c.New.located())
	}
	if len(gone)+len(come) > 0 {
		if err := e.parts.FastPath.Edit(after, gone, come); err != nil {
			return err
		}
	}
	if p.changesConfig() {
		return e.parts.FastPath.Configure(e.parts.Translator.Config())
	}
	return nil
}
