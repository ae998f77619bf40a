//go:build linux

package daemon

import (
	"path/filepath"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/natless/natless/cmd/internal/confine"
	"github.com/natless/natless/config"
)

// needs is what a daemon that is ready still uses: to make its device anew, to
// keep the kernel as it should be, to follow a reload, and to end. The unit file
// says the same, and what only the start needs.
func needs(c *config.Config) confine.Needs {
	return confine.Needs{
		// Device, routes, nftables and net.* sysctls; the fast path's programs. Not
		// NET_RAW: the socket that announces addresses is open by now.
		Capabilities: []cap.Value{cap.NET_ADMIN, cap.BPF, cap.PERFMON},
		Write:        append([]string{filepath.Dir(c.API.Socket), filepath.Dir(c.Registry.Path), "/sys/fs/bpf"}, flowDirs(c)...),
		Set:          []string{filepath.Join(c.SysctlDir, "net")},
		Devices:      []string{"/dev/net/tun"},
	}
}
