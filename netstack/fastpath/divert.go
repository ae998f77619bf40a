//go:build linux

package fastpath

import (
	"fmt"
	"time"

	"github.com/natless/natless/netstack/flows"
)

// Divert has the programs leave every packet to the daemon from now on, or, during 0, no
// more. It lasts over Replace and Edit, and no longer than the translator's device; the next
// to adopt the maps begins undiverted.
func (f *FastPath) Divert(during time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.divertedUntil = 0
	if during > 0 {
		f.divertedUntil = uint64(flows.Now() + int64(during))
	}
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
	c.DivertedUntil = f.divertedUntil
	if err := f.maps.Configs.Put(current, &c); err != nil {
		return fmt.Errorf("configure the fast path: %w", err)
	}
	return nil
}
