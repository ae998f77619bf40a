package attach

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// MissingFeatureError says what the kernel lacks for the fast path; Since is the
// first Linux that has it.
type MissingFeatureError struct {
	Feature, Since string
	Err            error
}

func (e *MissingFeatureError) Error() string {
	return fmt.Sprintf("the kernel lacks %s (Linux %s or later): %v", e.Feature, e.Since, e.Err)
}

func (e *MissingFeatureError) Unwrap() error { return e.Err }

// leastKernel is the first whose bpf_skb_change_proto leaves gso_size alone,
// which cannot be probed: before, long packets would grow beyond the MTU.
const leastKernel = 5<<16 | 15<<8

// probe says what the kernel lacks, or what the process may not do.
func probe() error {
	for _, p := range []struct {
		feature, since string
		err            error
	}{
		{"eBPF programs at traffic control", "4.1", features.HaveProgramType(ebpf.SchedCLS)},
		{"the helper bpf_redirect_neigh", "5.10", features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectNeigh)},
	} {
		switch {
		case errors.Is(p.err, unix.EPERM):
			return fmt.Errorf("eBPF is not permitted: run as root, or with CAP_BPF and CAP_NET_ADMIN: %w", p.err)
		case errors.Is(p.err, ebpf.ErrNotSupported):
			return &MissingFeatureError{p.feature, p.since, p.err}
		}
	}
	if v, err := features.LinuxVersionCode(); err == nil && v < leastKernel {
		return &MissingFeatureError{"translation of long TCP packets at traffic control", "5.15", ebpf.ErrNotSupported}
	}
	return nil
}
