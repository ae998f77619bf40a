package conflist

import "testing"

// TestGone: what the kernel writes of a mount whose directory was removed, and of others.
func TestGone(t *testing.T) {
	for name, c := range map[string]struct {
		mounts string
		gone   bool
	}{
		"not mounted":        {"29 1 8:1 / / rw - ext4 /dev/sda1 rw\n", false},
		"there":              {"29 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 29 8:1 /etc/cni/net.d /host/conf d rw - ext4 /dev/sda1 rw\n", false},
		"removed":            {"30 29 8:1 /etc/cni/net.d//deleted /host/conf\\040d rw - ext4 /dev/sda1 rw\n", true},
		"another is removed": {"30 29 8:1 /etc/cni/net.d//deleted /host/conf rw - ext4 /dev/sda1 rw\n", false},
		"mounted again":      {"30 29 8:1 /a//deleted /host/conf\\040d rw - ext4 x rw\n31 30 8:1 /a /host/conf\\040d rw - ext4 x rw\n", false},
		"nothing":            {"", false},
	} {
		if got := goneIn(c.mounts, "/host/conf d"); got != c.gone {
			t.Errorf("%s: %t", name, got)
		}
	}
}
