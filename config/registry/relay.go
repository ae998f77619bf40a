package registry

import (
	"fmt"

	"github.com/natless/natless/config/lease"
)

// The rules of a relay are in a file beside the database, as the blocks of a host are.

func relayPath(path string) string { return path + ".relay" }

func readRelay(path string) (r lease.Relay, err error) {
	if err := readSummed(relayPath(path), &r); err != nil {
		return r, fmt.Errorf("the rules that the fleet has told this relay: %s: %w: delete it, and have them told again",
			relayPath(path), err)
	}
	return r, nil
}

// Relay is what this host knows of who has which block.
func (r *Registry) Relay() lease.Relay {
	if s := r.relay.Load(); s != nil {
		return *s
	}
	return lease.Relay{}
}

// SetRelay has that on disk; when it returns, it outlives the process. One calls it at a
// time.
func (r *Registry) SetRelay(s lease.Relay) error {
	if err := writeSummed(relayPath(r.path), s, "registry: relay"); err != nil {
		return &WriteError{Path: relayPath(r.path), Err: err}
	}
	r.relay.Store(&s)
	return nil
}
