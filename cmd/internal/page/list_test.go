//go:build linux

package page

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/accounting"
)

const time2 = 2 * time.Second

// later lets a time pass in which a workload, by the order of their coming, does
// something.
func (l *lab) later(n int, does func(*accounting.Usage)) {
	l.t.Helper()
	l.get("/", 200)
	l.get("/workloads", 200)
	l.now = l.now.Add(time2)
	for serial := range l.used {
		if a, err := l.reg.BySerial(serial); err == nil && a.Key.ContainerID == fmt.Sprintf("%d0123456789abcdef", n) {
			u := l.used[serial]
			does(&u)
			l.used[serial] = u
		}
	}
}

var rowHead = regexp.MustCompile(`<th scope="row"><a href="/workloads/(\w)`)

// order is which workloads a list has, by the order of their coming.
func (l *lab) order(path string) (order string) {
	l.t.Helper()
	_, source := l.get(path, 200)
	for _, m := range rowHead.FindAllStringSubmatch(source, -1) {
		order += m[1]
	}
	return order
}

func TestListOrder(t *testing.T) {
	l := newLab(t)
	l.later(2, func(u *accounting.Usage) { u.Sent = accounting.Count{Packets: 100, Bytes: 100_000} })
	l.used[2] = accounting.Usage{Received: accounting.Count{Packets: 10, Bytes: 1000}, Violations: 9}
	// Names: 0 ns/web, 1 <script>…, 2 has its key.
	for path, want := range map[string]string{
		"/workloads": "210", "/workloads?sort=traffic": "210", "/workloads?sort=-traffic": "012", "/workloads?sort=sent": "210",
		"/workloads?sort=received": "120", "/workloads?sort=refused": "120", "/workloads?sort=name": "210", "/workloads?sort=-name": "012",
		"/workloads?sort=address": "012", "/workloads?sort=pool": "210", "/workloads?sort=nonsense": "210",
		"/workloads?only=active": "21", "/workloads?only=refused&sort=refused": "120",
	} {
		if got := l.order(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	l.shows("/workloads", 200, "3 workloads, 2 with traffic now", "400 kbit/s sent, 4.00 kbit/s received", "50 /s, 100 packets", "100\u00a0kB", "Total 400 kbit/s 100 kB 100 packets 4.00 kbit/s",
		`<th scope="col" class="n"><a href="/workloads?sort=sent">`)
	l.shows("/workloads?sort=sent", 200, `<th scope="col" class="n" aria-sort="descending"><a href="/workloads?sort=-sent">`)
	l.shows("/workloads?sort=-name", 200, `aria-sort="descending"><a href="/workloads?sort=name">`)
	l.shows("/", 200, "By bits a second, just now", "20123456789a/eth0 203.0.113.0 all 400 kbit/s 100 kB", "2.0 /s 9")
	l.shows("/workloads/20123456789abcdef/eth0", 200, "100 packets")
}

func TestListFind(t *testing.T) {
	l := newLab(t)
	for words, want := range map[string]string{
		"web": "0", "WEB": "0", "ns": "0", "n*b": "0", "b*n": "", "2012345": "2", "script": "1", "2001:db8::2": "1", "2001:db8::/126": "012", "2001:db8::": "012",
		"198.51.100.": "01", "198.51.100.0/31": "01", "203.0.113.0": "2", "2001:db8::9": "", "203.0.113.0/24": "2", "/eth0": "012", " web ": "0",
	} {
		got := []byte(l.order("/workloads?name=" + strings.NewReplacer("/", "%2f", " ", "+").Replace(words)))
		slices.Sort(got)
		if string(got) != want {
			t.Errorf("%q finds %q, want %q", words, got, want)
		}
	}
	if got := l.order("/workloads?pool=dedicated"); got != "2" {
		t.Errorf("the pool dedicated has %q", got)
	}
	l.shows("/workloads?name=web", 200, "1 of 3 workloads")
	l.shows("/workloads?pool=gone", 200, "0 of 3 workloads", `<option value="gone" selected>`)
	l.shows("/workloads?name=web&sort=sent", 200, `name="sort" value="sent"`, `href="/workloads?name=web&amp;sort=-sent"`)
}

// TestListPages walks through a list of many pages: everybody is there once.
func TestListPages(t *testing.T) {
	l := newLab(t)
	const n = 60
	for i := range n {
		q := api.Request{Name: fmt.Sprint("x-", i), Pool: "dedicated", IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", i))}}
		if _, err := l.reg.Put(t.Context(), api.Key{ContainerID: fmt.Sprint("x", i), Interface: "eth0"}, q); err != nil {
			t.Fatal(err)
		}
	}
	defer func(was int) { perPage = was }(perPage)
	perPage = 25
	next := regexp.MustCompile(`rel="next" href="([^"]+)"`)
	heads := regexp.MustCompile(`<tr data-key="([^"]+)"`)
	seen, pages := map[string]bool{}, 0
	for path := "/workloads?sort=name"; path != ""; pages++ {
		_, source := l.get(path, 200)
		for _, m := range heads.FindAllStringSubmatch(source, -1) {
			if seen[m[1]] {
				t.Errorf("%s is there twice", m[1])
			}
			seen[m[1]] = true
		}
		path = ""
		if m := next.FindStringSubmatch(source); m != nil {
			path = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	if pages != 3 || len(seen) != n+3 {
		t.Errorf("%d pages with %d workloads", pages, len(seen))
	}
	l.shows("/workloads?sort=name&page=2", 200, "26 to 50 of 63, by Workload", `rel="prev" href="/workloads?sort=name"`)
	l.shows("/workloads?page=99", 200, "51 to 63 of 63")
	l.shows("/workloads?page=-7", 200, "1 to 25 of 63")
}

// TestNotCounted: without counters the list says so, and shows no traffic.
func TestNotCounted(t *testing.T) {
	l := newLab(t)
	l.page.Counted = false
	l.shows("/workloads?sort=traffic", 200, "Packets are not counted by workload", "by Workload")
	l.shows("/", 200, "Packets are not counted by workload")
	if _, source := l.get("/workloads", 200); strings.Contains(source, "Received") {
		t.Error("a column without anything in it")
	}
	l.page.Flows = nil
	l.shows("/workloads/00123456789abcdef/eth0?flows=remote", 200, "Flows are not recorded")
}

// TestFallen: counters that begin anew are no traffic.
func TestFallen(t *testing.T) {
	l := newLab(t)
	l.used[1] = accounting.Usage{Sent: accounting.Count{Packets: 100, Bytes: 1000}}
	l.later(0, func(u *accounting.Usage) { u.Sent = accounting.Count{Packets: 1, Bytes: 10} })
	l.shows("/workloads", 200, "0 with traffic now: 0 bit/s sent")
}

func TestFlows(t *testing.T) {
	l := full(t)
	l.shows("/workloads/00123456789abcdef/eth0?flows=port", 200, "tcp/443 1 200 B 2 packets", "1 flow, open or ended")
	l.shows("/workloads/00123456789abcdef/eth0?flows=nonsense", 200, "Sum up its flows")
	denied := l.flows[0]
	denied.Verdict, denied.Policy, denied.RemotePort = "denied", "web egress rest", 25
	l.flows = append(l.flows, denied)
	l.shows("/workloads/00123456789abcdef/eth0?flows=rule", 200, "web egress rest 1 200 B", "Rule")
	if text, _ := l.get("/workloads/00123456789abcdef/eth0?flows=port", 200); strings.Contains(text, "tcp/25") {
		t.Error("what was denied is among those that it talks to")
	}
	l.flows = nil
	l.shows("/workloads/00123456789abcdef/eth0?flows=remote", 200, "It has no flow that is open")
}
