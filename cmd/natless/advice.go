package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/natless/natless/config/api"
)

// advise adds to an error of the API what the reader can do about it.
func advise(socket string, err error) error {
	if advice := remedy(socket, err); advice != "" {
		return fmt.Errorf("%w\n  %s", err, advice)
	}
	return err
}

func remedy(socket string, err error) string {
	switch {
	case errors.Is(err, api.ErrStarting):
		return "it will be ready in a moment; `natless status` shows what it waits for"
	case errors.Is(err, api.ErrRateLimited):
		return "too many ask at a time; try again"
	case errors.Is(err, api.ErrDrained):
		return "`natless status` says what is drained, and since when"
	case errors.Is(err, api.ErrInUse), errors.Is(err, api.ErrStale), errors.Is(err, api.ErrShrinks):
		return "`natless blocks` shows what this host has, and what is in use of it"
	case errors.Is(err, api.ErrExhausted):
		return "`natless pools` shows how full each address is"
	case errors.Is(err, api.ErrStorage):
		return "the workloads that run keep what they have; the disk of registry.path needs looking at (df, dmesg)"
	case errors.Is(err, api.ErrForbidden):
		return "run it as root, or as a member of the group that api.group names"
	case !errors.Is(err, api.ErrUnavailable):
		return ""
	case errors.Is(err, fs.ErrNotExist):
		return "there is no socket: is natlessd running (systemctl status natlessd), and is this its api.socket? --socket names another"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("you may not open the socket: run it as root, or join the group %s", groupOf(socket))
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there any more: natlessd died without cleaning up (journalctl -u natlessd says why); start it again"
	}
	return "is natlessd alive (systemctl status natlessd)?"
}

// groupOf names the group that a socket belongs to.
func groupOf(socket string) string {
	info, err := os.Stat(socket)
	if err != nil {
		return "that api.group names"
	}
	gid := strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Gid))
	if g, err := user.LookupGroupId(gid); err == nil {
		return g.Name
	}
	return gid
}
