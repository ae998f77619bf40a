//go:build linux

package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/output"
)

// Where workloads send to: the server's port 53, where nobody listens, and an
// address that is never translated.
const (
	closed   = "[" + server6 + "]:53"
	loopback = "[2001:db8:64::7f00:1]:53"
)

// traffic is a datagram of each fate.
func (n *topology) traffic() {
	n.Helper()
	n.send("["+workload6+"]:40000", closed, 100)
	n.send("["+web6+"]:40000", closed, 100) // not its port
	n.send(fmt.Sprintf("[%s]:%d", web6, n.web.Ports.Min()), closed, 200)
	n.send("["+workload6+"]:40000", loopback, 100)
}

// lines are those of the traffic, without times and without what the kernel
// says by itself (multicast).
func lines(out string) string {
	var kept []string
	for _, l := range strings.Split(out, "\n") {
		if l = regexp.MustCompile(`^[0-9:.]{12} `).ReplaceAllString(l, ""); l != "" && !strings.Contains(l, "→ ff0") {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, "\n")
}

func TestMonitor(t *testing.T) {
	n := newTopology(t)
	all, web, drops := n.watch("monitor"), n.start("monitor", "-v", "--workload", "default/web", "dir", "6to4"), n.start("monitor", "-o", "json", "--drops")
	web.looks()
	drops.looks()
	n.traffic()
	within(t, "all of the traffic is shown", func() bool {
		return strings.Count(lines(all.out.String()), "\n") >= 5 && strings.Count(web.out.String(), "    out  ") >= 1 &&
			strings.Contains(drops.out.String(), `"never-translated`)
	})

	out, summary := all.end()
	const want = `6→4 forward4  udp 2001:db8:6::2.40000 → 2001:db8:64::192.0.2.2.53  ⇒  198.51.100.2.40000 → 192.0.2.2.53  len 148
4→6 forward6  icmp 192.0.2.2 → 198.51.100.2  ⇒  2001:db8:64::192.0.2.2 → 2001:db8:6::2  len 156 unreachable code 3
6→4 port-outside-set/replied  udp 2001:db8:6::3.40000 → 2001:db8:64::192.0.2.2.53  ⇒  icmp 2001:db8::1 → 2001:db8:6::3  len 148, answered unreachable code 1  (default/web)
6→4 forward4  udp 2001:db8:6::3.1024 → 2001:db8:64::192.0.2.2.53  ⇒  203.0.113.0.1024 → 192.0.2.2.53  len 248  (default/web)
4→6 forward6  icmp 192.0.2.2 → 203.0.113.0  ⇒  2001:db8:64::192.0.2.2 → 2001:db8:6::3  len 256 unreachable code 3  (default/web)
6→4 never-translated  udp 2001:db8:6::2.40000 → 2001:db8:64::127.0.0.1.53  len 148  an address that is never translated (loopback, link-local, multicast, reserved)`
	// Which of two queues is looked at first decides about the order of what came in one moment.
	if got := lines(out); sorted(got) != sorted(want) {
		t.Error(cmp.Diff(want, got))
	}
	if !regexp.MustCompile(`(?m)^\d+ packets shown, \d+ passed$`).MatchString(summary) {
		t.Errorf("summary: %s", summary)
	}

	out, _ = web.end()
	const wantWeb = `6→4 port-outside-set/replied  dropped: the port does not belong to the workload (RFC 7599 8.3)
    workload default/web
    mapping  2001:db8:6::3/128 ↔ 203.0.113.0/32 ports 1024-2047
    in       ipv6 src 2001:db8:6::3 dst 2001:db8:64::c000:202 udp sport 40000 dport 53 hlim 63 len 148
    answer   ipv6 src 2001:db8::1 dst 2001:db8:6::3 icmp unreachable code 1 hlim 64 len 196 quoting ipv6 src 2001:db8:6::3 dst 2001:db8:64::c000:202 udp sport 40000 dport 53 hlim 63 len 148
6→4 forward4  translated to IPv4 (RFC 7915 5.1)
    workload default/web
    mapping  2001:db8:6::3/128 ↔ 203.0.113.0/32 ports 1024-2047
    in       ipv6 src 2001:db8:6::3 dst 2001:db8:64::c000:202 udp sport 1024 dport 53 hlim 63 len 248
    out      ipv4 src 203.0.113.0 dst 192.0.2.2 udp sport 1024 dport 53 ttl 62 len 228 id ID`
	if got := regexp.MustCompile(`len 228 id \d+`).ReplaceAllString(lines(out), "len 228 id ID"); got != wantWeb {
		t.Error(cmp.Diff(wantWeb, got))
	}

	out, _ = drops.end()
	verdicts := map[string]int{}
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var e api.Event
		if err := d.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		if e.In.SrcPort == 40000 {
			verdicts[e.Verdict+" "+e.Workload]++
		}
	}
	if d := cmp.Diff(map[string]int{"port-outside-set/replied default/web": 1, "never-translated ": 1}, verdicts); d != "" {
		t.Error(d)
	}
}

func sorted(text string) string {
	l := strings.Split(text, "\n")
	for i := range l { // a few lines
		for j := range i {
			if l[i] < l[j] {
				l[i], l[j] = l[j], l[i]
			}
		}
	}
	return strings.Join(l, "\n")
}

// A workload may come after who waits for it.
func TestWorkloadComesLater(t *testing.T) {
	n := newTopology(t)
	v := n.watch("monitor", "-n", "1", "workload later")
	if got := v.errors.String(); got != "note: no workload is called \"later\" just now\nwatching natless0, Ctrl-C ends it\n" {
		t.Errorf("at first: %s", got)
	}
	if err := n.daemon.Client().Delete(t.Context(), n.web.Key); err != nil {
		t.Fatal(err)
	}
	again := n.web.Request
	again.Name = "later"
	if _, err := n.daemon.Client().Put(t.Context(), n.web.Key, again); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond)
	n.send("["+web6+"]:40000", closed, 100)
	if out, _ := v.wait(); !strings.HasSuffix(strings.TrimSpace(out), "(later)") {
		t.Error(out)
	}
}

// Of a flood, as many packets are shown as were asked for, the others counted.
func TestRate(t *testing.T) {
	n := newTopology(t)
	v := n.watch("monitor", "--rate", "20", "--for", "2s", "udp and dir 6to4")
	sent := 0
	for start := time.Now(); time.Since(start) < time.Second; sent += 100 {
		n.flood(100, 20)
		time.Sleep(10 * time.Millisecond)
	}
	out, summary := v.wait()
	if shown := strings.Count(out, "forward4"); shown < 20 || shown > 60 {
		t.Errorf("%d shown of %d", shown, sent)
	}
	if !regexp.MustCompile(`(?m)^… [0-9,]+ more$`).MatchString(out) {
		t.Errorf("no word of the others:\n%s", out)
	}
	if !regexp.MustCompile(`(?m)^\d+ packets shown, [0-9,]+ passed, [0-9,]+ left out for --rate$`).MatchString(summary) {
		t.Error(summary)
	}
}

// What is wrong is said before anything is watched.
func TestNonsense(t *testing.T) {
	n := newTopology(t)
	for words, want := range map[string]string{
		"monitor port http":                  `natless: filter: column 6, "http": is neither a port such as 443 nor a range such as 1024-2047`,
		"monitor --reason nonsense":          `natless: filter: column 9, "nonsense": is not a verdict: there are forward4,`,
		"monitor --port 1)or(port --drops":   `natless: --port "1)or(port": is one word`,
		"monitor --address web":              `natless: --address web: is neither an address nor ADDRESS/LEN`,
		"monitor --rate -1":                  `natless: rate: must be a number from 0 to 1000000000`,
		"monitor --direction in":             `natless: filter: column 5, "in": is none of 6to4, 4to6 and 4to4`,
		"capture":                            `natless: name the file: -w FILE, or -w - for standard output`,
		"capture -w /nonsense/file":          `natless: open /nonsense/file: no such file or directory`,
		"capture -w /dev/null -s 70000":      `natless: --snaplen 70000: is not a number from 0 to 66560`,
		"capture -w /dev/null --max-size 3X": `natless: --max-size 3X: write a number of bytes, such as 500K, 100M or 2G`,
		"capture -w /dev/null tcp udp":       `natless: filter: column 5, "udp": and, or or a parenthesis is missing before it`,
	} {
		v := n.start(strings.Fields(words)...)
		if err := v.exit(); err == nil || !strings.HasPrefix(v.errors.String(), want) || v.out.String() != "" {
			t.Errorf("%s: %v, %s%s", words, err, v.out.String(), v.errors.String())
		}
	}
	within(t, "nobody watches any more", func() bool {
		log := n.daemon.Log()
		return strings.Count(log, "somebody watches") == strings.Count(log, "watches packets no more")
	})
}

// A viewer that is killed, and one whose reader has gone, are not missed.
func TestViewerDies(t *testing.T) {
	n := newTopology(t)
	killed := n.watch("monitor", "--rate", "0")
	killed.cmd.Process.Signal(syscall.SIGKILL)
	within(t, "the killed viewer is forgotten", func() bool { return strings.Count(n.daemon.Log(), "watches packets no more") == 1 })

	shell := exec.Command("sh", "-c", killed.cmd.Path+" monitor --rate 0 --socket "+n.daemon.Socket+" | head -n 1")
	var said output.Buffer
	shell.Stderr = &said
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- shell.Wait() }()
	for done := false; !done; {
		select {
		case err := <-ended:
			if done = true; err != nil || said.String() != "watching natless0, Ctrl-C ends it\n" {
				t.Errorf("with a reader that goes: %v, %s", err, said.String())
			}
		default:
			n.flood(10, 20)
			time.Sleep(10 * time.Millisecond)
		}
	}
	within(t, "both are forgotten", func() bool { return strings.Count(n.daemon.Log(), "watches packets no more") == 2 })
}

// The daemon's end is the viewer's, and it says so; so is its death.
func TestDaemonEnds(t *testing.T) {
	n := newTopology(t)
	for _, end := range []struct {
		end  func(*daemon.Daemon)
		want string
	}{
		{(*daemon.Daemon).Stop, "natless: natlessd has ended"},
		{(*daemon.Daemon).Kill, "has gone in the middle: unexpected EOF"},
	} {
		v := n.watch("monitor")
		n.flood(10, 20)
		time.Sleep(300 * time.Millisecond)
		start := time.Now()
		end.end(n.daemon)
		var exit *exec.ExitError
		if err := v.exit(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: %v", end.want, err)
		}
		if said := v.errors.String(); !strings.Contains(said, " packets shown, ") || !strings.Contains(said, end.want) {
			t.Errorf("want %s: %s", end.want, said)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: took %v", end.want, took)
		}
		n.daemon = n.restart()
	}
}
