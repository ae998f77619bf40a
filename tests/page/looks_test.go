//go:build linux

package page

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/natless/natless/tests/daemon"
)

// unseen finds texts that stand out from what is behind them by less than WCAG 2.2
// (1.4.3) wants, and words cut off at the edge of the screen.
const unseen = `(() => {
  const parse = c => { const n = c.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { let all = []; for (; e; e = e.parentElement) all.push(parse(getComputedStyle(e).backgroundColor)); return all.reverse().reduce((below, c) => over(c, below), matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1]); };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("svg, noscript, script, .skip, .quiet, option")) continue;
    const back = behind(e), a = light(over(parse(style.color), back)), b = light(back);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(walk.currentNode.data.trim() + ": contrast " + ratio.toFixed(2));
    const range = document.createRange(); range.selectNodeContents(walk.currentNode);
    const box = range.getBoundingClientRect();
    if (box.right > innerWidth + 1 && !e.closest(".wide")) found.push(walk.currentNode.data.trim() + ": ends at " + box.right + " of " + innerWidth);
  }
  return found;
})()`

// foreign is what the page's policy refused, and what was loaded from elsewhere.
const foreign = `[...(window.refused || []), ...performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith(location.origin + "/"))]`

// pages are all, as somebody finds them.
var pages = map[string]string{
	"overview": "/", "workloads": "/workloads", "address": "/addresses/198.51.100.8", "workload": "/workloads/c0/eth0?flows=remote",
	"whois": "/whois?address=198.51.100.8:20000", "problem": "/nothing", "dropped": "/dropped",
}

// screens are those that are looked at: every width and every scheme once at least;
// where pictures are kept, each with each.
func screens() (all []screen) {
	if os.Getenv("NATLESS_SCREENSHOTS") == "" {
		return []screen{{360, "light"}, {800, "dark"}, {1280, "light"}}
	}
	for _, width := range []int64{360, 800, 1280} {
		all = append(all, screen{width, "light"}, screen{width, "dark"})
	}
	return all
}

type screen struct {
	width  int64
	scheme string
}

// traffic has it flow, and waits until the page says whose it is, which way it takes,
// and whose packets are refused.
func (l *lab) traffic(ctx context.Context) {
	l.t.Helper()
	l.answers()
	l.sends("[2001:db8:6::2]:16500", 1000, 4*time.Millisecond)
	l.sends("[2001:db8:6::3]:16600", 300, 10*time.Millisecond)
	l.sends("[2001:db8:6::3]:5000", 100, 50*time.Millisecond) // not its own
	if _, err := l.daemon.Client().Drain(l.t.Context(), "dedicated"); err != nil {
		l.t.Fatal(err)
	}
	l.do(ctx, "overview", chromedp.Navigate(l.url+"/"))
	row := func(caption, name string) string {
		return fmt.Sprintf(`[...document.querySelectorAll("table")].some(t => /%s/.test(t.caption.textContent) && [...t.rows].some(r => r.textContent.includes(%q) && /[1-9].*\/s/.test(r.textContent)))`, caption, name)
	}
	l.becomes(ctx, "who is busy", row("By bits", "shop/web-0")+" && "+row("By bits", "shop/web-1"))
	l.becomes(ctx, "whose packets are refused", row("Whose packets", "shop/web-1"))
	l.becomes(ctx, "why packets are dropped", row("Why packets", "port-outside-set"))
	if daemon.FastPath() != "off" {
		l.becomes(ctx, "what the fast path does", `/% of what is translated now/.test(document.body.textContent)`)
		l.becomes(ctx, "what it leaves", row("left to the daemon", "port"))
	}
	l.has(ctx, "overview", "Pool dedicated is drained", "natless undrain --pool dedicated")
	l.do(ctx, "dropped", chromedp.Navigate(l.url+"/dropped"))
	l.becomes(ctx, "for whom", `[...document.querySelectorAll("tbody tr")].some(r => /shop.web-1.*5000.*port-outside-set/s.test(r.textContent))`)
	l.do(ctx, "workload", chromedp.Navigate(l.url+pages["workload"]))
	l.becomes(ctx, "flows", `[...document.querySelectorAll("#flows th")].some(t => t.textContent == "192.0.2.2")`)
	l.becomes(ctx, "a line", `document.querySelectorAll(".chart .line").length == 2`)
	l.do(ctx, "workloads", chromedp.Navigate(l.url+"/workloads"))
	l.becomes(ctx, "rates", `/[1-9].*bit.s/.test(document.querySelector("tr[data-key='c0/eth0']").textContent)`)
}

// attention: what somebody has the keyboard's focus on stays so while figures change
// around it, and who pauses reads in peace.
func (l *lab) attention(ctx context.Context) {
	l.t.Helper()
	const moment = `document.querySelector("#now time").dateTime`
	l.do(ctx, "focus", chromedp.Evaluate[chromedp.Void](`void document.querySelector("tr[data-key='c1/eth0'] a").focus()`))
	was := ask(l, ctx, "time", chromedp.Evaluate[string](moment))
	l.becomes(ctx, "another moment", fmt.Sprintf("%s != %q", moment, was))
	if has := ask(l, ctx, "focus", chromedp.Evaluate[string](`document.activeElement.textContent`)); has != "shop/web-1" {
		l.t.Errorf("the keyboard's focus has gone to %q", has)
	}
	l.do(ctx, "pause", chromedp.Click("#pause"))
	l.becomes(ctx, "paused", `document.querySelector("#pause").getAttribute("aria-pressed") == "true"`)
	was = ask(l, ctx, "time", chromedp.Evaluate[string](moment))
	l.do(ctx, "look again", chromedp.Evaluate[chromedp.Void](`void document.dispatchEvent(new Event("visibilitychange"))`))
	time.Sleep(1100 * time.Millisecond)
	if is := ask(l, ctx, "time", chromedp.Evaluate[string](moment)); is != was {
		l.t.Errorf("paused at %s, it goes on to %s", was, is)
	}
	l.do(ctx, "go on", chromedp.Click("#pause"))
	l.becomes(ctx, "another moment", fmt.Sprintf("%s != %q", moment, was))
}

// looksAll looks at all pages on a phone, a tablet and a desk, by day and by night.
// NATLESS_SCREENSHOTS keeps the pictures, NATLESS_AXE names axe-core's script, which
// then is a second judge.
func (l *lab) looksAll(ctx context.Context) {
	l.t.Helper()
	for _, s := range screens() {
		l.do(ctx, "size", chromedp.EmulateViewport(s.width, 900))
		features := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: s.scheme}}}
		if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, features); err != nil {
			l.t.Fatal(err)
		}
		for name, path := range pages {
			l.looks(ctx, fmt.Sprintf("%s-%d-%s", name, s.width, s.scheme), path)
		}
	}
}

func (l *lab) looks(ctx context.Context, name, path string) {
	l.t.Helper()
	l.do(ctx, name, chromedp.Navigate(l.url+path))
	if wider := ask(l, ctx, name, chromedp.Evaluate[int](overflow)); wider > 0 {
		l.t.Errorf("%s: is %d pixels wider than the screen", name, wider)
	}
	for _, found := range ask(l, ctx, name, chromedp.Evaluate[[]string](foreign)) {
		l.t.Errorf("%s: it asks for what it must not: %s", name, found)
	}
	for _, found := range ask(l, ctx, name, chromedp.Evaluate[[]string](unseen)) {
		l.t.Errorf("%s: %s", name, found)
	}
	if os.Getenv("NATLESS_SCREENSHOTS") != "" {
		l.keep(ctx, name)
	}
	if script := os.Getenv("NATLESS_AXE"); script != "" {
		l.axe(ctx, name, script)
	}
}

// axe has axe-core judge the page.
func (l *lab) axe(ctx context.Context, name, script string) {
	l.t.Helper()
	source, err := os.ReadFile(script)
	if err != nil {
		l.t.Fatal(err)
	}
	found := ask(l, ctx, name, chromedp.Evaluate[string](string(source)+`; axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(r => JSON.stringify(r.violations.map(v => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200)).join(" | "))))`, chromedp.EvalAwaitPromise))
	var all []string
	if err := json.Unmarshal([]byte(found), &all); err != nil {
		l.t.Fatal(err)
	}
	for _, v := range all {
		l.t.Errorf("%s: axe: %s", name, strings.TrimSpace(v))
	}
}
