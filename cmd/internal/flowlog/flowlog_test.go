//go:build linux

package flowlog

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/tests/netns"
)

func some(first, n int) (all []flows.Record) {
	for i := range n {
		all = append(all, flows.Record{Key: flows.Key{Proto: 6, LocalPort: uint16(first + i), RemotePort: 443}, Start: time.Now(), End: time.Now(), Reason: flows.Idle})
	}
	return all
}

// ports reads a file of records, of which each line must be whole.
func ports(t *testing.T, paths ...string) map[uint16]int {
	t.Helper()
	all := map[uint16]int{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var f api.Flow
			if err := json.Unmarshal([]byte(line), &f); err != nil || !strings.HasSuffix(line, "\n") {
				t.Fatalf("%s: %v in %q", path, err, line)
			}
			all[f.LocalPort]++
		}
	}
	return all
}

// run has a file written until the function that it gives is called.
func run(t *testing.T, f *File) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	<-f.Ready()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func newFile(path string, size int64, keep int) *File {
	return NewFile(path, size, keep, slog.New(slog.DiscardHandler))
}

// A file rotates; no record is lost or cut on the way, and the oldest files go.
func TestFileRotates(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "flows.json")
	f := newFile(path, 20_000, 2)
	stop := run(t, f)
	for i := range 60 {
		f.Put(some(i*20, 20))
		for f.Status().Written < uint64(i*20+20) { // else some find no room
			time.Sleep(100 * time.Microsecond)
		}
	}
	stop()
	got := ports(t, path, path+".1", path+".2")
	for port := 1199; port >= 1199-len(got)+1; port-- {
		if got[uint16(port)] != 1 {
			t.Errorf("record %d: %d times", port, got[uint16(port)])
		}
	}
	if _, err := os.Stat(path + ".3"); err == nil || len(got) < 100 {
		t.Errorf("%d records, %v", len(got), err)
	}
	for _, p := range []string{path, path + ".1", path + ".2"} {
		if info, err := os.Stat(p); err != nil || info.Size() > 20_000 {
			t.Errorf("%s: %+v, %v", p, info, err)
		}
	}
	// Somebody else rotates it.
	f = newFile(path, 1<<20, 2)
	stop = run(t, f)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	f.Put(some(7000, 1))
	stop()
	if got := ports(t, path); len(got) != 1 || got[7000] != 1 {
		t.Errorf("%v", got)
	}
}

// Where a disk is full, records are dropped and counted, no line is cut, nobody waits;
// and it goes on where there is room again.
func TestFileFullDisk(t *testing.T) {
	netns.Require(t, netns.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(dir, 0)
	path := filepath.Join(dir, "flows.json")
	f := newFile(path, 1<<30, 2)
	stop := run(t, f)
	settled := func(n uint64) api.FlowReceiver {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			s := f.Status()
			if s.Written+s.Dropped == n {
				return s
			}
			if time.Now().After(end) {
				t.Fatalf("%+v, want %d", s, n)
			}
		}
	}
	began := time.Now()
	for i := range 50 {
		f.Put(some(i*20, 20))
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("records waited %v for the disk", took)
	}
	s := settled(1000)
	if s.Dropped == 0 || s.Written == 0 || !strings.Contains(s.State, "no space left") {
		t.Errorf("%+v", s)
	}
	if got := ports(t, path); len(got) != int(s.Written) {
		t.Errorf("%d records in the file, %d written", len(got), s.Written)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path+".1", 0); err != nil {
		t.Fatal(err)
	}
	f.Put(some(9000, 1))
	if s := settled(1001); s.State != "ok" {
		t.Errorf("%+v", s)
	}
	stop()
	if got := ports(t, path); got[9000] != 1 {
		t.Errorf("%v", got)
	}
}

// A pipe that nobody reads holds up nobody; who reads then gets whole lines.
func TestPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFile(path, 1, 0)
	stop := run(t, f)
	f.Put(some(1, 10))
	reader, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(reader)
	for i := range 10 {
		var got api.Flow
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &got) != nil || got.LocalPort != uint16(1+i) {
			t.Fatalf("line %d: %q", i, lines.Text())
		}
	}
	reader.Close()
	stop()
}

// One who takes nothing costs a bounded number of records, and no time.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	r := NewRecent()
	_, slow := r.Since(time.Now(), true, nil)
	put := 0
	for range 3 * waiting {
		r.Put(some(0, 512))
		put += 512
	}
	if d := slow.Dropped(); d != uint64(2*waiting*512) {
		t.Errorf("%d of %d dropped", d, put)
	}
	r.Leave(slow)
	r.Put(some(5, 1))
	all, _ := r.Since(time.Now().Add(-time.Hour), false, func(*flows.Record) bool { return true })
	if len(all) != remembered || all[len(all)-1].LocalPort != 5 {
		t.Errorf("%d are remembered, the last of port %d", len(all), all[len(all)-1].LocalPort)
	}
}

// TestRecentDenied: what policies denied pushes no other record out, and who asks gets
// both in the order of their ends.
func TestRecentDenied(t *testing.T) {
	t.Parallel()
	r := NewRecent()
	began := time.Now()
	at := func(i int, v flows.Verdict) []flows.Record {
		return []flows.Record{{Key: flows.Key{LocalPort: uint16(i), Verdict: v}, End: began.Add(time.Duration(i) * time.Millisecond)}}
	}
	r.Put(at(0, flows.Forwarded))
	for i := range remembered + 5 {
		r.Put(at(i+1, flows.Denied))
	}
	r.Put(at(remembered+6, flows.Shed))
	all, _ := r.Since(began, false, func(*flows.Record) bool { return true })
	if len(all) != refused+2 || all[0].Verdict != flows.Forwarded || all[len(all)-1].Verdict != flows.Shed {
		t.Fatalf("%d records, from %v to %v", len(all), all[0].Verdict, all[len(all)-1].Verdict)
	}
	for i := range all[1:] {
		if all[i+1].End.Before(all[i].End) {
			t.Fatalf("record %d ended before the one in front of it", i+1)
		}
	}
}

func TestWants(t *testing.T) {
	t.Parallel()
	a := &registry.Assignment{Serial: 7, Key: api.Key{ContainerID: "abcdef", Interface: "eth0"}, Request: api.Request{Name: "ns/web"}}
	r := flows.Record{Key: flows.Key{Local: 1, Remote: 0xc0000202, LocalPort: 1024, RemotePort: 443, Proto: 6, Verdict: flows.Denied}, Owner: a}
	for _, c := range []struct {
		f    api.FlowFilter
		want bool
	}{
		{api.FlowFilter{}, true},
		{api.FlowFilter{Workload: "ns/web", Port: 443, Proto: "tcp", Remote: netip.MustParsePrefix("192.0.2.0/24")}, true},
		{api.FlowFilter{Workload: "abcd"}, true}, {api.FlowFilter{Workload: "7"}, true}, {api.FlowFilter{Workload: "abcdef/eth0"}, true},
		{api.FlowFilter{Port: 1024}, true}, {api.FlowFilter{Verdict: "denied"}, true}, {api.FlowFilter{Verdict: "forward"}, false},
		{api.FlowFilter{Workload: "ab"}, false}, {api.FlowFilter{Workload: "ns/we"}, false}, {api.FlowFilter{Port: 80}, false},
		{api.FlowFilter{Proto: "udp"}, false}, {api.FlowFilter{Remote: netip.MustParsePrefix("192.0.3.0/24")}, false},
	} {
		if got := Wants(&c.f, &r); got != c.want {
			t.Errorf("%+v: %v", c.f, got)
		}
	}
	r.Owner = nil
	if Wants(&api.FlowFilter{Workload: "ns/web"}, &r) {
		t.Error("nobody's is wanted")
	}
}

// A line is what encoding/json makes of the record.
func TestLine(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	names := []string{"", "ns/web", "a\"b\\c", "<&>", "Zoë\u2028", "bad\xff", "tab\t", "\x7f"}
	name := func() string { return names[r.IntN(len(names))] }
	for range 5000 {
		record := flows.Record{Reason: flows.Reason(r.IntN(6)),
			Start: time.Unix(int64(r.Uint32()), int64(r.IntN(1e9))/int64(1+r.IntN(1000))*1000), End: time.Now(),
			Key: flows.Key{Local: r.Uint32(), Remote: r.Uint32(), LocalPort: uint16(r.IntN(3)) * uint16(r.Uint32()), RemotePort: uint16(r.IntN(3)) * uint16(r.Uint32()),
				Proto: []uint8{1, 6, 17, 47}[r.IntN(4)], Verdict: flows.Verdict(r.IntN(int(flows.NumVerdicts)))},
			Rule: name(), Sample: r.IntN(3), Sum: flows.Sum{Packets: [2]uint64{r.Uint64(), 0}, Bytes: [2]uint64{0, r.Uint64()}, Flags: [2]uint32{r.Uint32(), r.Uint32N(2)}, Began: flows.Direction(r.IntN(2))}}
		if r.IntN(3) > 0 {
			record.Owner = &registry.Assignment{Serial: r.Uint64N(3), Key: api.Key{ContainerID: name(), Interface: name()},
				Request: api.Request{Name: name(), Network: name()}}
		}
		want, err := json.Marshal(Of(&record))
		if got := appendLine(nil, &record); err != nil || string(got) != string(want)+"\n" {
			t.Fatalf("%v\n%s\n%s", err, got, want)
		}
	}
}

// BenchmarkLine is what a record takes until it is a line.
func BenchmarkLine(b *testing.B) {
	r := some(1, 1)[0]
	r.Owner = &registry.Assignment{Serial: 7, Request: api.Request{Name: "ns/web"}}
	var line []byte
	for b.Loop() {
		line = appendLine(line[:0], &r)
	}
}
