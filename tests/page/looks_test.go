//go:build linux

package page

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
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

// pages are all, as somebody finds them.
var pages = map[string]string{
	"overview": "/", "workloads": "/workloads", "address": "/addresses/198.51.100.8", "workload": "/workloads/c0/eth0?flows=remote",
	"whois": "/whois?address=198.51.100.8:20000", "problem": "/nothing",
}

// TestLooks has traffic flow, and looks at all pages on a phone, a tablet and a desk,
// by day and by night. NATLESS_SCREENSHOTS keeps the pictures, NATLESS_AXE names
// axe-core's script, which then is a second judge.
func TestLooks(t *testing.T) {
	daemon.OnePath(t, "the page is the same")
	l := newLab(t)
	l.answers()
	l.sends("[2001:db8:6::2]:16500", 1000, 4*time.Millisecond)
	l.sends("[2001:db8:6::3]:16600", 300, 10*time.Millisecond)
	l.sends("[2001:db8:6::3]:5000", 100, 50*time.Millisecond) // not its own
	if _, err := l.daemon.Client().Drain(t.Context(), "dedicated"); err != nil {
		t.Fatal(err)
	}
	ctx := l.browser(1280, 900, true)
	l.do(ctx, "overview", chromedp.Navigate(l.url+"/"))
	l.becomes(ctx, "who is busy", `["shop/web-0", "shop/web-1"].every(n => [...document.querySelectorAll("table")].some(t => /By bits/.test(t.caption?.textContent) && t.textContent.includes(n) && /bit.s/.test(t.textContent)))`)
	l.becomes(ctx, "whose packets are refused", `[...document.querySelectorAll("table")].some(t => /refused/.test(t.caption?.textContent) && /shop.web-1/.test(t.textContent))`)
	l.has(ctx, "overview", "Pool dedicated is drained", "port-outside-set", "Fast path")
	for range 8 { // so that there is a line to look at
		time.Sleep(600 * time.Millisecond)
		l.do(ctx, "workload", chromedp.Evaluate[chromedp.Void](`fetch("/"), fetch("/workloads"), fetch("/workloads/c0/eth0")`))
	}
	l.do(ctx, "workload", chromedp.Navigate(l.url+pages["workload"]))
	l.becomes(ctx, "flows", `[...document.querySelectorAll("#flows th")].some(t => t.textContent == "192.0.2.2")`)
	l.do(ctx, "workloads", chromedp.Navigate(l.url+"/workloads"))
	l.becomes(ctx, "rates", `/bit.s/.test(document.querySelector("tr[data-key='c0/eth0']").textContent)`)
	for _, width := range []int64{360, 800, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			l.do(ctx, "size", chromedp.EmulateViewport(width, 900))
			features := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
			if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, features); err != nil {
				t.Fatal(err)
			}
			for name, path := range pages {
				l.looks(ctx, fmt.Sprintf("%s-%d-%s", name, width, scheme), path)
			}
		}
	}
}

func (l *lab) looks(ctx context.Context, name, path string) {
	l.t.Helper()
	l.do(ctx, name, chromedp.Navigate(l.url+path))
	if wider := ask(l, ctx, name, chromedp.Evaluate[int](overflow)); wider > 0 {
		l.t.Errorf("%s: is %d pixels wider than the screen", name, wider)
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
