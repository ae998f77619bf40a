package route

import "os"

// StrictSource reports whether an interface takes IPv4 packets only where the host would
// send to their source (rp_filter=1, RFC 3704 2.2).
func StrictSource(name string) bool {
	most := byte(0)
	for _, n := range []string{"all", name} {
		if b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + n + "/rp_filter"); err == nil && len(b) > 0 {
			most = max(most, b[0])
		}
	}
	return most == '1'
}
