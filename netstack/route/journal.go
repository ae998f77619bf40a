package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// journal holds the sysctls that we changed, in that order, on disk, so that a
// start after a kill still knows the values from before.
type journal struct {
	path    string
	saved   []byte
	indexes map[string]int // of the interfaces, by name
	Sysctls []journalEntry `json:"sysctls"`
}

type journalEntry struct {
	Key string `json:"key"`
	Was string `json:"was"`
	Set string `json:"set"`
	// Interface is the index of the one that the key is about, 0 when it is about
	// none: names change, and come back on others.
	Interface int `json:"interface,omitempty"`
	// Before is what we had set before Set: after a kill in between it still
	// holds.
	Before string `json:"before,omitempty"`
}

// ours reports whether a value is there because we set it.
func (e *journalEntry) ours(value string) bool {
	return sameSysctl(value, e.Set) || e.Before != "" && sameSysctl(value, e.Before)
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
		if e := &j.Sysctls[i]; e.Set != set {
			e.Before, e.Set = e.Set, set
		}
		return
	}
	j.Sysctls = append(j.Sysctls, journalEntry{Key: key, Was: was, Set: set, Interface: j.indexes[interfaceOf(key)]})
}

// follow has the entries go with their interfaces: to another name with one that
// was renamed, and away with one that is gone.
func (j *journal) follow(ifaces []iface) {
	names := make(map[int]string, len(ifaces))
	j.indexes = make(map[string]int, len(ifaces))
	for _, i := range ifaces {
		names[i.index], j.indexes[i.name] = i.name, i.index
	}
	j.Sysctls = slices.DeleteFunc(j.Sysctls, func(e journalEntry) bool { return e.Interface != 0 && names[e.Interface] == "" })
	for i := range j.Sysctls {
		e := &j.Sysctls[i]
		if e.Interface != 0 {
			e.Key = withInterface(e.Key, names[e.Interface])
		}
	}
}

// interfaceOf is the interface that a key is about: net/FAMILY/conf/eth0/… or
// net/FAMILY/neigh/eth0/…; "" when there is none.
func interfaceOf(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) != 5 || parts[2] != "conf" && parts[2] != "neigh" {
		return ""
	}
	return parts[3]
}

// withInterface is the key for another interface.
func withInterface(key, name string) string {
	parts := strings.Split(key, "/")
	parts[3] = name
	return strings.Join(parts, "/")
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
