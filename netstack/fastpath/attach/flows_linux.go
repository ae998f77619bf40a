package attach

import "github.com/natless/natless/netstack/flows"

// DrainFlows takes away what the programs have itemised (see fastpath.FastPath).
// Nobody waits for it: it has no lock of the manager's.
func (m *Manager) DrainFlows(flow func(*flows.Key, *flows.Sum), lost func(slot uint32, n flows.Lost)) (int, error) {
	return m.path.DrainFlows(flow, lost)
}
