package attach

import "maps"

// Where nothing but natless has a way of its own in prefix and mappings, and the daemon is
// there to see to it, the programs do not ask about each packet, nor about each destination
// that is led like others. The daemon hears of a change, and takes its word back at once; it
// gives it again when it has looked.

// assuredFor is how long a word is good for, which is renewed with each poll. It is of a
// daemon that hangs, or that has left its device to the next: with the device goes the word.
const assuredFor = 5 * pollEvery / 2

// doubt takes the word back, as the kernel tells of a change.
func (m *Manager) doubt() {
	m.told.Add(1)
	if err := m.path.Assure(0); err != nil {
		m.config.Log.Warn("the fast path may go by what was so until now", "error", err)
	}
}

// assure gives it, after a look that began when so many changes were told of.
func (m *Manager) assure(told uint64, err error) {
	if err != nil {
		m.looked = told - 1 // of nothing
		return
	}
	m.looked = told
	if err := m.path.Part(m.parts); err != nil {
		m.config.Log.Warn("each destination is asked for", "error", err)
	}
	m.reassure()
}

// reassure gives it again, if nothing has changed.
func (m *Manager) reassure() {
	m.mu.Lock()
	alone := m.ways.Alone && m.ways.Device != noDevice
	m.mu.Unlock()
	if !alone || m.told.Load() != m.looked || m.path.Assure(assuredFor) != nil {
		return
	}
	if m.told.Load() != m.looked { // meanwhile
		_ = m.path.Assure(0)
	}
}

// parted says that destinations are parted otherwise than the last look found, which the
// kernel does not always tell of.
func (m *Manager) parted() bool {
	m.looking.Lock()
	defer m.looking.Unlock()
	return len(m.parts) > 0 && !maps.Equal(partsOf(m.listing), m.parts)
}
