//go:build linux

package survey

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The older iptables (include/uapi/linux/netfilter_ipv4/ip_tables.h and
// netfilter_ipv6/ip6_tables.h) is asked no more than whether a chain has rules.
// Who has any there is on the way out: their rules are not judged one by one.
const (
	getInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	getEntries = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES
	nameSize   = 32
	hooks      = 5
	accept     = -2 // -NF_ACCEPT - 1: the verdict of a standard target
)

// hookNames are by their numbers; local ones see no packets of ours.
var hookNames = map[int]string{0: "PREROUTING", 2: "FORWARD", 4: "POSTROUTING"}

type tableInfo struct {
	Name             [nameSize]byte
	Valid            uint32
	Entry, Underflow [hooks]uint32
	Entries, Size    uint32
}

func legacy(p *Passed) error {
	var errs []error
	for _, f := range []struct {
		names, program string
		family, level  int
		entry          uint32 // bytes before the target of an entry without matches
	}{
		{"/proc/thread-self/net/ip_tables_names", "iptables-legacy", unix.AF_INET, unix.IPPROTO_IP, 112},
		{"/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy", unix.AF_INET6, unix.IPPROTO_IPV6, 168},
	} {
		names, err := os.ReadFile(f.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is not in use
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for table := range strings.FieldsSeq(string(names)) {
			what, err := legacyTable(table, f.family, f.level, f.entry)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s -t %s: %w", f.program, table, err))
			} else if what != "" {
				p.host("%s -t %s: %s", f.program, table, what)
			}
		}
	}
	return errors.Join(errs...)
}

// legacyTable says what a table does at the hooks where packets of ours are.
func legacyTable(table string, family, level int, entry uint32) (string, error) {
	socket, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(socket)
	var info tableInfo
	copy(info.Name[:nameSize-1], table)
	b := make([]byte, binary.Size(info))
	copy(b, info.Name[:])
	if _, err := getsockopt(socket, level, getInfo, b); err != nil {
		return "", err
	}
	if err := binary.Read(bytes.NewReader(b), binary.NativeEndian, &info); err != nil {
		return "", err
	}
	// struct ipt_get_entries: the name, the size, and from a multiple of 8 on the entries.
	const header = nameSize + 8
	b = make([]byte, header+int(info.Size))
	copy(b, info.Name[:])
	binary.NativeEndian.PutUint32(b[nameSize:], info.Size)
	if _, err := getsockopt(socket, level, getEntries, b); err != nil {
		return "", err
	}
	for hook, name := range hookNames {
		if info.Valid>>hook&1 == 0 {
			continue
		}
		if info.Entry[hook] != info.Underflow[hook] {
			return "chain " + name + " has rules", nil
		}
		// The policy: an entry whose standard target has a verdict behind its header.
		at := header + int(info.Underflow[hook]) + int(entry) + 32
		if at+4 > len(b) || int32(binary.NativeEndian.Uint32(b[at:])) != accept {
			return "the policy of chain " + name + " is not ACCEPT", nil
		}
	}
	return "", nil
}

func getsockopt(socket, level, option int, b []byte) (int, error) {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(socket), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(size), nil
}
