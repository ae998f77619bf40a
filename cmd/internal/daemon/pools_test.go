//go:build linux

package daemon

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/ports"
)

// TestReachOf: pools, and what workloads keep outside of them, lead to the
// translator, each in the way of its kind.
func TestReachOf(t *testing.T) {
	host, other := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("198.51.100.9")
	pool := registry.Pool{Name: "host", IPv4: netip.PrefixFrom(host, 32), Uplink: true, Ports: ports.MustParse("2048-4095")}
	low, high := ports.MustParse("1024-2047"), ports.MustParse("8192-9215")
	for _, c := range []struct {
		name    string
		pools   []registry.Pool
		outside []registry.Share
		host    route.HostPool
		kept    []netip.Prefix
	}{
		{"nothing", nil, nil, route.HostPool{}, nil},
		{"a pool", []registry.Pool{pool}, nil, route.HostPool{Addr: host, Ports: ports.MustParse("2048-4095")}, nil},
		{"ports beside it", []registry.Pool{pool}, []registry.Share{{Address: host, Ports: low}}, route.HostPool{Addr: host, Ports: ports.MustParse("1024-4095")}, nil},
		{"ports apart from it", []registry.Pool{pool}, []registry.Share{{Address: host, Ports: high}},
			route.HostPool{Addr: host, Ports: ports.MustParse("2048-4095,8192-9215")}, nil},
		{"the pool is gone", nil, []registry.Share{{Address: host, Ports: high}, {Address: other, Ports: low}},
			route.HostPool{Addr: host, Ports: ports.MustParse("8192-9215"), Stays: true}, []netip.Prefix{netip.PrefixFrom(other, 32)}},
		{"an address of no pool", []registry.Pool{pool}, []registry.Share{{Address: other}},
			route.HostPool{Addr: host, Ports: ports.MustParse("2048-4095")}, []netip.Prefix{netip.PrefixFrom(other, 32)}},
	} {
		r := reachOf(c.pools, c.outside, func(a netip.Addr) bool { return a == host })
		for _, diff := range []string{cmp.Diff(c.host, r.host, cmpopts.EquateComparable(netip.Addr{})), cmp.Diff(c.kept, r.kept, cmpopts.EquateComparable(netip.Prefix{}))} {
			if diff != "" {
				t.Errorf("%s: (-want +got)\n%s", c.name, diff)
			}
		}
	}
}

// TestSecretOutlivesPools: workloads keep addresses of pools that are gone, so a
// start without pools has the same secret for their pings.
func TestSecretOutlivesPools(t *testing.T) {
	c := config.Default()
	c.Registry.Path = filepath.Join(t.TempDir(), "registry.db")
	none, err := secret(&c)
	if again, _ := secret(&c); err != nil || none == again {
		t.Errorf("without a file the secret stays: %v", err)
	}
	c.Pools = []config.Pool{{Name: "default"}}
	had, err := secret(&c)
	c.Pools = nil
	if again, err2 := secret(&c); err != nil || err2 != nil || had != again {
		t.Errorf("another secret: %v, %v", err, err2)
	}
}
