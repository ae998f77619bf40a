package attach

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/offload"
)

// bpffs is a BPF file system of its own: who has another does not see what is
// pinned in it.
func bpffs(t *testing.T) string {
	dir := t.TempDir()
	if err := bpfFS(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func (r *rig) left(t *testing.T) (list []string) {
	r.Do(func() {
		var err error
		if list, err = Left(r.config.Device); err != nil {
			t.Error(err)
		}
	})
	return list
}

// TestHiddenPins: what an earlier run left is pinned where this one does not see
// it. Its programs are replaced, never joined, and go with this run.
func TestHiddenPins(t *testing.T) {
	for _, attach := range []string{"tcx", "clsact"} {
		t.Run(attach, func(t *testing.T) {
			r := newRig(t)
			r.config.clsact = attach == "clsact"
			keep := r.config
			keep.Root, keep.Keep = bpffs(t), true
			_, stop := r.run(keep)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if left := r.left(t); len(left) != 2 {
				t.Fatalf("kept: %q", left)
			}
			second := r.config
			second.Root = bpffs(t)
			m, stop := r.run(second)
			if s := m.Status(); !s.On || s.Adopted {
				t.Errorf("%+v", s)
			}
			if left := r.left(t); len(left) != 2 {
				t.Errorf("two generations: %q", left)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if left := r.left(t); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// TestCleanupAsksTheKernel: cleaning up sees what is pinned elsewhere, and more
// than one generation at a hook, which versions before this one could make.
func TestCleanupAsksTheKernel(t *testing.T) {
	r := newRig(t)
	keep := r.config
	keep.Root, keep.Keep = bpffs(t), true
	m, stop := r.run(keep)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	again, err := offload.Load(r.config.Device)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	other, err := offload.Load("another0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.Do(func() {
		for i, program := range []*ebpf.Program{again.Uplink, other.Uplink} {
			l, err := link.AttachTCX(link.TCXOptions{Interface: m.uplinks[0], Program: program, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				t.Error(err)
				return
			}
			if i == 0 {
				defer l.Close()
			} else {
				t.Cleanup(func() { l.Close() })
			}
		}
		second := r.config
		second.Root = bpffs(t)
		if list, err := Left(r.config.Device); err != nil || len(list) != 3 {
			t.Errorf("before: %q, %v", list, err)
		}
		removed, err := Cleanup(second)
		if text := strings.Join(removed, "\n"); err != nil || !strings.Contains(text, "tcx program uplink at interface uplink") ||
			!strings.Contains(text, "tcx program workload at interface w1") {
			t.Errorf("%v\n%s", err, text)
		}
		if list, err := Left(r.config.Device); err != nil || len(list) != 0 {
			t.Errorf("left: %q, %v", list, err)
		}
		if list, err := Left("another0"); err != nil || len(list) != 1 {
			t.Errorf("another daemon's: %q, %v", list, err)
		}
	})
}
