//go:build linux

package monitor

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv6"

	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/output"
	"github.com/natless/natless/translator"
)

// burst sends datagrams at up to 50,000 a second for so long, and says how
// many were sent and how many the daemon translated.
func (n *topology) burst(d time.Duration) (sent, translated uint64) {
	n.Helper()
	n.flood(1, 20) // makes the socket
	c := ipv6.NewPacketConn(n.flooding)
	const each = 100
	messages := make([]ipv6.Message, each)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, 1200)}
	}
	count := func() uint64 {
		s, err := n.daemon.Client().Status(n.Context())
		if err != nil {
			n.Fatal(err)
		}
		return s.Verdicts[translator.Forward4.String()]
	}
	before := count()
	start := time.Now()
	for time.Since(start) < d {
		if got, err := c.WriteBatch(messages, 0); err == nil {
			sent += uint64(got)
		}
		if ahead := time.Duration(sent)*20*time.Microsecond - time.Since(start); ahead > 0 {
			time.Sleep(ahead)
		}
	}
	last := uint64(0)
	for now := count(); now != last; now = count() {
		last = now
		time.Sleep(100 * time.Millisecond)
	}
	return sent, last - before
}

// A viewer who reads nothing loses packets, which are counted; those who send
// them do not lose more than before.
func TestSlowReader(t *testing.T) {
	n := newTopology(t)
	n.server.Run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
	var passed uint64
	lost := func() float64 {
		sent, translated := n.burst(time.Second)
		passed += translated
		return 1 - float64(translated)/float64(sent)
	}
	without := []float64{lost(), lost()}

	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	stuck := exec.Command(n.start("status").cmd.Path, "capture", "-w", "-", "--socket", n.daemon.Socket)
	stuck.Stdout = write
	var said output.Buffer
	stuck.Stderr = &said
	if err := stuck.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	shown := n.watch("monitor", "udp")
	within(t, "both look", func() bool { return strings.Contains(said.String(), ", Ctrl-C ends it\n") })
	passed = 0
	with := []float64{lost(), lost(), lost()}
	for range 20 { // what is between the two takes some thousand packets
		if passed > 20_000 {
			break
		}
		lost()
	}
	t.Logf("lost without viewers %.3f, with two of them %.3f", without, with)
	// Few cores send, receive, translate, and run other tests: the best counts.
	if slices.Min(with) > slices.Max(without)+0.05 {
		t.Errorf("lost without viewers %.3f, with two of them %.3f", without, with)
	}
	_, summary := shown.end()
	if !regexp.MustCompile(`left out for --rate`).MatchString(summary) {
		t.Errorf("summary: %s", summary)
	}

	// The one who read nothing wakes up: the file is whole, and says what is missing.
	file, err := os.Create(t.TempDir() + "/stuck.pcapng")
	if err != nil {
		t.Fatal(err)
	}
	copied := make(chan error, 1)
	go func() { _, err := file.ReadFrom(read); copied <- err }()
	// What waited in sockets and pipes comes first, then a count of what is missing.
	load.Within(t, 10*time.Second, "two megabytes", func() bool {
		at, err := file.Stat()
		return err != nil || at.Size() > 2<<20
	})
	stuck.Process.Signal(syscall.SIGINT)
	if err := <-copied; err != nil {
		t.Error(err)
	}
	if err := stuck.Wait(); err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	found := regexp.MustCompile(`([0-9,]+) lost because the reader was too slow`).FindStringSubmatch(said.String())
	if found == nil {
		t.Fatalf("nothing is lost: %s", said.String())
	}
	missed, _ := strconv.ParseUint(strings.ReplaceAll(found[1], ",", ""), 10, 64)
	if missing := statistics(t, file.Name()); missed == 0 || missing[0] != missed || missing[1] != missed {
		t.Errorf("%d lost, the file says %v", missed, missing)
	}
}
