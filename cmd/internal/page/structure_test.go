//go:build linux

package page

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
)

// full is a lab of which every table has rows.
func full(t *testing.T) *lab {
	l := newLab(t)
	l.status.FastPath = api.FastPath{Mode: "auto", State: "partial", Attach: "tcx", Translated: map[string]api.FastPathCount{"forward4": {Packets: 7, Bytes: 700}},
		Passed: map[string]uint64{"fragment": 3}, Lost: 1,
		Interfaces: []api.FastPathInterface{{Name: "eth9", Uplink: true}, {Name: "veth1", Workloads: 1}, {Name: "veth2", Workloads: 1, Error: "no such device"}}}
	l.status.Drains = []api.Drain{{Since: l.now, Left: 3}, {Pool: "dedicated", Since: l.now}}
	l.status.Reload.Error = "pools[0]: is wrong"
	l.counts.Verdicts[dataplane.To4][translator.PortOutsideSet].Packets = 20
	l.dropped = Dropped{Since: l.now.Add(-90 * time.Second), All: 7, LeftOut: 2, Packets: []api.Event{
		{Time: l.now, Workload: "ns/web", Verdict: "port-outside-set", In: &api.Side{Words: "the first"}},
		{Time: l.now, Verdict: "malformed", In: &api.Side{Src: netip.MustParseAddr("203.0.113.9"), Words: "a stranger's"}},
		{Time: l.now.Add(time.Second), Workload: "ns/web", Verdict: "port-outside-set", In: &api.Side{Words: "the second"}},
		{Time: l.now.Add(3 * time.Second), Workload: "ns/web", Verdict: "port-outside-set", In: &api.Side{Words: "the second"}},
		{Time: l.now, Workload: "<script>alert(1)</script>", Verdict: "nonsense"},
	}}
	l.flows = []api.Flow{{Proto: "tcp", RemotePort: 443, Initiator: "local", Sent: api.FlowCount{Packets: 2, Bytes: 200}}}
	l.get("/", 200)
	l.get("/workloads/00123456789abcdef/eth0", 200)
	l.later(2, func(u *accounting.Usage) { u.Sent.Packets += 10; u.Sent.Bytes += 1000 })
	return l
}

// everything is every page of a full lab.
var everything = append(slices.Clone(good[:8]), "/workloads/00123456789abcdef/eth0?flows=remote", "/workloads?sort=-sent&only=active", "/dropped", "/nothing")

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

// TestStructure: what somebody hears who does not see the page. Every table has a
// caption, heads of columns and of rows; every field has a name, every picture a text
// or is not for them; no script, style or source is in the page or elsewhere.
func TestStructure(t *testing.T) {
	l := full(t)
	for _, path := range everything {
		status := 200
		if path == "/nothing" {
			status = 404
		}
		_, source := l.get(path, status)
		root, err := html.Parse(strings.NewReader(source))
		if err != nil {
			t.Fatal(err)
		}
		ids, headings := map[string]bool{}, 0
		for n := range root.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			check := func(good bool, what string) {
				if !good {
					var b strings.Builder
					html.Render(&b, n)
					t.Errorf("%s: %s: %.200s", path, what, b.String())
				}
			}
			if id, is := attr(n, "id"); is {
				check(!ids[id], "an id twice")
				ids[id] = true
			}
			_, inline := attr(n, "style")
			check(!inline, "a style that the policy refuses")
			for _, a := range n.Attr {
				check(!strings.HasPrefix(a.Key, "on"), "a script that the policy refuses")
				if a.Key == "href" || a.Key == "src" || a.Key == "action" {
					check(strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "//") || strings.HasPrefix(a.Val, "#") || strings.HasPrefix(a.Val, "?"), "a source elsewhere")
				}
			}
			switch n.Data {
			case "h1":
				headings++
			case "table":
				check(n.FirstChild != nil && has(n, "caption"), "a table without a caption")
			case "th":
				scope, _ := attr(n, "scope")
				check(scope == "col" || scope == "row", "a head that does not say of what")
			case "tr":
				check(has(n, "th") || strings.HasPrefix(textOf(n), "No workload"), "a row without a head")
			case "script", "style":
				_, src := attr(n, "src")
				check(src && n.FirstChild == nil, "a script that the policy refuses")
			case "input", "select":
				kind, _ := attr(n, "type")
				_, named := attr(n, "aria-label")
				check(named || kind == "hidden" || n.Parent.Data == "label", "a field without a name")
			case "svg":
				_, hidden := attr(n, "aria-hidden")
				label, _ := attr(n, "aria-label")
				check(hidden || label != "", "a picture without a text")
				check(hidden || !has(n, "a"), "links in a picture")
			}
		}
		if headings != 1 {
			t.Errorf("%s: %d headings of the page", path, headings)
		}
	}
}

func has(n *html.Node, name string) bool {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && d.Data == name {
			return true
		}
	}
	return false
}

func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.TrimSpace(b.String())
}

// TestNoAlarm: no workload's colour is one that says that something is wrong.
func TestNoAlarm(t *testing.T) {
	style, err := assets.ReadFile("assets/style.css")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`--c\d: #(..)(..)(..)`).FindAllStringSubmatch(string(style), -1)
	if len(found) != 2*colours {
		t.Fatalf("%d colours by day and night, want %d", len(found), 2*colours)
	}
	for _, c := range found {
		if red, others := c[1], max(c[2], c[3]); red > "a0" && others < "40" { // hexadecimal, of one length
			t.Errorf("%s is red", c[0])
		}
	}
	l := newLab(t)
	if _, source := l.get("/", 200); !strings.Contains(source, `class="own c0"`) || strings.Contains(source, "hsl(") {
		t.Error("the first workload has another colour")
	}
}

// TestUnused: what nobody has anything of has no picture.
func TestUnused(t *testing.T) {
	l := newLab(t)
	text, source := l.get("/", 200)
	if n := strings.Count(source, `class="address"`); n != 2 { // of default
		t.Errorf("%d addresses are drawn, want 2", n)
	}
	for _, want := range []string{"Nobody has anything of its 16 addresses yet.", "1 of 64 addresses", "not given away", "a workload each"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}

// TestDrained: a drain is seen at once, and how it ends.
func TestDrained(t *testing.T) {
	l := full(t)
	if _, err := l.reg.Drain("dedicated"); err != nil {
		t.Fatal(err)
	}
	l.shows("/", 200, "This host is drained", "3 workloads have something still", "Pool dedicated is drained", "Nobody has anything any more",
		"natless undrain --pool dedicated", "Drained since", "were it not drained")
}

func TestFastPath(t *testing.T) {
	l := full(t)
	l.counts.Verdicts[dataplane.To4][translator.Forward4] = dataplane.Count{Packets: 200, Bytes: 20_000}
	l.now = l.now.Add(2 * time2)
	l.status.FastPath.Passed = map[string]uint64{"fragment": 23}
	l.status.FastPath.Translated = map[string]api.FastPathCount{"forward4": {Packets: 157, Bytes: 15_700}}
	l.shows("/", 200, "partial", "75 % of what is translated now", "fragment a fragment 3.3 /s 23", "not attached: no such device", "1 without", "lost dropped: the kernel refused it")
	l.now = l.now.Add(time2)
	l.status.FastPath = api.FastPath{Mode: "auto", State: "off", Detail: "the kernel is too old"}
	l.shows("/", 200, "off", "the kernel is too old")
}

func TestDropped(t *testing.T) {
	l := full(t)
	l.now = l.now.Add(-time2)
	l.shows("/dropped", 200, "dropped in the 1 min since this page is open: 7, of which 2 were too many", "ns/web the second port-outside-set meaning of port-outside-set 3 12:00:03",
		`href="/workloads?name=ns%2fweb"`, "from 203.0.113.9 a stranger's malformed", "12:00:00 the first port-outside-set ns/web", "12:00:03 the second 2 times port-outside-set")
	l.dropped = Dropped{Since: l.now, Error: "8 others are watching"}
	l.shows("/dropped", 200, "Nobody watches them: 8 others are watching")
	l.dropped.Error = ""
	l.shows("/dropped", 200, "None so far")
}
