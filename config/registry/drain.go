package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/natless/natless/config/api"
)

// A host, or a pool, that is drained gives nothing to workloads that have nothing of
// it; those that have keep it. Drains are in a file beside the database: they are of
// this host, and a backup that is restored on another must not bring them along.

// drainedPath is the file. It is not there where nothing is drained.
func drainedPath(path string) string { return path + ".drained" }

// wholeHost is the host among the drains, by the name that no pool has.
const wholeHost = ""

// DrainedError: what was asked for is drained.
type DrainedError struct {
	Pool  string // empty: the whole host
	Since time.Time
}

func (e *DrainedError) Error() string {
	since := e.Since.UTC().Format(time.RFC3339)
	if e.Pool == wholeHost {
		return fmt.Sprintf("this host is drained since %s: no new workload gets anything here (natless undrain ends it)", since)
	}
	return fmt.Sprintf("pool %q is drained since %s: no new workload gets anything of it (natless undrain --pool %s ends it)",
		e.Pool, since, e.Pool)
}

// drains are the pools that are drained, and since when. It is never changed once made.
type drains map[string]time.Time

func readDrains(path string) (drains, error) {
	b, err := os.ReadFile(drainedPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var d drains
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		return nil, fmt.Errorf("which pools are drained: %s: %w: delete it, and drain them again (natless drain)", drainedPath(path), err)
	}
	return d, nil
}

// write has the drains on disk: a reader sees them all, or those before.
func (d drains) write(path string) error {
	name := drainedPath(path)
	if len(d) == 0 {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDir(filepath.Dir(name))
	}
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return writeBeside(name, append(b, '\n'), "registry: drains")
}

// Drain has nobody new given anything of a pool, or of the host for "", until Undrain.
// When it returns, that outlives the process. Drained twice is drained once.
func (r *Registry) Drain(pool string) (api.Drain, error) {
	if pool != wholeHost && !r.hasPool(pool) {
		return api.Drain{}, r.noPool(pool)
	}
	err := r.changeDrains(func(d drains) error {
		if _, is := d[pool]; !is {
			d[pool] = r.now().UTC().Truncate(time.Second)
		}
		return nil
	})
	if err != nil {
		return api.Drain{}, err
	}
	for _, d := range r.Drains() {
		if d.Pool == pool {
			return d, nil
		}
	}
	return api.Drain{Pool: pool}, nil // somebody has undrained it meanwhile
}

// Undrain undoes Drain, also of a pool that is configured no more. ErrNotFound where it
// is not drained.
func (r *Registry) Undrain(pool string) error {
	return r.changeDrains(func(d drains) error {
		if _, is := d[pool]; !is {
			if pool != wholeHost && !r.hasPool(pool) {
				return r.noPool(pool)
			}
			return fmt.Errorf("drain of %q: %w", pool, ErrNotFound)
		}
		delete(d, pool)
		return nil
	})
}

// changeDrains changes the drains on disk first, and then in memory.
func (r *Registry) changeDrains(change func(drains) error) error {
	r.draining.Lock()
	defer r.draining.Unlock()
	d := maps.Clone(r.drained())
	if d == nil {
		d = drains{}
	}
	if err := change(d); err != nil {
		return err
	}
	if err := d.write(r.path); err != nil {
		return &WriteError{Path: drainedPath(r.path), Err: err}
	}
	r.mu.Lock()
	defer r.mu.Unlock() // a change that is made at this moment is before it, or behind it
	r.drains.Store(&d)
	return nil
}

func (r *Registry) drained() drains {
	if d := r.drains.Load(); d != nil {
		return *d
	}
	return nil
}

// HostDrained says whether the whole host is.
func (r *Registry) HostDrained() bool {
	_, is := r.drained()[wholeHost]
	return is
}

// Drains lists what is drained, the host first, and how many workloads are left there.
func (r *Registry) Drains() []api.Drain {
	all := r.drained()
	if len(all) == 0 {
		return nil
	}
	r.mu.RLock()
	there := r.state.assignments.all()
	unknown := map[string]bool{}
	for pool := range all {
		unknown[pool] = pool != wholeHost && r.state.pool(pool) == nil
	}
	r.mu.RUnlock()
	left := map[string]int{wholeHost: len(there)}
	for a := range look(there) {
		left[a.Pool]++
	}
	var told []api.Drain
	for _, pool := range slices.Sorted(maps.Keys(all)) {
		told = append(told, api.Drain{Pool: pool, Since: all[pool], Left: left[pool], Unknown: unknown[pool]})
	}
	return told
}

func (r *Registry) hasPool(name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state.pool(name) != nil
}

func (r *Registry) noPool(name string) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.state.pools) == 0 {
		return field("pool", "there is no pool %q: none is configured", name)
	}
	return field("pool", "there is no pool %q: there are %s", name, r.state.poolNames())
}

// open is the pool that a request is given something of: the one that it means, or,
// where that one is drained and the request does not insist, the next of its kind.
func (t *txn) open(q api.Request) (*pool, error) {
	all := t.drained()
	if since, is := all[wholeHost]; is {
		return nil, &DrainedError{wholeHost, since}
	}
	p, err := t.state.poolFor(q)
	if err != nil {
		return nil, err
	}
	since, is := all[p.Name]
	if !is {
		return p, nil
	}
	for _, o := range t.state.pools {
		if _, is := all[o.Name]; is || q.Pool != "" || q.Address.IsValid() || o.Whole != p.Whole || o.Uplink != p.Uplink {
			continue
		}
		if _, err := o.wish(q); err == nil {
			return o, nil
		}
	}
	return nil, &DrainedError{p.Name, since}
}
