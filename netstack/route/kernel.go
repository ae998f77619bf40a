package route

import "net/netip"

// kernel is what the manager needs of the kernel; the real one is in
// kernel_linux.go, a fake one beside the tests.
type kernel interface {
	// observe reads what of ours is there.
	observe(d Desired) (*observed, error)
	// prepare is told what d is before changes toward it are applied.
	prepare(d Desired, o *observed)
	// apply makes or removes an object. What is there already, or gone
	// already, is not an error.
	apply(c change) error
	// proxies reads our proxy neighbours alone: the kernel tells nobody when one
	// goes, so they are looked at often.
	proxies() ([]proxy, error)
	// sockets lists the host's sockets that receive what is sent to the pool.
	sockets(h HostPool) ([]hostSocket, error)
	// sysctl reads a value, "" when there is none.
	sysctl(key string) string
	close() error
}

// observed is what is there.
type observed struct {
	facts
	have     state
	ifaces   []iface
	link     uplinkLink          // the uplink's
	gateways map[netip.Addr]bool // that are known
	uplink   netip.Addr          // first global IPv4 address of the uplink, if any
	owned    bool                // the host has the address of the host pool
}
