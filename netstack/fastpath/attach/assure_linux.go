package attach

// Where nothing but natless has a way of its own in prefix and mappings, and the daemon is
// there to see to it, XDP does not ask about each packet. The daemon hears of a change, and
// takes its word back at once; it gives it again when it has looked.

// assuredFor is how long a word is good for, which is renewed with each look for neighbours.
const assuredFor = 3 * neighboursEvery

// doubt takes the word back, as the kernel tells of a change.
func (m *Manager) doubt() {
	m.told.Add(1)
	if err := m.path.XDP.Assure(0); err != nil {
		m.config.Log.Warn("XDP may go by what was so until now", "error", err)
	}
}

// assure gives it, after a look that began when so many changes were told of.
func (m *Manager) assure(told uint64, err error) {
	if err != nil {
		m.looked = told - 1 // of nothing
		return
	}
	m.looked = told
	m.reassure()
}

// reassure gives it again, if nothing has changed.
func (m *Manager) reassure() {
	m.mu.Lock()
	alone := m.ways.Alone && m.ways.Device != noDevice
	m.mu.Unlock()
	if !alone || m.told.Load() != m.looked || m.path.XDP.Assure(assuredFor) != nil {
		return
	}
	if m.told.Load() != m.looked { // meanwhile
		_ = m.path.XDP.Assure(0)
	}
}
