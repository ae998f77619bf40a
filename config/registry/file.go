package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// RefusedError: a registry that is not used as it is, since what containers
// have would be given to others. The file is left alone.
type RefusedError struct {
	Path   string
	Reason error
	Remedy string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("registry %s: %v; %s", e.Path, e.Reason, e.Remedy)
}

func (e *RefusedError) Unwrap() error { return e.Reason }

// refuse says the way out, which is a command.
func refuse(path string, reason error) error {
	remedy := "it is left as it is, and nothing can be read of it with certainty:"
	if newer := (*layoutError)(nil); errors.As(reason, &newer) {
		remedy = "it is left as it is: install that natlessd again, or"
	}
	return &RefusedError{path, reason, fmt.Sprintf("%s put a backup in its place with \"natless registry restore BACKUP %[2]s\", "+
		"or take what is whole with \"natless registry salvage %[2]s\", "+
		"or begin anew with \"natless registry new %[2]s\" (containers that run then have no IPv4 "+
		"until they are created again)", remedy, path)}
}

// refuseMissing is for a file that is gone.
func refuseMissing(path string) error {
	return &RefusedError{path, fmt.Errorf("it is gone, and was there: %s says so", marker(path)),
		fmt.Sprintf("put it back, or a backup with \"natless registry restore BACKUP %[1]s\", "+
			"or begin anew with \"natless registry new %[1]s\" (containers that run then have no IPv4 until they are created again)", path)}
}

// marker is a file that says that there is, or was, a registry.
func marker(path string) string { return path + ".exists" }

// mark makes the marker. Without it a registry works as well.
func mark(path string) error {
	if _, err := os.Stat(marker(path)); err == nil {
		return nil
	}
	return os.WriteFile(marker(path), []byte("natlessd has a registry beside this file. If that one is gone, natlessd does not "+
		"begin with an empty one in silence.\n"), 0o600)
}

// openStore opens the database; where there never was one it makes it.
func openStore(path string) (*bolt.DB, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(marker(path)); err == nil {
			return nil, refuseMissing(path)
		}
		if err := create(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("registry: %w", err)
	case info.Size() == 0:
		return nil, refuse(path, errors.New("it is empty"))
	}
	db, err := openFile(path, false)
	if err != nil {
		return nil, err
	}
	_ = mark(path) // a full disk must not keep what works from starting
	return db, nil
}

// create makes an empty registry, whole or not at all. One that somebody else
// made meanwhile stays.
func create(path string) error {
	temporary, err := temporary(path)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	if err := writeBlank(temporary); err != nil {
		return fmt.Errorf("registry %s: %w", path, err)
	}
	err = os.Link(temporary, path)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil { // a file system without links
		err = os.Rename(temporary, path)
	}
	if err := errors.Join(err, syncDir(path)); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}

// temporary makes an empty file beside path.
func temporary(path string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // mode 0600
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("registry %s: its directory does not exist: create it, or change registry.path", path)
	}
	if err != nil {
		return "", fmt.Errorf("registry: %w", err)
	}
	return f.Name(), f.Close()
}

// writeBlank makes a registry of an empty file.
func writeBlank(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, NoFreelistSync: true})
	if err != nil {
		return err
	}
	return errors.Join(change(db, blank), db.Sync(), db.Close())
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openFile opens a database that is there, whose pages it has looked at. One
// that is opened to be read only may be so by many.
func openFile(path string, readOnly bool) (db *bolt.DB, err error) {
	options := &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType, NoFreelistSync: true, ReadOnly: readOnly,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			return openChecked(name, flag&^os.O_CREATE, mode)
		}}
	err = guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, options)
		return err
	})
	if err == nil {
		err = guard(func() error {
			if readOnly {
				return db.View(checkLayout)
			}
			return change(db, prepare)
		})
	}
	if err == errClean {
		err = nil
	}
	if err == nil {
		err = guard(func() error { return db.View(checkContent) })
	}
	if err == nil {
		return db, nil
	}
	if db != nil {
		db.Close()
	}
	return nil, openError(path, err)
}

// openError tells a file that is damaged from one that cannot be reached.
func openError(path string, err error) error {
	var refused *RefusedError
	var held *heldError
	switch {
	case errors.As(err, &refused):
		return err
	case errors.As(err, &held):
		return fmt.Errorf("registry %s: %w", path, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("registry %s: %w: mount its file system read-write again, or change registry.path", path, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("registry %s: %w: make room on its disk", path, err)
	case errors.Is(err, syscall.EIO):
	case errors.As(err, new(*fs.PathError)), errors.As(err, new(syscall.Errno)):
		return fmt.Errorf("registry %s: %w", path, err)
	}
	return refuse(path, err)
}

// openChecked opens a file, locks it, and looks at all its pages before bbolt
// maps it.
func openChecked(name string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	if err := lockAndCheck(f, name, flag&os.O_RDWR != 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func lockAndCheck(f *os.File, name string, exclusive bool) error {
	if err := lock(f, exclusive, time.Second); err != nil {
		return err
	}
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Stat(name); err != nil || !os.SameFile(mine, now) {
		return errors.New("another was put in its place just now: try again")
	}
	if mine.Size() == 0 {
		return errors.New("it is empty")
	}
	return verify(f, mine.Size())
}

// heldError: another process has the file open.
type heldError struct{ by string }

func (e *heldError) Error() string {
	return e.by + " has it open: is natlessd running already?"
}

// guard runs f, in which bbolt may panic, or fault on a file that was cut short
// or cannot be read any more.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damageError{fmt.Sprint(p), debug.Stack()}
		}
	}()
	return f()
}

// damageError is a panic of bbolt's.
type damageError struct {
	what  string
	stack []byte
}

func (e *damageError) Error() string { return "it is damaged: " + e.what }
