//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// work is CPU time in seconds.
type work struct{ machine, process float64 }

// worked is what the machine and a contender's process have worked so far. The
// machine counts since the kernel's part of forwarding is on nobody's account;
// the process tells the contender from what else goes on.
func worked(c *contender) work {
	w := work{machine: machineCPU()}
	if c.process != nil {
		w.process = processCPU(c.process.Process.Pid)
	}
	return w
}

// since is the work done after an earlier look, for each of n.
func (w work) since(earlier work, n float64) work {
	return work{(w.machine - earlier.machine) / n, (w.process - earlier.process) / n}
}

// processCPU is the user and system time of a process (proc_pid_stat(5)).
func processCPU(pid int) float64 {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func machineCPU() float64 {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	var ticks float64
	for i, field := range strings.Fields(line)[1:8] { // user nice system idle iowait irq softirq
		if i != 3 && i != 4 {
			n, _ := strconv.ParseFloat(field, 64)
			ticks += n
		}
	}
	return ticks / 100
}

func residentMB(pid int) float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.ParseFloat(fields[0], 64)
	return kb / 1024
}

// ours is what this program, all that it ran to an end, and the contender have
// worked: the rest of the machine's work is somebody else's.
func ours(c *contender) float64 {
	var sum float64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var usage unix.Rusage
		if unix.Getrusage(who, &usage) == nil {
			sum += float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
		}
	}
	return sum + worked(c).process
}
