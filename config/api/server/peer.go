package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is who connected, as the kernel saw it then. The zero value of known
// may nothing.
type peer struct {
	known  bool
	pid    int32
	uid    uint32
	groups []uint32
	own    bool // this process, by Dial
	conn   net.Conn
}

type peerKey struct{}

// withPeer remembers who opened a connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p, err := readPeer(c)
	p.known = err == nil
	if _, own := c.(ownConn); own {
		p = peer{known: true, own: true}
	}
	p.conn = c
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(ctx context.Context) peer {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p
}

// may reports whether the peer may ask: root, or a member of the group.
func (p peer) may(group int) bool {
	return p.known && (p.uid == 0 || group > 0 && slices.Contains(p.groups, uint32(group)))
}

func readPeer(c net.Conn) (p peer, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return p, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return p, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p.pid, p.uid = cred.Pid, cred.Uid
		p.groups, err = supplementary(fd)
		p.groups = append(p.groups, cred.Gid)
	})
	return p, errors.Join(controlErr, err)
}

// supplementary reads SO_PEERGROUPS (Linux 4.13), for which x/sys has no
// function.
func supplementary(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(4 * len(groups))
		_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		if e == unix.ERANGE && int(size) > 4*len(groups) {
			groups = make([]uint32, size/4)
			continue
		}
		if e != 0 {
			return nil, e
		}
		return groups[:size/4], nil
	}
}

// GroupID looks a group up by its name or number.
func GroupID(group string) (int, error) {
	if group == "root" {
		return 0, nil // also where there is no /etc/group, as in a container
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		var byID error
		if g, byID = user.LookupGroupId(group); byID != nil {
			return 0, fmt.Errorf("api.group: %w: create it, or name another", err)
		}
	}
	return strconv.Atoi(g.Gid)
}

// Listen opens the socket, for root and the group alone. What a dead daemon
// left at the path is replaced; where a living one answers, it is an error.
func Listen(path string, group int) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("api.socket %s: another process answers there: is natlessd running already?", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("api.socket: %w", err)
	}
	// Made aside and moved, it is never seen with other permissions.
	aside := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("api.socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: aside, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("api.socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(aside, 0o660)
	if err == nil && os.Geteuid() == 0 {
		err = os.Chown(aside, 0, group)
	}
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		l.Close()
		os.Remove(aside)
		return nil, fmt.Errorf("api.socket %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("api.socket %s: %w", path, err)
	}
	return &listener{l, path, info}, nil
}

// listener removes its socket when it is closed, unless another took the path.
type listener struct {
	net.Listener
	path string
	own  os.FileInfo
}

func (l *listener) Close() error {
	if now, err := os.Stat(l.path); err == nil && os.SameFile(now, l.own) {
		os.Remove(l.path)
	}
	if err := l.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
