package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Release is a deletion that nobody could be told of. It is recorded in the
// directory "released" beside the socket, and done by the daemon when it is
// back: whoever deletes a workload need not wait for the daemon.
type Release struct {
	Key
	At time.Time `json:"at"` // an assignment younger than this stays
}

func releasedDir(socket string) string { return filepath.Join(filepath.Dir(socket), "released") }

// releasePath is unambiguous, because a Key's parts have no "@" (CNI spec 1.1).
func releasePath(socket string, k Key) string {
	return filepath.Join(releasedDir(socket), k.ContainerID+"@"+k.Interface+".json")
}

// RecordRelease records that the workload is to be deleted. A reader sees the
// whole record or none.
func RecordRelease(socket string, k Key, at time.Time) error {
	if err := os.MkdirAll(releasedDir(socket), 0o750); err != nil {
		return fmt.Errorf("record release of %s: %w", k, err)
	}
	b, err := json.Marshal(Release{k, at})
	if err != nil {
		return err
	}
	path := releasePath(socket, k)
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	err = os.WriteFile(temporary, b, 0o640)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
		return fmt.Errorf("record release of %s: %w", k, err)
	}
	return nil
}

// WithdrawRelease takes a recorded release back: it is done, or the workload
// has come again under the same key.
func WithdrawRelease(socket string, k Key) error {
	err := os.Remove(releasePath(socket, k))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Releases lists what is recorded. Files that are not releases are named in the
// error and passed over.
func Releases(socket string) ([]Release, error) {
	paths, err := filepath.Glob(filepath.Join(releasedDir(socket), "*.json"))
	if err != nil {
		return nil, err
	}
	var (
		all  []Release
		errs []error
	)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // withdrawn meanwhile
		}
		var r Release
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err == nil && releasePath(socket, r.Key) != path {
			err = fmt.Errorf("it speaks of %s", r.Key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", path, err))
			continue
		}
		all = append(all, r)
	}
	return all, errors.Join(errs...)
}
