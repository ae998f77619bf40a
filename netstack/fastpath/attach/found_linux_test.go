package attach

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/fastpath"
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
	again, err := fastpath.Load(r.config.Device)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	other, err := fastpath.Load("another0")
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

// TestStandsLast: a program of somebody else that is attached behind ours comes
// before it soon.
func TestStandsLast(t *testing.T) {
	r := newRig(t)
	m, stop := r.run(r.config)
	defer stop()
	next := asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()} // TCX_NEXT
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "foreign", Type: ebpf.SchedCLS, Instructions: next, License: "GPL"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	uplink := m.uplinks[0]
	order := func() (list []owner) {
		r.Do(func() {
			all, err := m.kernel.at(uplink)
			if err != nil {
				t.Error(err)
			}
			for _, s := range all {
				list = append(list, s.owner)
			}
		})
		return list
	}
	var l link.Link
	r.Do(func() {
		l, err = link.AttachTCX(link.TCXOptions{Interface: uplink, Program: other, Attach: ebpf.AttachTCXIngress})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m.mu.Lock()
	before := order()
	m.mu.Unlock()
	if !slices.Equal(before, []owner{ours, foreign}) {
		t.Fatalf("before: %v", before)
	}
	m.changed() // as the poll does
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		m.mu.Lock()
		now := order()
		m.mu.Unlock()
		if slices.Equal(now, []owner{foreign, ours}) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after: %v", now)
		}
	}
}
