package shed

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ThreadTime is how much of processors' time a thread of this process has used.
func ThreadTime(tid int) time.Duration {
	const perThread, scheduled = 4, 2 // CPUCLOCK_PERTHREAD_MASK, CPUCLOCK_SCHED (clock_getcpuclockid(3))
	var t unix.Timespec
	if unix.ClockGettime(int32(^tid<<3|perThread|scheduled), &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// processors reads how much of all processors' time nobody needed. The file stays open:
// what confines the daemon later need not know of it.
type processors struct {
	file   *os.File
	buffer [512]byte
}

func openProcessors() (*processors, error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return nil, err
	}
	return &processors{file: f}, nil
}

func (p *processors) close() { p.file.Close() }

// read gives the time that was idle, and all time, in ticks.
func (p *processors) read() (idle, all uint64, err error) {
	n, err := p.file.ReadAt(p.buffer[:], 0)
	if n == 0 {
		return 0, 0, err
	}
	line, _, _ := bytes.Cut(p.buffer[:n], []byte("\n"))
	words := bytes.Fields(line)
	const user, idleTime, ioWait, steal = 1, 4, 5, 8
	if len(words) <= steal || string(words[0]) != "cpu" {
		return 0, 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i := user; i <= steal; i++ {
		ticks, err := strconv.ParseUint(string(words[i]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		all += ticks
		if i == idleTime || i == ioWait {
			idle += ticks
		}
	}
	return idle, all, nil
}
