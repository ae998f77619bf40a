package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup removes what daemons of this configuration left in this network
// namespace, and those of namespaces that are gone, and says what it was. It
// needs no kernel that could run the fast path, and makes nothing.
func Cleanup(c Config) (removed []string, err error) {
	c = c.withDefaults()
	name, err := storeName(c.Device)
	if err != nil {
		return nil, err
	}
	s := &store{dir: filepath.Join(c.Root, "natless", name)}
	removed = s.collect()
	if s.lock, err = lock(s.dir); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(filepath.Dir(s.dir))
		return removed, nil
	} else if err != nil {
		return removed, fmt.Errorf("remove the fast path: %s: %w: end the natlessd that has it first", s.dir, err)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		s.close()
		return removed, fmt.Errorf("netlink: %w", err)
	}
	defer handle.Close()
	for _, h := range []hook{newTCX(s), &clsact{s, handle}} {
		places, err := h.left()
		if err != nil {
			return removed, err
		}
		for _, p := range places {
			if err := h.detach(p); err != nil {
				s.close()
				return removed, err
			}
			removed = append(removed, fmt.Sprintf("%s program %s at %s", h, p.role, nameOf(handle, p.ifindex)))
		}
	}
	return append(removed, "pins in "+s.dir), s.remove()
}

func nameOf(handle *netlink.Handle, ifindex int) string {
	l, err := handle.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Sprintf("interface %d, which is gone", ifindex)
	}
	return "interface " + l.Attrs().Name
}
