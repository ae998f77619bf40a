//go:build linux

package main

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bpfRoot is where natlessd pins its fast path (netstack/fastpath/attach).
var bpfRoot = "/sys/fs/bpf"

// goesOn reports whether the kernel of this host translates without natlessd: its
// programs stand at uplinks of this network namespace, and are kept by their pins. After a
// restart of the host there are none, nor where the fast path is off.
func goesOn() bool {
	var s unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &s) != nil {
		return false
	}
	for _, attached := range []string{"link-uplink-*", "filter-uplink-*"} {
		if found, _ := filepath.Glob(filepath.Join(bpfRoot, "natless", fmt.Sprintf("*@%d", s.Ino), attached)); found != nil {
			return true
		}
	}
	return false
}
