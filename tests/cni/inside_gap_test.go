//go:build linux

package cni

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

// TestInsideGap measures how long what goes by the daemon waits from a kill to the next
// daemon: by echo requests with another's identifier.
func TestInsideGap(t *testing.T) {
	if *figures == 0 {
		t.Skip("-figures was not given")
	}
	i := place(t, "bridge", insidePool, 0, "--handover")
	var waited, started, spent []time.Duration
	for range *figures {
		ping := i.a.Command("ping", "-4", "-n", "-i", "0.005", "-W", "20", "-e", fmt.Sprint(int(i.wb.Run().First)+40), serverIPv4)
		var said output.Buffer
		ping.Stdout, ping.Stderr = &said, &said
		if err := netns.Start(ping); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		i.d.Kill()
		begin := time.Now()
		i.d.Start()
		started = append(started, time.Since(begin))
		spent = append(spent, cpu(t, i.d.PID()))
		time.Sleep(300 * time.Millisecond)
		ping.Process.Signal(syscall.SIGINT)
		ping.Wait()
		longest, sent, received := 0.0, 0, 0
		for line := range strings.Lines(said.String()) {
			if _, took, ok := strings.Cut(line, "time="); ok {
				ms, _ := strconv.ParseFloat(strings.Fields(took)[0], 64)
				longest = max(longest, ms)
			}
			fmt.Sscanf(line, "%d packets transmitted, %d received", &sent, &received)
		}
		t.Logf("%d of %d are lost, the longest wait is %.0f ms", sent-received, sent, longest)
		waited = append(waited, time.Duration(longest*1e6))
	}
	for name, all := range map[string][]time.Duration{"the longest wait": waited, "from start to READY=1": started, "CPU at READY=1": spent} {
		slices.Sort(all)
		t.Logf("%s: median %v, %v to %v", name, all[len(all)/2], all[0], all[len(all)-1])
	}
}

// cpu is what a process has used of processors.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
