package bugtool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Run is an item that is what a program says. A program that is not there is no error
// of the archive: alternatives are tried in turn.
func Run(name, what string, commands ...string) Item {
	return Item{Name: name, What: what, Get: func(ctx context.Context) ([]byte, error) {
		var missing []string
		for _, words := range commands {
			args := strings.Fields(words)
			if _, err := exec.LookPath(args[0]); err != nil {
				missing = append(missing, args[0])
				continue
			}
			c := exec.CommandContext(ctx, args[0], args[1:]...)
			out, err := c.CombinedOutput()
			if ctx.Err() != nil {
				err = fmt.Errorf("%s took longer than %v", args[0], patience)
			} else if err != nil {
				err = fmt.Errorf("%s: %w: %.200s", words, err, bytes.TrimSpace(out))
			}
			return append([]byte("$ "+words+"\n"), out...), err
		}
		return nil, fmt.Errorf("%s is not installed", strings.Join(missing, " or "))
	}}
}

// Files is an item that is text files, by patterns.
func Files(name, what string, patterns ...string) Item {
	return Item{Name: name, What: what, Get: func(context.Context) ([]byte, error) {
		var out bytes.Buffer
		var errs []error
		found := 0
		for _, pattern := range patterns {
			paths, _ := filepath.Glob(pattern)
			slices.Sort(paths)
			for _, path := range paths {
				info, err := os.Stat(path)
				if err != nil || info.IsDir() {
					continue
				}
				text, err := os.ReadFile(path)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				found++
				fmt.Fprintf(&out, "==> %s\n%s\n", path, bytes.TrimRight(text, "\n"))
			}
		}
		if found == 0 && errs == nil {
			errs = append(errs, fmt.Errorf("there is no %s", strings.Join(patterns, ", ")))
		}
		return out.Bytes(), errors.Join(errs...)
	}}
}

// Host are the items that are asked of the host, for a daemon with a device and an
// uplink.
func Host(device, uplink string) []Item {
	items := []Item{
		Run("host/uname.txt", "kernel", "uname -a"),
		Files("host/os.txt", "distribution", "/etc/os-release"),
		Run("host/links.txt", "interfaces, with what they dropped", "ip -d -s link show"),
		Run("host/addresses.txt", "addresses", "ip address show"),
		Run("host/routes4.txt", "IPv4 routes of all tables", "ip -4 route show table all"),
		Run("host/routes6.txt", "IPv6 routes of all tables", "ip -6 route show table all"),
		Run("host/rules4.txt", "IPv4 policy rules", "ip -4 rule show"),
		Run("host/rules6.txt", "IPv6 policy rules", "ip -6 rule show"),
		Run("host/neighbours.txt", "neighbours, and those answered for", "ip neigh show"),
		Run("host/proxies.txt", "addresses answered for", "ip neigh show proxy"),
		Run("host/nftables.txt", "the packet filter", "nft list ruleset"),
		Run("host/iptables.txt", "the packet filter in the older words", "iptables-save"),
		Run("host/sockets.txt", "who listens", "ss -tulnp"),
		Run("host/bpf.txt", "BPF programs at interfaces", "bpftool net show"),
		Files("host/resolv.txt", "the host's resolvers", "/etc/resolv.conf"),
		Files("host/sysctls.txt", "sysctls that natless reads or sets", sysctls(device, uplink)...),
		Files("host/counters.txt", "the kernel's counters", "/proc/net/snmp", "/proc/net/snmp6", "/proc/net/netstat", "/proc/net/softnet_stat"),
		Files("host/cni.txt", "network configurations of containers", "/etc/cni/net.d/*.conflist", "/etc/cni/net.d/*.conf"),
		Run("log/natlessd.txt", "natlessd's log, the last 3000 lines, runs before included",
			"journalctl -u natlessd -n 3000 --no-pager -o short-iso"),
		Run("log/kernel.txt", "the kernel's log, the last 500 lines", "journalctl -k -n 500 --no-pager -o short-iso", "dmesg"),
	}
	if uplink != "" {
		items = append(items, Run("host/uplink.txt", "what the uplink offloads", "ethtool -k "+uplink))
	}
	return items
}

func sysctls(device, uplink string) (paths []string) {
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/ip_local_port_range",
		"net/ipv4/ip_local_reserved_ports",
		"net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max", "net/core/bpf_jit_enable", "kernel/unprivileged_bpf_disabled"} {
		paths = append(paths, "/proc/sys/"+key)
	}
	for _, name := range []string{"all", device, uplink} {
		if name == "" {
			continue
		}
		for _, key := range []string{"ipv4/conf/%s/forwarding", "ipv4/conf/%s/rp_filter", "ipv6/conf/%s/forwarding", "ipv6/conf/%s/disable_ipv6",
			"ipv6/conf/%s/accept_ra", "ipv4/neigh/%s/proxy_delay", "ipv6/conf/%s/proxy_ndp"} {
			paths = append(paths, "/proc/sys/net/"+fmt.Sprintf(key, name))
		}
	}
	return paths
}
