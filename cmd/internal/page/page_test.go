//go:build linux

package page

import (
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/api/server"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/ports"
)

// lab is a page over a real registry, with counters and a clock of the test's.
type lab struct {
	t       testing.TB
	now     time.Time
	counts  dataplane.Snapshot
	used    map[uint64]accounting.Usage
	flows   []api.Flow
	dropped Dropped
	status  api.Status
	reg     *registry.Registry
	handler http.Handler
	page    *Page
}

// inMemory is a folder on no disk, where there is one: nobody cuts the power here.
func inMemory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "natless-page-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newLabOf(t testing.TB, pools ...registry.Pool) *lab {
	t.Helper()
	l := &lab{t: t, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), used: map[uint64]accounting.Usage{}}
	var err error
	l.reg, err = registry.Open(registry.Options{Path: filepath.Join(inMemory(t), "r.db"), History: 10, Pools: pools})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.reg.Close() })
	l.status = api.Status{Version: "1.2", PID: 7, Ready: true, Started: l.now.Add(-90 * time.Minute), Mappings: 1234, Workloads: 3,
		Prefix: netip.MustParsePrefix("64:ff9b::/96"), Device: api.Device{Name: "natless0", MTU: 1500},
		Limits: []api.Limit{{What: "icmp-errors too-big", Budget: "workload", Refused: 12}},
		Checks: []api.Check{{Name: "anti-spoofing", State: "fail", Detail: "its rules are gone"}}}
	l.page, l.handler = newPage(Sources{
		Status: func() api.Status { return l.status }, Traffic: func() dataplane.Snapshot { return l.counts }, Registry: l.reg,
		Assignable: func(pool string) ports.Set {
			if pool == "default" {
				return ports.MustParse("1024-65535")
			}
			return ports.Set{}
		},
		Owners: server.New(server.Options{Registry: l.reg, Identify: identify, Leads: leads}).Owners,
		Complete: func(w *api.Workload) {
			u := l.used[w.Serial]
			w.Violations, w.Traffic = u.Violations, &api.Traffic{Sent: api.Count(u.Sent), Received: api.Count(u.Received)}
		},
		Dropped: func() Dropped { return l.dropped },
		Host:    "node-7", Counted: true,
		Used:    func() iter.Seq2[uint64, accounting.Usage] { return maps.All(l.used) },
		Flows:   func(uint64, time.Duration) []api.Flow { return l.flows },
		Meaning: func(v translator.Verdict) string { return "meaning of " + v.String() },
		Now:     func() time.Time { return l.now },
	}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	l.page.meter.patience = time.Minute // whatever else this machine does
	return l
}

// identify and leads know a block of a relay, and an address of a fabric.
func identify(a netip.Addr, _ int) ([]api.Owner, string) {
	switch a.String() {
	case "203.0.113.200":
		return []api.Owner{{Kind: api.OwnerBlock, Detail: "block <b>, lent", Address: a, IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:f::1")}}}, ""
	case "203.0.113.1":
		return nil, "it is in pool dedicated"
	}
	return nil, ""
}

func leads(a netip.Addr) (netip.Addr, bool) {
	return netip.MustParseAddr("198.51.100.1"), a == netip.MustParseAddr("2001:db8:e::c633:6401")
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := newLabOf(t,
		registry.Pool{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/31"), PortsPerWorkload: 16384, Reserved: ports.MustParse("0-1023")},
		registry.Pool{Name: "dedicated", IPv4: netip.MustParsePrefix("203.0.113.0/26"), Whole: true},
		registry.Pool{Name: "spare", IPv4: netip.MustParsePrefix("192.0.2.0/28"), PortsPerWorkload: 1024})
	for n, q := range []api.Request{{Name: "ns/web"}, {Name: "<script>alert(1)</script>", ExtraPorts: []uint16{443}}, {Pool: "dedicated", HostInterface: "veth1", Inside: api.IPv4Inside}} {
		q.IPv6 = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n+1))}
		a, err := l.reg.Put(t.Context(), api.Key{ContainerID: fmt.Sprintf("%d0123456789abcdef", n), Interface: "eth0"}, q)
		if err != nil {
			t.Fatal(err)
		}
		l.used[a.Serial] = accounting.Usage{Violations: 5}
	}
	return l
}

// get is a page's text with one space between words, and its source.
func (l *lab) get(path string, status int) (text, source string) {
	l.t.Helper()
	w := httptest.NewRecorder()
	l.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	source = w.Body.String()
	if w.Code != status {
		l.t.Fatalf("%s: %d, want %d\n%s", path, w.Code, status, source)
	}
	for _, h := range []string{"Content-Security-Policy", "X-Content-Type-Options"} {
		if w.Header().Get(h) == "" {
			l.t.Errorf("%s: no %s", path, h)
		}
	}
	var b strings.Builder
	for z := html.NewTokenizer(strings.NewReader(source)); ; {
		switch z.Next() {
		case html.ErrorToken:
			return strings.Join(strings.Fields(b.String()), " "), source
		case html.TextToken:
			b.WriteString(" " + string(z.Text()))
		}
	}
}

func (l *lab) shows(path string, status int, want ...string) {
	l.t.Helper()
	text, source := l.get(path, status)
	for _, w := range want {
		if !strings.Contains(html.UnescapeString(text), w) && !strings.Contains(source, w) {
			l.t.Errorf("%s: want %q in\n%s", path, w, text)
		}
	}
	if strings.Contains(source, "<script>alert") {
		l.t.Errorf("%s: a name is not escaped", path)
	}
}

func TestPages(t *testing.T) {
	l := newLab(t)
	l.shows("/", 200, "ready", "1\u202f234 mappings, 3 of them workloads", "prefix 64:ff9b::/96", "anti-spoofing", "its rules are gone", "icmp-errors too-big workload 12", "No packet has been dropped.",
		"up 1 h 30 min", "198.51.100.0", "node-7", "1 of 64 addresses", `<title>ns/web: 16384-32767</title>`, `<title>0-1023: not given away by itself</title>`)
	l.shows("/addresses/198.51.100.1", 200, "443,16384-32767", "2001:db8::2", `<title>&lt;script&gt;alert(1)&lt;/script&gt;: 443</title>`)
	l.shows("/addresses/198.51.100.9", 404, "198.51.100.9 is in no pool")
	l.shows("/addresses/nonsense", 404, "no such page")
	l.shows("/workloads", 200, "ns/web", "20123456789a/eth0", "all")
	l.shows("/workloads?name=ns/web", 200, "198.51.100.0")
	l.shows("/workloads?name=nobody", 200, "No workload is like that")
	l.shows("/workloads/00123456789abcdef/eth0", 200, "ns/web", "16384-32767", "5 packets from ports that are not its own")
	l.shows("/workloads/20123456789abcdef/eth0", 200, "203.0.113.0 inside")
	l.shows("/workloads", 200, "203.0.113.0 inside")
	if text, _ := l.get("/workloads/00123456789abcdef/eth0", 200); strings.Contains(text, "inside") {
		t.Errorf("of who has it by the prefix: %s", text)
	}
	l.shows("/workloads/none/eth0", 404, "There is no workload none/eth0 any more.")
	l.shows("/whois?address=198.51.100.1:443", 200, "<dt>Workload</dt><dd><a href=\"/workloads/10123456789abcdef/eth0\">")
	l.shows("/whois?address=198.51.100.0:80", 200, "Nobody has it.")
	l.shows("/whois?address=198.51.100.0:20000&at=2020-01-01T00:00", 200, "Nobody had it.")
	l.shows("/whois?address=2001:db8::1", 200, "ns/web")
	l.shows("/whois?address=203.0.113.0", 200, "20123456789a/eth0")
	l.shows("/whois?address=203.0.113.1", 200, "Nobody has it.", "But it is in pool dedicated.")
	l.shows("/whois?address=203.0.113.200", 200, "<dt>Is</dt><dd>block &lt;b&gt;, lent</dd>", "2001:db8:f::1")
	l.shows("/whois?address=[2001:db8:e::c633:6401]:443", 200, "It is where relays lead 198.51.100.1.", "/workloads/10123456789abcdef/eth0")
	l.shows("/whois?address=198.51.100.0", 200, "ns/web", "16384-32767")
	l.shows("/whois?address=", 400, "Ask for an address and port")
	l.shows("/whois?address=%22%3E%3Cb%3E", 400, "is not an address")
	l.shows("/whois?address=198.51.100.0:1&at=noon", 400, "is not a time")
	l.shows("/assets/style.css", 200, "--accent")
	l.shows("/assets/frame.html", 404)
	l.shows("/assets/..%2fpage.go", 404)
	l.shows("/nothing", 404, "There is no such page.")
}

func TestTraffic(t *testing.T) {
	l := newLab(t)
	l.counts.Verdicts[dataplane.To4][translator.Forward4] = dataplane.Count{Packets: 10, Bytes: 1000}
	l.shows("/", 200, "10 packets, 1.00\u00a0kB in all")
	l.now = l.now.Add(2 * time.Second)
	l.counts.Verdicts[dataplane.To4][translator.Forward4] = dataplane.Count{Packets: 2_000_010, Bytes: 250_001_000}
	l.counts.Verdicts[dataplane.To6][translator.PortUnassigned].Packets = 20
	l.shows("/", 200, "1.00\u00a0Gbit/s", "1.00\u00a0M\u00a0packets/s now", "port-unassigned", "meaning of port-unassigned", "10\u00a0/s")
	// A look after a long time says nothing of a rate from before.
	l.now = l.now.Add(time.Hour)
	if text, _ := l.get("/", 200); strings.Contains(text, "bit/s") {
		t.Errorf("a rate over an hour: %s", text)
	}
}

// TestMany views do not let samples grow, nor one take the other's time.
func TestManySamples(t *testing.T) {
	var r history[dataplane.Snapshot]
	now := time.Now()
	for range 3 * keep {
		now = now.Add(time.Second)
		r.look(now, func() (s dataplane.Snapshot) { return s })
	}
	if n := len(r.look(now.Add(time.Millisecond), nil)); n != keep {
		t.Errorf("%d samples, want %d", n, keep)
	}
}

// TestDraw holds pictures against the port sets, port by port.
func TestDraw(t *testing.T) {
	o := owner{Name: "x", Colour: "red", Workload: api.Workload{Ports: ports.MustParse("443,4000-9000")}}
	for _, rows := range []int{1, 16} {
		seen := map[int]bool{}
		for _, s := range draw([]owner{o}, ports.MustParse("1024-65535"), rows) {
			for _, r := range s.Runs {
				if r.X < 0 || r.X+r.Width > s.Width {
					t.Errorf("%d rows: %+v lies outside its strip of %d", rows, r, s.Width)
				}
				for i := range r.Width {
					if r.Kind == "own" {
						seen[s.First+r.X+i] = true
					}
				}
			}
		}
		for _, port := range []int{443, 4000, 4095, 4096, 9000} {
			if !seen[port] {
				t.Errorf("%d rows: port %d is not drawn", rows, port)
			}
		}
		for _, port := range []int{0, 3000, 9001 + thinnest, 65535} {
			if seen[port] {
				t.Errorf("%d rows: port %d is drawn", rows, port)
			}
		}
	}
}
