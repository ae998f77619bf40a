package registry

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
)

// aside runs the test that calls it in a process with mounts of its own, and
// says whether this is that process.
func aside(t *testing.T) bool {
	t.Helper()
	const child = "NATLESS_REGISTRY_MOUNTS"
	if os.Getenv(child) != "" {
		return true
	}
	netns.Require(t, netns.Root)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// disk mounts a file system of that many bytes in memory.
func disk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// brim fills a disk until no more than left pages are free.
func brim(t *testing.T, dir string, left int) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, written := make([]byte, os.Getpagesize()), int64(0)
	for {
		n, err := f.Write(page)
		written += int64(n)
		if err != nil {
			break
		}
	}
	f.Truncate(max(written-int64(left*len(page)), 0))
	return func() { os.Remove(path) }
}

// TestFullDisk: on a full disk what is there is served, what is asked for fails
// as something to be tried again, and what is answered is what is on disk.
func TestFullDisk(t *testing.T) {
	if !aside(t) {
		return
	}
	for left := range 14 { // so that each of the writes of a change is the one that fails
		dir := disk(t, 1<<20)
		path := filepath.Join(dir, "r.db")
		c := &clock{time.Unix(1_700_000_000, 0)}
		r := open(t, path, c)
		for i := range 100 {
			mustPut(t, r, i, request(i))
			if i%2 == 0 {
				r.Delete(t.Context(), key(i))
			}
		}
		empty := brim(t, dir, left)
		next := 100
		for ; ; next++ { // also what is free inside the file
			if _, err := r.Put(t.Context(), key(next), request(next)); err != nil {
				break
			}
		}
		for range 3 {
			before := dump(t, r)
			next++
			_, err := r.Put(t.Context(), key(next), request(next))
			if err == nil {
				continue
			}
			var w *WriteError
			if !errors.As(err, &w) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "nothing was changed") || !strings.HasSuffix(err.Error(), "make room on its disk") {
				t.Fatalf("%d pages left: put %d: %v", left, next, err)
			}
			if after := dump(t, r); after != before || r.Failed() == nil {
				t.Fatalf("%d pages left: put %d failed, and changed something, or is forgotten", left, next)
			}
		}
		before := dump(t, r)
		if err := r.Delete(t.Context(), key(1)); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("delete: %v", err)
		} else if err != nil && dump(t, r) != before {
			t.Error("a delete failed, and changed something")
		}
		if b, err := r.Backup(); err != nil { // which needs no room
			t.Errorf("backup: %v", err)
		} else {
			b.Close()
		}
		before = dump(t, r)
		r.Close()
		r = open(t, path, c)
		if dump(t, r) != before {
			t.Errorf("%d pages left: another after a start", left)
		}
		empty()
		mustPut(t, r, 100_000, request(100_000))
		if err := r.Failed(); err != nil {
			t.Errorf("with room again: %v", err)
		}
		r.Close()
		if _, err := Check(path); err != nil {
			t.Error(err)
		}
	}
	dir := disk(t, 8<<10)
	if _, err := Open(Options{Path: filepath.Join(dir, "r.db")}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a first start: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("a first start left %v", left)
	}
}

// TestReconfigureFullDisk: a history that cannot be made shorter is no reason to
// refuse a configuration; what must be on disk, and cannot be, is.
func TestReconfigureFullDisk(t *testing.T) {
	if !aside(t) {
		return
	}
	dir := disk(t, 4<<20)
	host := Pool{Name: "default", IPv4: netip.MustParsePrefix("192.0.2.1/32"), Uplink: true, PortsPerWorkload: 16, Cooldown: 0}
	var log bytes.Buffer
	o := Options{Path: filepath.Join(dir, "r.db"), History: 1000, Pools: []Pool{host}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1500 {
		mustPut(t, r, i, request(i))
		if i >= 500 {
			r.Delete(t.Context(), key(i))
		}
	}
	empty := brim(t, dir, 0)
	for i := 2000; ; i++ { // also what is free inside the file
		if _, err := r.Put(t.Context(), key(i), request(i)); err != nil {
			break
		}
	}
	swaps := 0
	swap := func(iter.Seq[mapping.Mapping], []Share) error { swaps++; return nil }
	if err := reconfigure(r, o.Pools, 500, swap); err != nil || swaps != 1 {
		t.Errorf("less history: %v, swapped %d", err, swaps)
	}
	if !strings.Contains(log.String(), "stays longer") {
		t.Errorf("nothing is said of the history: %s", log.String())
	}
	before := dump(t, r)
	moved := host
	moved.IPv4 = netip.MustParsePrefix("192.0.2.2/32")
	err = reconfigure(r, []Pool{moved}, 500, swap)
	if w := (*WriteError)(nil); !errors.As(err, &w) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("another address: %v", err)
	}
	if swaps != 1 || dump(t, r) != before {
		t.Errorf("refused by the disk, and swapped %d", swaps)
	}
	empty()
	if err := reconfigure(r, []Pool{moved}, 500, swap); err != nil {
		t.Error(err)
	}
	if a, err := r.Get(key(1)); err != nil || a.Address != moved.IPv4.Addr() {
		t.Errorf("%v, %v", a, err)
	}
	r.Close()
	if report, err := Check(o.Path); err != nil || report.History != 500 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestReadOnlyDisk: what cannot be written says so, and how to mend it.
func TestReadOnlyDisk(t *testing.T) {
	if !aside(t) {
		return
	}
	dir := disk(t, 1<<20)
	path := filepath.Join(dir, "r.db")
	c := &clock{time.Unix(1_700_000_000, 0)}
	r := open(t, path, c)
	mustPut(t, r, 1, request(1))
	r.Close()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Path: path, Pools: damagePools})
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "mount its file system read-write again") {
		t.Error(err)
	}
	if report, err := Check(path); err != nil || report.Assignments != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, _, err := New(path); !errors.Is(err, syscall.EROFS) {
		t.Error(err)
	}
}

// TestCutShortInUse: somebody cuts the file off under a running daemon. bbolt
// faults on what it has mapped; the daemon goes on with what it knows, and says
// that nothing can be written.
func TestCutShortInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	c := &clock{time.Unix(1_700_000_000, 0)}
	r := open(t, path, c)
	for i := range 200 {
		mustPut(t, r, i, request(i))
	}
	if err := os.Truncate(path, int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if a, err := r.Get(key(7)); err != nil || a == nil {
		t.Error(err)
	}
	if _, err := r.Whois(netip.MustParseAddrPort("198.51.100.1:1"), c.Add(-time.Hour)); err == nil {
		t.Error("the history was read")
	}
	for range 2 {
		_, err := r.Put(t.Context(), key(1000), request(1000))
		if w := (*WriteError)(nil); !errors.As(err, &w) || !w.Unknown {
			t.Errorf("put: %v", err)
		}
	}
	if r.Broken() == nil {
		t.Error("it is not said to be broken")
	}
	if err := reconfigure(r, damagePools, 1, func(iter.Seq[mapping.Mapping], []Share) error { return nil }); err == nil {
		t.Error("reconfigured without a disk")
	}
	if _, err := r.Backup(); err == nil {
		t.Error("backed up without a disk")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "r.db") // this process has the other locked
	os.WriteFile(again, left, 0o600)
	if _, err := Open(Options{Path: again, Pools: damagePools}); err == nil || !strings.Contains(err.Error(), "natless registry salvage") {
		t.Error(err)
	}
}
