//go:build linux

package fastpath

import "fmt"

// Pause has the programs pass everything on, or translate again. What is paused
// stays so over Replace and Edit; the next to adopt the maps begins unpaused.
func (f *FastPath) Pause(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = on
	if f.tables == nil {
		return nil
	}
	var current uint32
	if err := f.maps.Active.Lookup(uint32(0), &current); err != nil {
		return fmt.Errorf("which tables are in use: %w", err)
	}
	var c programConfig
	if err := f.maps.Configs.Lookup(current, &c); err != nil {
		return fmt.Errorf("configuration in use: %w", err)
	}
	c.Flags |= flagEnabled
	if on {
		c.Flags &^= flagEnabled
	}
	if err := f.maps.Configs.Put(current, &c); err != nil {
		return fmt.Errorf("configure the fast path: %w", err)
	}
	return nil
}
