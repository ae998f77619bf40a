package conflist

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var errStep = errors.New("this step fails")

// faulty fails at one step. What was killed there does nothing after it, either: it does
// not tidy up.
type faulty struct {
	at, step  int
	killed    bool
	did       []string
	meanwhile func() // while the half file is written
}

func (f *faulty) fails(what string) bool {
	f.step++
	f.did = append(f.did, what)
	return f.step == f.at || f.killed && f.step > f.at
}

type faultyFile struct {
	*os.File
	*faulty
}

func (f faultyFile) Write(b []byte) (int, error) {
	if f.fails("write") {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, errStep
	}
	return f.File.Write(b)
}

// ReadFrom of the os.File would go past Write.
func (f faultyFile) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{f}, r)
}

func (f faultyFile) Chmod(mode fs.FileMode) error {
	if f.fails("chmod") {
		return errStep
	}
	return f.File.Chmod(mode)
}

func (f faultyFile) Sync() error {
	if f.meanwhile != nil {
		f.meanwhile()
	}
	if f.fails("sync") {
		return errStep
	}
	return f.File.Sync()
}

func (f faultyFile) Close() error {
	f.File.Close()
	if f.fails("close") {
		return errStep
	}
	return nil
}

func (f *faulty) CreateTemp(dir, pattern string) (file, error) {
	if f.fails("create") {
		return nil, errStep
	}
	real, err := os.CreateTemp(dir, pattern)
	return faultyFile{real, f}, err
}

func (f *faulty) ReadFile(path string) ([]byte, error) {
	if f.fails("read") {
		return nil, errStep
	}
	return os.ReadFile(path)
}

func (f *faulty) Rename(from, to string) error {
	if f.fails("rename") {
		return errStep
	}
	return os.Rename(from, to)
}

func (f *faulty) Remove(path string) error {
	if f.fails("remove") {
		return errStep
	}
	return os.Remove(path)
}

// on runs work on a disk of which a step fails.
func on(f *faulty, work func() error) error {
	before := disk
	disk = f
	defer func() { disk = before }()
	return work()
}

// TestEveryStepMayFail: whatever step fails, or is the last one of a process that is
// killed, a file is as it was or as it is to be, whole. What is left is taken away by
// the next one, and nothing of others'.
func TestEveryStepMayFail(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		work           func(path string) error
	}{
		{"chain", before, after, func(path string) error { _, err := Add(path, map[string]any{"pool": "default"}); return err }},
		{"take out", after, unchained, func(path string) error { _, err := Remove(path); return err }},
		{"a program", "old", "program", func(path string) error { return Copy(path+".new", path) }},
	} {
		for _, killed := range []bool{false, true} {
			var did []string
			for at := 1; ; at++ {
				f := &faulty{at: at, killed: killed}
				path := put(t, "10-pods.conflist", c.old)
				others := map[string]string{"20-others.conflist": after, ".natless.conflist": "x", "10-pods.conflist.new": "program"}
				for name, text := range others {
					if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				err := on(f, func() error { return c.work(path) })
				done := f.step < at
				if want := map[bool]string{false: c.old, true: c.new}[done]; text(t, path) != want || (err == nil) != done {
					t.Errorf("%s: step %d of %v: %v, and there is\n%s", c.name, at, f.did, err, text(t, path))
				}
				left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), half))
				if len(left) > 1 || !killed && len(left) > 0 {
					t.Errorf("%s: step %d of %v: left %v", c.name, at, f.did, left)
				}
				tidy(t, filepath.Dir(path), len(others)+1)
				if done {
					did = f.did
					break
				}
			}
			if len(did) < 6 || did[len(did)-1] != "rename" {
				t.Errorf("%s: the rename is not the last of the steps: %v", c.name, did)
			}
		}
	}
}

// tidy sweeps: what is young stays, what is old goes, and what is others' stays.
func tidy(t *testing.T, dir string, others int) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Join(dir, half))
	Sweep(dir)
	if young, _ := filepath.Glob(filepath.Join(dir, half)); len(young) != len(left) {
		t.Errorf("swept away what may be written at this moment: %v, left %v", left, young)
	}
	for _, path := range left {
		old := time.Now().Add(-2 * abandoned)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	Sweep(dir)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != others {
		t.Errorf("%v, want %d files: %v", entries, others, err)
	}
}

// TestChangedMeanwhile: the list of a network plugin that writes its own at the same
// moment stays as that wrote it.
func TestChangedMeanwhile(t *testing.T) {
	path := put(t, "10-pods.conflist", before)
	theirs := `{"plugins": [{"type": "ptp", "mtu": 1400}]}`
	f := &faulty{}
	f.meanwhile = func() { os.WriteFile(path, []byte(theirs), 0o600) }
	if err := on(f, func() error { _, err := Add(path, nil); return err }); !errors.Is(err, ErrChanged) {
		t.Errorf("%v, want %v", err, ErrChanged)
	}
	if text(t, path) != theirs {
		t.Errorf("theirs is gone:\n%s", text(t, path))
	}
}
