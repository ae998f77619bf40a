package route

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// BridgeOf is the bridge that an interface is a port of, "" when it is none.
func BridgeOf(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return "", fmt.Errorf("interface %s: %w", name, err)
	}
	if bridge := bridgeOf(l); bridge != nil {
		return bridge.Attrs().Name, nil
	}
	return "", nil
}

func bridgeOf(l netlink.Link) netlink.Link {
	master := l.Attrs().MasterIndex
	if master == 0 {
		return nil
	}
	bridge, err := netlink.LinkByIndex(master)
	if err != nil || bridge.Type() != "bridge" {
		return nil
	}
	return bridge
}
