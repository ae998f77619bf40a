package registry

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// lock takes the lock that bbolt takes, before anything is read; it waits a
// little for who has it.
func lock(f *os.File, exclusive bool, patience time.Duration) error {
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(end) {
			return &heldError{holder(f)}
		}
	}
}

// holder names the process that has the lock, as /proc/locks knows it: a
// process of another container is not seen from this one.
func holder(f *os.File) string {
	const somebody = "another process"
	info, err := f.Stat()
	if err != nil {
		return somebody
	}
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return somebody
	}
	defer locks.Close()
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4242 fd:01:1234 0 EOF
		words := strings.Fields(lines.Text())
		if len(words) < 6 || words[1] != "FLOCK" || !strings.HasSuffix(words[5], inode) || words[4] == "0" {
			continue
		}
		name, err := os.ReadFile("/proc/" + words[4] + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf("process %s (%s)", words[4], strings.TrimSpace(string(name)))
	}
	return somebody
}
