package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/natless/natless/config/lease"
)

// The blocks that a fleet has lent this host are in a file beside the database, as
// drains are: they are of this host, and a backup that is restored on another must not
// bring them along. An older natlessd opens the database all the same, and has no pool
// of blocks.

// blocksPath is the file. It is not there where there never were blocks.
func blocksPath(path string) string { return path + ".blocks" }

// readBlocks reads the blocks: a line with the sum of the rest, and the rest.
func readBlocks(path string) (s lease.State, err error) {
	if err := readSummed(blocksPath(path), &s); err != nil {
		return s, fmt.Errorf("which blocks the fleet has lent this host: %s: %w: delete it, and natless-fleet agent says it again; workloads "+
			"keep what they have", blocksPath(path), err)
	}
	return s, nil
}

// readSummed reads a file that begins with the sum of the rest; one that is not there
// changes nothing.
func readSummed(name string, v any) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return decodeSummed(b, v)
}

const sumSize = 8 + 1 // of the first line

func decodeSummed(b []byte, v any) error {
	if len(b) < sumSize {
		return errRecord
	}
	sum, err := strconv.ParseUint(string(b[:sumSize-1]), 16, 32)
	if err != nil || uint32(sum) != checksum(b[sumSize:]) {
		return errRecord
	}
	return json.Unmarshal(b[sumSize:], v)
}

func writeBlocks(path string, s lease.State) error {
	return writeSummed(blocksPath(path), s, "registry: blocks")
}

func writeSummed(name string, v any, moment string) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	return writeBeside(name, append(fmt.Appendf(nil, "%08x\n", checksum(b)), b...), moment)
}

// writeBeside replaces a file: a reader sees the one before or this one, whole. moment
// is when it is about to be there.
func writeBeside(name string, b []byte, moment string) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		at(moment)
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(name))
}

// Blocks is what this host knows of the blocks that a fleet has lent it.
func (r *Registry) Blocks() lease.State {
	if s := r.blocks.Load(); s != nil {
		return *s
	}
	return lease.State{}
}

// SetBlocks has that on disk; when it returns, it outlives the process. What pools give
// away follows with a Plan. One calls it at a time.
func (r *Registry) SetBlocks(s lease.State) error {
	if err := writeBlocks(r.path, s); err != nil {
		return &WriteError{Path: blocksPath(r.path), Err: err}
	}
	at("registry: blocks written")
	r.blocks.Store(&s)
	return nil
}

// usersNamed is how many users of a block are told by name.
const usersNamed = 3

// Use is what is in use of a block.
func (r *Registry) Use(block netip.Prefix) (u lease.Use) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.state.cooling {
		if c.until.After(r.now()) && block.Contains(c.Address) {
			u.Cooling++
		}
	}
	for a := block.Addr(); block.Contains(a); a = a.Next() {
		addr := r.state.addresses[a]
		if addr == nil {
			continue
		}
		u.Workloads += len(addr.owners)
		for o := range look(addr.owners) {
			if len(u.Names) == usersNamed {
				break
			}
			name := o.Request.Name
			if name == "" {
				name = o.Key.String()
			}
			u.Names = append(u.Names, name)
		}
	}
	return u
}
