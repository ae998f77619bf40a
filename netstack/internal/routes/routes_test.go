//go:build linux

package routes

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// TestRoutes: the kernel's routes of all kinds, as it lists them and as it tells of them, are
// what was added.
func TestRoutes(t *testing.T) {
	netns.Require(t, netns.Root, "ip")
	ns := netns.New(t, "routes")
	index := map[string]int{}
	for i := range 9 {
		name := fmt.Sprintf("link%d", i)
		netns.Veth(t, ns, name, ns, "peer"+name)
		ns.IP(fmt.Sprintf("addr add 192.0.%d.1/24 dev %s", i, name))
		ns.IP(fmt.Sprintf("addr add 2001:db8:%d::1/64 dev %s nodad", i, name))
	}
	ns.Do(func() {
		all, err := net.Interfaces()
		if err != nil {
			t.Error(err)
		}
		for _, i := range all {
			index[i.Name] = i.Index
		}
	})
	many := "route add 203.0.113.0/24"
	for i := range 9 {
		many += fmt.Sprintf(" nexthop via 192.0.%d.2", i)
	}
	ns.IP("nexthop add id 7 via 192.0.0.2 dev link0")
	var conn *netlink.Conn
	var list *List
	ns.Do(func() {
		var err error
		if conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err == nil {
			err = conn.JoinGroup(unix.RTNLGRP_IPV4_ROUTE)
		}
		if err == nil {
			err = conn.JoinGroup(unix.RTNLGRP_IPV6_ROUTE)
		}
		if err == nil {
			list, err = NewList()
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	defer conn.Close()
	defer list.Close()
	for _, c := range []struct {
		add     string
		dst     string
		table   uint32
		unicast bool
		links   []string
	}{
		{"route add 198.51.100.0/24 via 192.0.3.2", "198.51.100.0/24", 254, true, []string{"link3"}},
		{"route add default via 192.0.2.2", "0.0.0.0/0", 254, true, []string{"link2"}},
		{"route add 198.51.0.0/17 dev link5 table 1000", "198.51.0.0/17", 1000, true, []string{"link5"}},
		{"route add blackhole 198.18.0.0/15", "198.18.0.0/15", 254, false, nil},
		{"route add 10.0.0.0/8 nexthop via 192.0.1.2 nexthop via 192.0.4.2 weight 3", "10.0.0.0/8", 254, true, []string{"link1", "link4"}},
		{"route add 172.16.0.0/12 nhid 7", "172.16.0.0/12", 254, true, []string{"link0"}},
		{many, "203.0.113.0/24", 254, true, nil},
		{"route add 2001:db8:ffff::/48 via 2001:db8:6::2", "2001:db8:ffff::/48", 254, true, []string{"link6"}},
		{"route add default via 2001:db8:1::2", "::/0", 254, true, []string{"link1"}},
	} {
		want := Route{Destination: netip.MustParsePrefix(c.dst), Table: c.table, Unicast: c.unicast}
		var links []int
		for _, name := range c.links {
			links = append(links, index[name])
		}
		is := func(r *Route) bool {
			return r.Destination == want.Destination && r.Table == want.Table && r.Unicast == want.Unicast && slices.Equal(r.Links(), links)
		}
		ns.IP(c.add)
		told, err := conn.Receive()
		if err != nil || !slices.ContainsFunc(told, func(m netlink.Message) bool { r, ok := Of(m); return ok && is(&r) }) {
			t.Errorf("%s is not told of: %+v %v", c.add, told, err)
		}
		family, found := uint8(unix.AF_INET), 0
		if strings.Contains(c.dst, ":") {
			family = unix.AF_INET6
		}
		if err := list.Each(family, func() { found = 0 }, func(r *Route) bool {
			if is(r) {
				found++
			}
			return true
		}); err != nil || found != 1 {
			t.Errorf("%s is there %d times (%v)", c.add, found, err)
		}
	}
	seen := 0
	if err := list.Each(unix.AF_INET, func() {}, func(*Route) bool { seen++; return false }); err != nil || seen != 1 {
		t.Errorf("who has seen enough sees %d (%v)", seen, err)
	}
}

// FuzzRoute: no message has it read what is not there.
func FuzzRoute(f *testing.F) {
	f.Add([]byte{2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 0, 8, 0, 4, 0, 3, 0, 0, 0})
	f.Add([]byte{10, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0, 20, 0, 9, 0, 16, 0, 0, 0, 3, 0, 0, 0, 8, 0, 5, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Route
		if r.read(b) && (!r.Destination.IsValid() || len(r.Links()) > len(r.links)) {
			t.Errorf("%x is %+v", b, r)
		}
	})
}
