package fleet

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Memory is a store in memory, for tests and simulations.
type Memory struct {
	mu       sync.Mutex // guards what follows
	revision uint64
	objects  map[Kind]map[string]Object
	watchers map[*watcher]bool
	log      []Event // the last that were told, by revision
	lost     bool    // not all of them
	notes    []Note
}

// logged is how many events are kept for who watches from a revision on.
const logged = 4096

type watcher struct {
	kind Kind
	name string
	ch   chan Event
}

// NewMemory makes an empty one.
func NewMemory() *Memory {
	m := &Memory{revision: 1, objects: map[Kind]map[string]Object{}, watchers: map[*watcher]bool{}}
	for _, k := range Kinds {
		m.objects[k] = map[string]Object{}
	}
	return m
}

// Get is Store's.
func (m *Memory) Get(_ context.Context, k Kind, name string) (Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.get(k, name)
}

func (m *Memory) get(k Kind, name string) (Object, error) {
	o, is := m.objects[k][name]
	if !is {
		return Object{}, fmt.Errorf("%s %s: %w", k, name, ErrNotFound)
	}
	return o, nil
}

// List is Store's.
func (m *Memory) List(_ context.Context, k Kind) ([]Object, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Object, 0, len(m.objects[k]))
	for _, o := range m.objects[k] {
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b Object) int { return strings.Compare(a.Name, b.Name) })
	return all, m.revision, nil
}

// Watch is Store's. It closes where somebody does not listen.
func (m *Memory) Watch(ctx context.Context, k Kind, name string, after uint64) (<-chan Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := &watcher{kind: k, name: name}
	var missed []Event
	for _, e := range m.log {
		if after > 0 && revisionOf(e.Object.Version) > after && w.hears(e) {
			missed = append(missed, e)
		}
	}
	w.ch = make(chan Event, len(missed)+128)
	m.watchers[w] = true
	if after > 0 && m.lost && revisionOf(m.log[0].Object.Version) > after+1 {
		m.drop(w) // what came between is not known any more
		return w.ch, nil
	}
	for _, e := range missed {
		w.ch <- e
	}
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.drop(w)
	})
	return w.ch, nil
}

func (m *Memory) drop(w *watcher) {
	if m.watchers[w] {
		delete(m.watchers, w)
		close(w.ch)
	}
}

// Create is Store's.
func (m *Memory) Create(_ context.Context, o Object) (Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, is := m.objects[o.Kind][o.Name]; is {
		return Object{}, fmt.Errorf("%s %s: %w", o.Kind, o.Name, ErrExists)
	}
	o.Status, o.Deleting = nil, false
	return m.put(o), nil
}

// Update is Store's.
func (m *Memory) Update(_ context.Context, o Object) (Object, error) {
	return m.change(o, func(is *Object) { is.Spec, is.Finalizers = o.Spec, slices.Clone(o.Finalizers) })
}

// UpdateStatus is Store's.
func (m *Memory) UpdateStatus(_ context.Context, o Object) (Object, error) {
	return m.change(o, func(is *Object) { is.Status = o.Status })
}

func (m *Memory) change(o Object, f func(*Object)) (Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	is, err := m.get(o.Kind, o.Name)
	if err != nil {
		return Object{}, err
	}
	if is.Version != o.Version {
		return Object{}, fmt.Errorf("%s %s: %w", o.Kind, o.Name, ErrConflict)
	}
	f(&is)
	if is.Deleting && len(is.Finalizers) == 0 {
		return is, m.remove(is)
	}
	return m.put(is), nil
}

// Delete is Store's.
func (m *Memory) Delete(_ context.Context, o Object) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	is, err := m.get(o.Kind, o.Name)
	if err != nil {
		return err
	}
	if is.Version != o.Version {
		return fmt.Errorf("%s %s: %w", o.Kind, o.Name, ErrConflict)
	}
	if len(is.Finalizers) > 0 {
		if !is.Deleting {
			is.Deleting = true
			m.put(is)
		}
		return nil
	}
	return m.remove(is)
}

func (m *Memory) remove(is Object) error {
	m.revision++
	delete(m.objects[is.Kind], is.Name)
	is.Version = strconv.FormatUint(m.revision, 10)
	m.tell(Event{Object: is, Gone: true})
	return nil
}

// put makes o the state of its object; nobody changes its bytes from then on.
func (m *Memory) put(o Object) Object {
	m.revision++
	o.Version = strconv.FormatUint(m.revision, 10)
	o.Spec, o.Status = bytes.Clone(o.Spec), bytes.Clone(o.Status)
	m.objects[o.Kind][o.Name] = o
	m.tell(Event{Object: o})
	return o
}

func (w *watcher) hears(e Event) bool {
	return w.kind == e.Object.Kind && (w.name == "" || w.name == e.Object.Name)
}

func (m *Memory) tell(e Event) {
	if m.log = append(m.log, e); len(m.log) >= 2*logged {
		m.log, m.lost = slices.Clone(m.log[logged:]), true
	}
	for w := range m.watchers {
		if !w.hears(e) {
			continue
		}
		select {
		case w.ch <- e:
		default:
			m.drop(w)
		}
	}
}

// Record is Recorder's.
func (m *Memory) Record(_ context.Context, n Note) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notes = append(m.notes, n)
	return nil
}

// Notes is Recorder's.
func (m *Memory) Notes(context.Context) ([]Note, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.notes), nil
}
