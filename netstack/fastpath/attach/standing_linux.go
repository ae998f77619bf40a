package attach

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// wanted is where programs should be: nowhere while the maps are not right.
func (m *Manager) wanted() map[place]bool {
	want := map[place]bool{}
	if m.unusable() != nil {
		return want
	}
	for p := range m.possible() {
		if m.leave(p) == "" {
			want[p] = true
		}
	}
	return want
}

// detachAllBut takes programs away that are nowhere wanted, an earlier daemon's
// among them.
func (m *Manager) detachAllBut(want map[place]bool) error {
	left, err := m.hook.left()
	return errors.Join(err, m.detachBut(want, left))
}

// detachBut is detachAllBut, where programs are known to be at these places.
func (m *Manager) detachBut(want map[place]bool, left []place) error {
	var errs []error
	for _, p := range left {
		if want[p] {
			continue
		}
		if err := m.hook.detach(p); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(m.attached, p)
	}
	for p := range m.errs {
		if !want[p] {
			delete(m.errs, p)
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) attach(want map[place]bool) error {
	var errs []error
	for p := range want {
		if p.role == xdp {
			continue // see attachFronts
		}
		if m.attached[p] && m.hook.alive(p) {
			if m.last(p) {
				continue
			}
			if err := m.hook.detach(p); err != nil { // and attach behind it
				errs = append(errs, err)
				continue
			}
		}
		programs := [...]*ebpf.Program{uplink: m.path.Uplink, workload: m.path.Workload, sent4: m.path.Sent4, given4: m.path.Given4}
		if err := m.hook.attach(p, programs[p.role]); err != nil {
			delete(m.attached, p)
			m.errs[p] = err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", m.host.links[p.ifindex].name, err))
			continue
		}
		delete(m.errs, p)
		m.attached[p] = true
	}
	return errors.Join(errs...)
}

// pin puts the maps where the next daemon finds them, in the stead of others
// that nothing uses any more.
func (m *Manager) pin() error {
	entries, err := os.ReadDir(m.store.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.ContainsFunc([]string{linkPrefix, filterPrefix, qdiscPrefix}, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			if err := os.Remove(m.store.path(e.Name())); err != nil {
				return fmt.Errorf("unpin old maps: %w", err)
			}
		}
	}
	if err := m.path.Pin(m.store.dir); err != nil {
		return fmt.Errorf("pin the maps: %w", err)
	}
	m.fresh = false
	return nil
}

// pinPrograms puts programs beside an earlier daemon's maps, that the next one need not
// load them. Where that fails it does.
func (m *Manager) pinPrograms() {
	m.verified = false
	if err := m.path.PinPrograms(m.store.dir); err != nil {
		m.config.Log.Debug("the next start will take longer", "error", err)
	}
}

// remove takes everything away.
func (m *Manager) remove() error {
	left, err := m.hook.left()
	if m.closer != nil {
		err = errors.Join(err, m.closer.shutAll(left))
	}
	err = errors.Join(err, m.detachBut(nil, left))
	m.releaseNeighbours()
	if err == nil {
		err = m.store.remove()
	}
	return err
}
