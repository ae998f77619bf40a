package iprule

import (
	"errors"
	"net"
	"strings"
	"testing"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// Rules are those that ip(8) shows, there once, and gone. How the kernel takes a
// protocol of more than one byte is for its log, which is everybody's: the message is
// looked at instead.
func TestRules(t *testing.T) {
	ns := netns.New(t, "a")
	var c *mdl.Conn
	var err error
	ns.Do(func() { c, err = mdl.Dial(unix.NETLINK_ROUTE, nil) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	plain := ns.Run("ip", "rule")
	full := netlink.NewRule()
	full.Family, full.Priority, full.Table, full.Protocol, full.Mark, full.IifName = unix.AF_INET, 30, 1000, 110, 7, "lo"
	full.Dst = &net.IPNet{IP: net.IPv4(198, 51, 100, 2), Mask: net.CIDRMask(32, 32)}
	full.IPProto, full.Dport = unix.IPPROTO_UDP, netlink.NewRulePortRange(1024, 2047)
	least := netlink.NewRule()
	least.Family, least.Table = unix.AF_INET6, unix.RT_TABLE_LOCAL
	least.Priority = 40
	for _, r := range []*netlink.Rule{full, least} {
		if err := Add(c, r); err != nil {
			t.Fatal(err)
		}
		if err := Add(c, r); !errors.Is(err, unix.EEXIST) {
			t.Errorf("once more: %v", err)
		}
	}
	if have := ns.Run("ip", "rule"); !strings.Contains(have, "30:\tfrom all to 198.51.100.2 fwmark 0x7 iif lo ipproto udp dport 1024-2047 lookup 1000 proto 110\n") {
		t.Error(have)
	}
	if have := ns.Run("ip", "-6", "rule"); !strings.Contains(have, "40:\tfrom all lookup local\n") {
		t.Error(have)
	}
	for _, r := range []*netlink.Rule{full, least} {
		if err := Delete(c, r); err != nil {
			t.Error(err)
		}
		if err := Delete(c, r); !errors.Is(err, unix.ENOENT) {
			t.Errorf("once more: %v", err)
		}
	}
	if have := ns.Run("ip", "rule"); have != plain {
		t.Errorf("left behind: %s", have)
	}
	message, err := encode(full, true)
	if err != nil {
		t.Fatal(err)
	}
	attributes, err := mdl.NewAttributeDecoder(message[12:])
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for attributes.Next() {
		if attributes.Type() == 22 { // FRA_IP_PROTO
			found = len(attributes.Bytes()) == 1
		}
	}
	if !found {
		t.Error("the protocol is not one byte")
	}
}
