package registry

// Alone says whether nobody else has a part of an assignment's address.
func (r *Registry) Alone(a *Assignment) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	addr := r.state.addresses[a.Address]
	return addr == nil || len(addr.owners) <= 1
}
