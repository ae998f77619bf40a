//go:build linux

package fastpath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/tests/netns"
)

// TestKept: a successor of the same build has the same programs, which nobody verifies
// again, and a policer that has forgotten everybody; where anything else is pinned, or
// not all, it loads its own, and has the next one find them.
func TestKept(t *testing.T) {
	netns.Require(t, netns.Root)
	t.Parallel()
	dir := bpffs(t)
	f, err := Load("natless0")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sender, state := make([]byte, f.maps.Senders.KeySize()), make([]byte, f.maps.Senders.ValueSize())
	if err := errors.Join(f.maps.Senders.Put(sender, state), f.maps.Capping.Put(uint32(0), uint32(1)), f.Pin(dir)); err != nil {
		t.Fatal(err)
	}
	last := ids(t, f)
	for _, c := range []struct {
		name    string
		spoil   func() error
		options []Option
		reused  bool
	}{
		{"as it was", func() error { return nil }, nil, true},
		{"without one program", func() error { return os.Remove(filepath.Join(dir, "program_sent4")) }, nil, false},
		{"again", func() error { return nil }, nil, true},
		{"without one of the policer's maps", func() error { return os.Remove(filepath.Join(dir, programMapStates)) }, nil, false},
		{"of another build", func() error {
			m, err := ebpf.LoadPinnedMap(filepath.Join(dir, buildName), nil)
			if err != nil {
				return err
			}
			defer m.Close()
			return m.Put(uint32(0), build{1})
		}, nil, false},
		{"of who itemised no flows", func() error { return nil }, []Option{Itemising(16, 1)}, false},
		{"of who itemised them, too", func() error { return nil }, []Option{Itemising(16, 1)}, true},
		{"of who had no XDP", func() error { return nil }, []Option{Itemising(16, 1), InFront()}, false},
		{"of who had it, too", func() error { return nil }, []Option{Itemising(16, 1), InFront()}, true},
		{"without one of its maps", func() error { return os.Remove(filepath.Join(dir, xdpMapTaken)) }, []Option{Itemising(16, 1), InFront()}, false},
		{"as by an older natlessd", func() error { return unpin(dir, keptNames()) }, nil, false},
	} {
		if err := c.spoil(); err != nil {
			t.Fatal(c.name, err)
		}
		heir, err := Adopt(dir, "natless0", c.options...)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if has := ids(t, heir); heir.Reused() != c.reused || (has == last) != c.reused {
			t.Errorf("%s: programs %v after %v, reused %v", c.name, has, last, heir.Reused())
		}
		var on uint32
		if err := heir.maps.Senders.Lookup(sender, state); !errors.Is(err, ebpf.ErrKeyNotExist) || heir.maps.Capping.Lookup(uint32(0), &on) != nil || on != 0 {
			t.Errorf("%s: somebody gives way still: %v, %d", c.name, err, on)
		}
		if last = ids(t, heir); !heir.Reused() {
			if err := heir.PinPrograms(dir); err != nil {
				t.Fatal(c.name, err)
			}
		}
		heir.Close()
	}
}

// ids are those of the programs.
func ids(t *testing.T, f *FastPath) (all [4]ebpf.ProgramID) {
	t.Helper()
	for n, p := range []*ebpf.Program{f.Uplink, f.Workload, f.Sent4, f.Given4} {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		all[n], _ = info.ID()
	}
	return all
}
