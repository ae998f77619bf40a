package conflist

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// file is what replace does to a file that it writes.
type file interface {
	io.WriteCloser
	Name() string
	Chmod(mode fs.FileMode) error
	Sync() error
}

// files is what replace does to a file system. A test has each step fail.
type files interface {
	CreateTemp(dir, pattern string) (file, error)
	ReadFile(path string) ([]byte, error)
	Rename(from, to string) error
	Remove(path string) error
}

// system is the real one.
type system struct{}

func (system) CreateTemp(dir, pattern string) (file, error) { return os.CreateTemp(dir, pattern) }
func (system) ReadFile(path string) ([]byte, error)         { return os.ReadFile(path) }
func (system) Rename(from, to string) error                 { return os.Rename(from, to) }
func (system) Remove(path string) error                     { return os.Remove(path) }

var disk files = system{}

const (
	// half is what a file is called that is not whole: engines take it for neither a
	// configuration nor a plugin.
	half = ".natless-*"
	// abandoned is when nobody writes a half file any more.
	abandoned = time.Minute
)

// Copy installs a program: a container that runs the old one meanwhile is not
// disturbed.
func Copy(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return replace(to, f, 0o755, func() error { return nil })
}

// replace writes a half file beside path and renames it. ready is asked before that.
func replace(path string, content io.Reader, mode fs.FileMode, ready func() error) (err error) {
	f, err := disk.CreateTemp(filepath.Dir(path), half)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			disk.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	return disk.Rename(f.Name(), path)
}

// Sweep removes the half files that one of us left which was killed. What is younger
// may be of one that is writing it.
func Sweep(dir string) {
	paths, _ := filepath.Glob(filepath.Join(dir, half))
	for _, path := range paths {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > abandoned {
			disk.Remove(path)
		}
	}
}
