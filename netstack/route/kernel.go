package route

// kernel is what the manager needs of the kernel; the real one is in
// kernel_linux.go, a fake one beside the tests.
type kernel interface {
	// observe reads what of ours is there. It knows the interface d.Uplink.
	observe(d Desired) (*observed, error)
	// apply makes or removes an object. What is there already, or gone
	// already, is no error.
	apply(c change) error
	// sysctl reads a value, "" when there is none.
	sysctl(key string) string
	close() error
}

// observed is what is there.
type observed struct {
	device int // interface index of the device, 0 when there is none
	have   state
	ifaces []iface
}
