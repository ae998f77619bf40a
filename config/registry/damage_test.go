package registry

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

var damagePools = []Pool{shared("198.51.100.0/28", 64)}

// written makes a registry with assignments, sets that cool down and a history,
// on leaves and branches, and gives the file and what it holds.
func written(t *testing.T, n int) (file []byte, content string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.db")
	c := &clock{time.Unix(1_700_000_000, 0)}
	r := open(t, path, c)
	for i := range n {
		q := request(i)
		q.Name = fmt.Sprintf("ns/pod-%d", i)
		mustPut(t, r, i, q)
		if i%3 == 0 {
			c.advance(time.Second)
			if err := r.Delete(t.Context(), key(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	content = dump(t, r)
	r.Close()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file, content
}

func open(t *testing.T, path string, c *clock) *Registry {
	t.Helper()
	r, err := Open(Options{Path: path, History: 1000, Pools: damagePools, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dump is all that a registry holds, as text.
func dump(t *testing.T, r *Registry) string {
	t.Helper()
	var lines []string
	err := r.view(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketAssignments, bucketCooling, bucketHistory} {
			if err := tx.Bucket(name).ForEach(func(k, v []byte) error {
				a, cool, err := decode(v)
				if err == nil {
					lines = append(lines, fmt.Sprintf("%s %x %s %s %s %v %v %v", name, k, a.Key, a.Request.Name, a.words(), a.Since.Unix(), a.Until.Unix(), cool.Unix()))
				}
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range r.All() {
		lines = append(lines, "memory "+a.Key.String()+" "+a.words())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// opened says what became of opening the bytes: "right", or "refused" with the
// way out. Anything else fails the test.
func opened(t *testing.T, dir, what string, file []byte, want string) string {
	t.Helper()
	path := filepath.Join(dir, "r.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	r, err := Open(Options{Path: path, History: 1000, Pools: damagePools, Now: (&clock{time.Unix(1_700_000_000, 0)}).Now})
	if err == nil {
		defer r.Close()
		if got := dump(t, r); got != want {
			t.Errorf("%s: opened, and is another:\n%s", what, diff.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
		}
		return "right"
	}
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), `natless registry restore BACKUP `+path) {
		t.Errorf("%s: no way out in %q", what, err)
	}
	if now, _ := os.ReadFile(path); !bytes.Equal(now, file) {
		t.Errorf("%s: refused, and changed", what)
	}
	return "refused"
}

// TestDamagedPages damages each page in each way that there is a name for: the
// registry opens with all that was in it, or is refused with the way out.
func TestDamagedPages(t *testing.T) {
	t.Parallel()
	file, want := written(t, 200)
	old, _ := written(t, 195) // whose pages look like those of this one
	dir, size := t.TempDir(), os.Getpagesize()
	pages := len(file) / size
	if pages < 20 {
		t.Fatalf("%d pages are too few", pages)
	}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	count := map[string]int{}
	for p := range pages {
		page := func(b []byte) []byte { return b[p*size : (p+1)*size] }
		try := func(what string, damage func(page []byte)) {
			b := bytes.Clone(file)
			damage(page(b))
			if bytes.Equal(b, file) {
				return
			}
			count[opened(t, dir, fmt.Sprintf("page %d %s", p, what), b, want)]++
		}
		try("zeroed", func(b []byte) { clear(b) })
		try("all ones", func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, size)) })
		try("of an older file", func(b []byte) {
			if len(old) >= (p+1)*size {
				copy(b, page(old))
			}
		})
		other := (p + 1 + rnd.IntN(pages-1)) % pages
		try(fmt.Sprintf("copied from %d", other), func(b []byte) { copy(b, file[other*size:]) })
		try(fmt.Sprintf("with the words of %d under its own number", other), func(b []byte) { copy(b[8:], file[other*size+8:(other+1)*size]) })
		for range 4 { // the header and the first elements, and anywhere
			for _, at := range []int{rnd.IntN(16), rnd.IntN(160), rnd.IntN(size)} {
				try(fmt.Sprintf("byte %d", at), func(b []byte) { b[at] ^= 1 << rnd.IntN(8) })
			}
		}
		if p > 0 {
			count[opened(t, dir, fmt.Sprintf("cut off at page %d", p), file[:p*size], want)]++
			count[opened(t, dir, fmt.Sprintf("cut off in page %d", p), file[:p*size+rnd.IntN(size-1)+1], want)]++
		}
	}
	t.Logf("%d pages: %v", pages, count)
	if count["refused"] < 3*pages/2 || count["right"] == 0 {
		t.Error("this proves nothing") // pages that are free may have anything in them
	}
}

// TestOlderRoot has the root say what it said before, as it does where the disk lost
// a write of it: all that it leads to is whole, and not what was written last.
func TestOlderRoot(t *testing.T) {
	t.Parallel()
	file, want := written(t, 200)
	metas, err := readMetas(inMemory(file))
	if err != nil || len(metas) != 2 {
		t.Fatal(metas, err)
	}
	m := metas[0]
	if metas[1].transaction > m.transaction {
		m = metas[1]
	}
	dir, size, roots := t.TempDir(), uint64(m.pageSize), 0
	page := func(b []byte, p uint64) []byte { return b[p*size : (p+1)*size] }
	for p := range uint64(len(file)) / size {
		if p == m.root || !bytes.Contains(page(file, p), keyDigest) {
			continue
		}
		roots++
		b := bytes.Clone(file)
		copy(page(b, m.root)[8:], page(file, p)[8:]) // under its own number
		if opened(t, dir, fmt.Sprintf("the root of page %d", p), b, want) != "refused" {
			t.Errorf("the root of page %d was taken for that of page %d", p, m.root)
		}
	}
	if roots == 0 {
		t.Error("this proves nothing")
	}
}

// A registry that is not there, or empty, where there was one, is not begun in
// silence; a first one is.
func TestNeverSilentlyNew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "r.db")
	o := Options{Path: path, History: 10, Pools: damagePools}
	start := func() error {
		r, err := Open(o)
		if err == nil {
			r.Close()
		}
		return err
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	err := start()
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "it is gone, and was there") || !strings.Contains(err.Error(), "natless registry new "+path) {
		t.Errorf("gone: %v", err)
	}
	os.WriteFile(path, nil, 0o600)
	err = start()
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "it is empty") {
		t.Errorf("empty: %v", err)
	}
	if info, _ := os.Stat(path); info.Size() != 0 {
		t.Error("something was written into the empty file")
	}
	if _, aside, err := New(path); err != nil || !strings.HasPrefix(aside, path+".2") {
		t.Errorf("%q, %v", aside, err)
	}
	if err := start(); err != nil {
		t.Error(err)
	}
	os.WriteFile(path, []byte(strings.Repeat("no registry at all\n", 2000)), 0o600)
	if err = start(); err == nil || !strings.Contains(err.Error(), "page 0: is no beginning of a registry") {
		t.Errorf("another file: %v", err)
	}
}

// The layouts before this one are brought up to date, with what is in them; one
// of the future is refused as such.
func TestLayouts(t *testing.T) {
	t.Parallel()
	for _, before := range []string{layoutUnsummed, layoutUnnumbered} {
		t.Run(before, func(t *testing.T) { t.Parallel(); testLayout(t, before) })
	}
}

// older writes a record as an older layout had it.
func older(v []byte, layout string) []byte {
	body := v[1 : len(v)-4]
	for range 2 { // Serial and Succeeds
		_, n := binary.Uvarint(body)
		body = body[n:]
	}
	if layout == layoutUnsummed {
		return append([]byte{v[0] - record + recordUnsummed}, body...)
	}
	b := append([]byte{v[0] - record + recordUnnumbered}, body...)
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

func testLayout(t *testing.T, before string) {
	file, want := written(t, 50)
	path := filepath.Join(t.TempDir(), "r.db")
	edit := func(f func(tx *bolt.Tx) error) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
		if err == nil {
			err = errors.Join(db.Update(f), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(path, file, 0o600)
	edit(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketMeta).Delete(keyChange); err != nil {
			return err
		}
		for _, name := range [][]byte{bucketAssignments, bucketCooling, bucketHistory} {
			b := tx.Bucket(name)
			olds := map[string][]byte{}
			b.ForEach(func(k, v []byte) error {
				olds[string(k)] = older(v, before)
				return nil
			})
			for k, v := range olds {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
		}
		if err := errors.Join(tx.Bucket(bucketAssignments).SetSequence(0), seal(tx)); err != nil {
			return err
		}
		if before == layoutUnsummed {
			tx.Bucket(bucketMeta).Delete(keyDigest)
		}
		return tx.Bucket(bucketMeta).Put(keyVersion, []byte(before))
	})
	if report, err := Check(path); err != nil || report.Layout != before || report.Assignments != 33 {
		t.Errorf("%+v, %v", report, err)
	}
	if before == layoutUnnumbered { // a record that is missing is seen, not summed up with the rest
		whole, _ := os.ReadFile(path)
		edit(func(tx *bolt.Tx) error { return tx.Bucket(bucketAssignments).Delete([]byte(key(1).String())) })
		if _, err := Open(Options{Path: path, Pools: damagePools}); err == nil || !strings.Contains(err.Error(), "32 records are there, and there were 33") {
			t.Error(err)
		}
		os.WriteFile(path, whole, 0o600)
	}
	c := &clock{time.Unix(1_700_000_100, 0)}
	r := open(t, path, c)
	if got := dump(t, r); got != want {
		t.Error(diff.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
	}
	serials := map[uint64]bool{}
	all := r.All()
	slices.SortFunc(all, func(a, b *Assignment) int { return cmp.Compare(a.Serial, b.Serial) })
	for i, a := range all {
		serials[a.Serial] = true
		if a.Serial == 0 || i > 0 && a.Since.Before(all[i-1].Since) {
			t.Errorf("%s has serial %d, and one that began later a lower one", a.Key, a.Serial)
		}
	}
	if len(serials) != 33 {
		t.Errorf("%d serials", len(serials))
	}
	r.Close()
	r = open(t, path, c)
	for _, a := range all {
		if b, err := r.BySerial(a.Serial); err != nil || b.Key != a.Key {
			t.Errorf("serial %d is %s's, and then %v's (%v)", a.Serial, a.Key, b, err)
		}
	}
	for i := range 50 { // and what is old can be changed
		if i%3 != 0 {
			if err := r.Delete(t.Context(), key(i)); err != nil {
				t.Fatal(err)
			}
		}
		if a := mustPut(t, r, i, request(i)); serials[a.Serial] {
			t.Errorf("serial %d for a second time", a.Serial)
		} else {
			serials[a.Serial] = true
		}
	}
	r.Close()
	if report, err := Check(path); err != nil || report.Layout != layout || report.Assignments != 50 {
		t.Errorf("%+v, %v", report, err)
	}
	edit(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte("4")) })
	_, err := Open(Options{Path: path, Pools: damagePools})
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "newer natlessd") || !strings.Contains(err.Error(), "install that natlessd again") {
		t.Error(err)
	}
	edit(func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketMeta) })
	if _, err := Open(Options{Path: path, Pools: damagePools}); err == nil || !strings.Contains(err.Error(), `no bucket "meta"`) {
		t.Error(err)
	}
}

// TestBackup: a copy that is made while assignments come and go is whole, and
// what it is restored to is what it was.
func TestBackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, copied := filepath.Join(dir, "r.db"), filepath.Join(dir, "copy.db")
	c := &clock{time.Unix(1_700_000_000, 0)}
	r := open(t, path, c)
	for i := range 100 {
		mustPut(t, r, i, request(i))
	}
	for i := range 4 {
		r.inMemory = int64(i%3) * copyInMemory // after a change of an odd number, and of an even one, and on disk
		mustPut(t, r, 100, request(100))
		if b, err := r.Backup(); err != nil {
			t.Fatal(err)
		} else if data, err := io.ReadAll(b); err != nil || int64(len(data)) != b.Size || verify(inMemory(data), b.Size) != nil || b.Close() != nil {
			t.Errorf("%d of %d bytes, %v, %v", len(data), b.Size, err, verify(inMemory(data), b.Size))
		}
		if err := r.Delete(t.Context(), key(100)); err != nil {
			t.Fatal(err)
		}
		c.advance(time.Hour)
		r.Delete(t.Context(), key(101)) // frees what has cooled down
	}
	want := dump(t, r)
	b, err := r.Backup()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Backup(); !errors.Is(err, ErrBusy) {
		t.Errorf("a second at a time: %v", err)
	}
	for i := 100; i < 150; i++ {
		mustPut(t, r, i, request(i))
	}
	var data bytes.Buffer
	if n, err := data.ReadFrom(b); err != nil || n != b.Size || b.Close() != nil {
		t.Fatal(n, err)
	}
	os.WriteFile(copied, data.Bytes(), 0o600)
	if report, err := Check(copied); err != nil || report.Assignments != 100 {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := Check(path); err == nil || !strings.Contains(err.Error(), "natless registry backup") {
		t.Errorf("check of a registry in use: %v", err)
	}
	if _, _, err := Restore(copied, path); err == nil || !strings.Contains(err.Error(), "stop natlessd first") ||
		!strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("restore of a registry in use: %v", err)
	}
	if _, err := Open(Options{Path: path}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("a second daemon: %v", err)
	}
	r.Close()
	report, aside, err := Restore(copied, path)
	if err != nil || report.Path != path {
		t.Fatal(report, err)
	}
	if report, err := Check(aside); err != nil || report.Assignments != 150 {
		t.Errorf("the one before: %+v, %v", report, err)
	}
	r = open(t, path, c)
	if got := dump(t, r); got != want {
		t.Error(diff.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
	}
	mustPut(t, r, 200, request(200))
	r.Close()
	os.WriteFile(copied, data.Bytes()[:data.Len()-1], 0o600)
	if _, _, err := Restore(copied, path); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("restore of half a backup: %v", err)
	}
	if report, err := Check(path); err != nil || report.Assignments != 101 {
		t.Errorf("after a restore that was refused: %+v, %v", report, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// TestSalvage: what is whole in a damaged registry is kept, and nothing else is
// made up.
func TestSalvage(t *testing.T) {
	t.Parallel()
	file, want := written(t, 200)
	size := os.Getpagesize()
	kept := 0
	tried := 0
	for p := 0; p < len(file)/size; p += 4 {
		tried++
		b := bytes.Clone(file)
		clear(b[p*size : (p+1)*size])
		path := filepath.Join(t.TempDir(), "r.db")
		os.WriteFile(path, b, 0o600)
		s, _, err := Salvage(path)
		if err != nil {
			t.Logf("page %d: %v", p, err)
			continue
		}
		kept += s.Assignments
		r := open(t, path, &clock{time.Unix(1_700_000_000, 0)})
		for line := range strings.Lines(dump(t, r)) {
			if strings.HasPrefix(line, "assignments ") && !strings.Contains(want, strings.TrimSpace(line)) {
				t.Errorf("page %d: made up %s", p, line)
			}
		}
		r.Close()
	}
	if mean := kept / tried; mean < 60 {
		t.Errorf("%d of 133 assignments are kept on the mean", mean)
	}
}

// A natlessd of before, to which one has gone back, leaves the number of a change that
// is not its own: what it wrote is no damage.
func TestChangedByOneOfBefore(t *testing.T) {
	t.Parallel()
	file, _ := written(t, 60)
	path := filepath.Join(t.TempDir(), "r.db")
	os.WriteFile(path, file, 0o600)
	for range 2 { // by which the number is an even one, and an odd one
		db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			k, _ := tx.Bucket(bucketCooling).Cursor().First()
			return erase(tx, bucketCooling, bytes.Clone(k))
		})
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if report, err := Check(path); err != nil {
			t.Errorf("%+v, %v", report, err)
		}
	}
	r := open(t, path, &clock{time.Unix(1_700_000_000, 0)})
	mustPut(t, r, 1000, request(1000))
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Check(path); err != nil {
		t.Error(err)
	}
}

// A file of before has a list of its free pages: one that lies would have pages
// overwritten that are in use.
func TestDamagedFreelist(t *testing.T) {
	t.Parallel()
	file, want := written(t, 60)
	path := filepath.Join(t.TempDir(), "r.db")
	os.WriteFile(path, file, 0o600)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second}) // writes the list
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(db, func(*bolt.Tx) error { return nil }), db.Close()); err != nil {
		t.Fatal(err)
	}
	listed, _ := os.ReadFile(path)
	metas, err := readMetas(inMemory(listed))
	if err != nil || len(metas) != 2 {
		t.Fatal(metas, err)
	}
	m := metas[0]
	if metas[1].transaction > m.transaction {
		m = metas[1]
	}
	if m.freelist == noFreelist {
		t.Fatal("there is no list")
	}
	dir, rnd := t.TempDir(), rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	count := map[string]int{opened(t, dir, "whole", listed, want): 1}
	if count["right"] != 1 {
		t.Error("refused, and whole")
	}
	at := int(m.freelist) * m.pageSize
	for n := range 200 {
		b := bytes.Clone(listed)
		i := rnd.IntN(80)
		b[at+i] ^= 1 << rnd.IntN(8)
		count[opened(t, dir, fmt.Sprintf("%d: byte %d", n, i), b, want)]++
	}
	t.Log(count)
	if count["refused"] < 50 {
		t.Error("this proves nothing")
	}
}
