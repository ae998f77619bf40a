package config

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Key is 16 secret bytes that are made at random once and then stay: they lie
// in the file key beside the registry, mode 0600.
func Key(registry string) (key [16]byte, err error) {
	path := filepath.Join(filepath.Dir(registry), "key")
	data, err := os.ReadFile(path)
	switch {
	case err == nil && len(data) == len(key):
		return [16]byte(data), nil
	case err == nil:
		return key, fmt.Errorf("%s: has %d bytes instead of %d: delete it", path, len(data), len(key))
	case !errors.Is(err, fs.ErrNotExist):
		return key, err
	}
	rand.Read(key[:])
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return key, err
	}
	return key, writeFile(path, key[:])
}

// HasKey reports whether Key has made one.
func HasKey(registry string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(registry), "key"))
	return err == nil
}

// writeFile makes a file that is there whole or not at all.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
