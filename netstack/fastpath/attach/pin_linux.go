package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const defaultRoot = "/sys/fs/bpf"

// bpfFS makes sure that a BPF file system is at root and can be written.
func bpfFS(root string) error {
	is := func() bool {
		var s unix.Statfs_t
		return unix.Statfs(root, &s) == nil && s.Type == unix.BPF_FS_MAGIC
	}
	if !is() {
		if err := unix.Mount("bpf", root, "bpf", 0, "mode=0700"); err != nil {
			return fmt.Errorf("no BPF file system at %s, where the fast path is pinned, and none can be mounted (mount -t bpf bpf %s): %w",
				root, root, err)
		}
	}
	return nil
}

// store is the directory in the BPF file system where one daemon's maps and
// links are pinned. It is locked while a daemon has it.
type store struct {
	dir   string
	lock  *os.File // nil where there is no such folder
	owner int      // a socket's name in the network namespace, which only one process has
}

// storeName tells the daemons of a host apart, by device and network namespace.
func storeName(device string) (string, error) {
	inode, err := ownNamespace()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s@%d", device, inode), nil
}

func ownNamespace() (uint64, error) {
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		return 0, fmt.Errorf("own network namespace: %w", err)
	}
	return s.Ino, nil
}

func openStore(root, device string) (*store, error) {
	if err := bpfFS(root); err != nil {
		return nil, err
	}
	name, err := storeName(device)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "natless", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pin the fast path: %w: make %s writable", err, root)
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return nil, fmt.Errorf("pin the fast path: %s: %w: make %s writable", dir, err, root)
	}
	s := &store{dir: dir}
	if err := s.take(device); err != nil {
		return nil, err
	}
	return s, nil
}

// take makes this process the owner of the device's fast path in this network
// namespace: of the folder, and of a name that does not depend on what is mounted.
func (s *store) take(device string) (err error) {
	if s.owner, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	err = unix.Bind(s.owner, &unix.SockaddrUnix{Name: "@natless-offload-" + device})
	if errors.Is(err, unix.EADDRINUSE) {
		err = unix.EWOULDBLOCK
	}
	if err == nil {
		s.lock, err = lock(s.dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		unix.Close(s.owner)
		return fmt.Errorf("%s: %w: another natlessd has it", s.dir, err)
	}
	return nil
}

// lock takes a folder for this process alone.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *store) close() {
	if s.lock != nil {
		s.lock.Close()
	}
	unix.Close(s.owner)
	s.owner = -1
}

// remove removes the directory and, when it was the last, the one around it.
func (s *store) remove() error {
	err := os.RemoveAll(s.dir)
	s.close()
	_ = os.Remove(filepath.Dir(s.dir)) // others may be there
	return err
}

// collect removes what daemons left in network namespaces that are gone: no
// process and no mount has them, and no link is attached to anything.
func (s *store) collect() (removed []string) {
	root := filepath.Dir(s.dir)
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil
	}
	var alive map[uint64]bool
	for _, e := range entries {
		_, number, ok := strings.Cut(e.Name(), "@")
		inode, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || e.Name() == filepath.Base(s.dir) {
			continue
		}
		if alive == nil {
			if alive, err = namespaces(); err != nil {
				return nil
			}
		}
		dir := filepath.Join(root, e.Name())
		if alive[inode] || anyAttached(dir) {
			continue
		}
		l, err := lock(dir)
		if err != nil {
			continue
		}
		if os.RemoveAll(dir) == nil {
			removed = append(removed, dir)
		}
		l.Close()
	}
	return removed
}

// namespaces are the network namespaces that a process or a mount keeps.
func namespaces() (map[uint64]bool, error) {
	alive := map[uint64]bool{}
	processes, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		var s unix.Stat_t
		if unix.Stat(p, &s) == nil {
			alive[s.Ino] = true
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for word := range strings.FieldsSeq(string(mounts)) {
		number, ok := strings.CutPrefix(word, "net:[")
		if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); ok && err == nil {
			alive[inode] = true
		}
	}
	return alive, nil
}
