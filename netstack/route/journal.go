package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// journal holds the sysctls that we changed, in that order, on disk, so that a
// start after a kill still knows the values from before.
type journal struct {
	path    string
	saved   []byte
	Sysctls []journalEntry `json:"sysctls"`
}

type journalEntry struct {
	Key string `json:"key"`
	Was string `json:"was"`
	Set string `json:"set"`
}

func openJournal(c Config) (*journal, error) {
	j := &journal{path: filepath.Join(c.StateDir, c.Device+".sysctls.json")}
	data, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("state file %s: %w; remove it when sysctls need no restoring", j.path, err)
	}
	j.saved = data
	return j, nil
}

func (j *journal) index(key string) int {
	return slices.IndexFunc(j.Sysctls, func(e journalEntry) bool { return e.Key == key })
}

func (j *journal) has(key string) bool { return j.index(key) >= 0 }

// note remembers a value from before; only the first one counts.
func (j *journal) note(key, was, set string) {
	if i := j.index(key); i >= 0 {
		j.Sysctls[i].Set = set
		return
	}
	j.Sysctls = append(j.Sysctls, journalEntry{key, was, set})
}

func (j *journal) forget(keys []string) {
	j.Sysctls = slices.DeleteFunc(j.Sysctls, func(e journalEntry) bool { return slices.Contains(keys, e.Key) })
}

// save writes the journal, whole or not at all; an empty one has no file.
func (j *journal) save() error {
	if len(j.Sysctls) == 0 {
		j.saved = nil
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove state: %w", err)
		}
		return nil
	}
	data, err := json.MarshalIndent(j, "", "\t")
	if err != nil || slices.Equal(data, j.saved) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o755); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	// No fsync: /run is memory, and a crash of the host resets sysctls too.
	if err := os.WriteFile(j.path+".new", data, 0o644); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	j.saved = data
	return nil
}
