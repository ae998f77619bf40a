package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ErrBusy: somebody is making a backup already.
var ErrBusy = errors.New("a backup is being made: try again when it is done")

// copyInMemory is the largest copy that is made in memory (100,000 workloads). A larger
// one is made on disk, which may be full.
const copyInMemory = 32 << 20

// Copy is a copy of the registry as it was at one moment. Close it.
type Copy struct {
	io.Reader
	Size int64
	done func() error
}

// Close lets go of the copy.
func (c *Copy) Close() error { return c.done() }

// Backup makes a copy. Changes go on meanwhile: whoever reads it slowly keeps
// nobody waiting, since the database has been left when this returns.
func (r *Registry) Backup() (*Copy, error) {
	if !r.copying.TryLock() {
		return nil, ErrBusy
	}
	c, err := r.copy()
	if err != nil {
		r.copying.Unlock()
		return nil, err
	}
	done := c.done
	c.done = func() error { defer r.copying.Unlock(); return done() }
	return c, nil
}

func (r *Registry) copy() (*Copy, error) {
	c := &Copy{done: func() error { return nil }}
	err := r.view(func(tx *bolt.Tx) error {
		if c.Size = tx.Size(); c.Size <= r.inMemory {
			var b bytes.Buffer
			b.Grow(int(c.Size))
			_, err := tx.WriteTo(&b)
			c.Reader = &b
			return errors.Join(err, orderMetas(inMemory(b.Bytes()), tx.ID()))
		}
		f, err := os.CreateTemp(filepath.Dir(r.path), ".backup-")
		if err != nil {
			return err
		}
		os.Remove(f.Name()) // it goes with its descriptor
		c.Reader, c.done = f, f.Close
		if _, err = tx.WriteTo(f); err == nil {
			err = orderMetas(f, tx.ID())
		}
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		return err
	})
	if err != nil {
		c.done()
		return nil, fmt.Errorf("registry %s: copy: %w%s", r.path, err, writeRemedy(err))
	}
	return c, nil
}

// orderMetas puts the two metas of a copy where bbolt's own writes have them: a
// change of an even number on page 0. WriteTo always writes the last on page 0.
// So of a file that was written by anybody, the order can be checked.
func orderMetas(f interface {
	io.ReaderAt
	io.WriterAt
}, transaction int) error {
	if transaction%2 == 0 {
		return nil
	}
	var head [pageHeader + metaSize]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return err
	}
	var a, b [metaSize]byte
	at0 := int64(pageHeader)
	at1 := at0 + int64(native.Uint32(head[pageHeader+8:])) // the size of a page
	if _, err := f.ReadAt(a[:], at0); err != nil {
		return err
	}
	if _, err := f.ReadAt(b[:], at1); err != nil {
		return err
	}
	_, err0 := f.WriteAt(b[:], at0)
	_, err1 := f.WriteAt(a[:], at1)
	return errors.Join(err0, err1)
}

// inMemory is a file of fixed length.
type inMemory []byte

func (m inMemory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m).ReadAt(b, at) }

func (m inMemory) WriteAt(b []byte, at int64) (int, error) { return copy(m[at:], b), nil }

// Report is what a file holds that nothing is wrong with.
type Report struct {
	Path        string `json:"path"`
	Bytes       int64  `json:"bytes"`
	Layout      string `json:"layout"`
	Assignments int    `json:"assignments"`
	Cooling     int    `json:"cooling"` // sets that were given back, and cool down
	History     int    `json:"history"` // assignments that ended
}

// Check looks at a file that no daemon has open, at all of it.
func Check(path string) (r Report, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, there := os.Stat(marker(path)); there == nil {
			return r, refuseMissing(path)
		}
	}
	if err != nil {
		return r, fmt.Errorf("registry: %w", err)
	}
	db, err := openFile(path, true)
	if held := (*heldError)(nil); errors.As(err, &held) {
		return r, fmt.Errorf("registry %s: %s has it open: make a backup with \"natless registry backup\", and check that", path, held.by)
	}
	if err != nil {
		return r, err
	}
	defer db.Close()
	r = Report{Path: path, Bytes: info.Size()}
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			r.Layout = string(tx.Bucket(bucketMeta).Get(keyVersion))
			r.History = tx.Bucket(bucketHistory).Stats().KeyN
			s := newState(nil, 0)
			return loadAll(tx, func(a *Assignment) error { r.Assignments++; return s.add(a) },
				func(c *cooled) error { r.Cooling++; return s.cool(c) })
		})
	})
	if err != nil {
		return r, refuse(path, err)
	}
	return r, nil
}

// Restore puts a copy of a backup in the place of a registry that no daemon has
// open, and gives where the one before is kept, if there was one.
func Restore(backup, path string) (r Report, aside string, err error) {
	if _, err := Check(backup); err != nil {
		return r, "", err
	}
	return replace(path, func(temporary string) error { return copyFile(backup, temporary) })
}

// New puts an empty registry in the place of one.
func New(path string) (r Report, aside string, err error) {
	return replace(path, writeBlank)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// replace puts what fill makes of an empty file in the place of a registry. At
// every moment there is the one or the other, whole.
func replace(path string, fill func(temporary string) error) (r Report, aside string, err error) {
	unlock, err := lockOut(path)
	if err != nil {
		return r, "", err
	}
	defer unlock()
	temporary, err := temporary(path)
	if err != nil {
		return r, "", err
	}
	defer os.Remove(temporary)
	err = fill(temporary)
	if err == nil {
		err = skipForgotten(temporary, time.Now())
	}
	if err != nil {
		return r, "", fmt.Errorf("registry %s: %w%s", path, err, writeRemedy(err))
	}
	if r, err = Check(temporary); err != nil {
		return r, "", err
	}
	if aside, err = keepAside(path, time.Now()); err != nil {
		return r, "", fmt.Errorf("registry: %w", err)
	}
	if err := errors.Join(os.Rename(temporary, path), syncDir(path)); err != nil {
		return r, aside, fmt.Errorf("registry: %w", err)
	}
	r.Path = path
	return r, aside, mark(path)
}

// lockOut keeps a daemon from opening the file until it has been replaced.
func lockOut(path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if err := lock(f, true, time.Second); err != nil {
		f.Close()
		if held := (*heldError)(nil); errors.As(err, &held) {
			err = fmt.Errorf("%s has it open: stop natlessd first", held.by)
		}
		return nil, fmt.Errorf("registry %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// keepAside gives the file a second name, with the time, and says which; "" when
// there is none.
func keepAside(path string, now time.Time) (string, error) {
	aside := path + "." + now.UTC().Format("20060102T150405Z")
	for n := 2; ; n++ {
		err := os.Link(path, aside)
		switch {
		case err == nil:
			return aside, nil
		case errors.Is(err, fs.ErrNotExist):
			return "", nil
		case !errors.Is(err, fs.ErrExist): // a file system without links
			return aside, os.Rename(path, aside)
		}
		aside = fmt.Sprintf("%s.%s-%d", path, now.UTC().Format("20060102T150405Z"), n)
	}
}
