//go:build linux

// Package page looks at the daemon's status page as people do: in a real
// browser, wide and narrow, with JavaScript and without. What the server says
// by itself is tested beside it.
package page

import (
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/natless/natless/tests/daemon"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

func TestPage(t *testing.T) {
	l := newLab(t)
	t.Run("wide", func(t *testing.T) {
		l.t = t
		ctx := l.browser(1280, 900, true)
		l.do(ctx, "overview", chromedp.Navigate(l.url+"/"))
		l.has(ctx, "overview", "ready", "3 mappings, 3 of them workloads", "2001:db8:64::/96", "198.51.100.8", "2 workloads")
		// Traffic shows up by itself, without a reload by hand.
		go l.workload.Command("ping", "-q", "-i", "0.01", "-c", "600", "2001:db8:64::192.0.2.2").Run()
		l.becomes(ctx, "traffic", `[...document.querySelectorAll(".card:has(.chart) .big")].length == 2 && [...document.querySelectorAll(".card:has(.chart) .big")].every(e => /[1-9].*bit/.test(e.textContent))`)
		// What a share of an address is called is said where the pointer is.
		x := ask(l, ctx, "place of a share", chromedp.Evaluate[float64](`(r => r.x + r.width / 2)(document.querySelector("rect.own").getBoundingClientRect())`))
		y := ask(l, ctx, "place of a share", chromedp.Evaluate[float64](`(r => r.y + r.height / 2)(document.querySelector("rect.own").getBoundingClientRect())`))
		l.do(ctx, "hover", chromedp.MouseEvent(chromedp.MouseMoved, x, y), chromedp.WaitVisible("#hint"))
		hint := ask(l, ctx, "hint", chromedp.Text("#hint"))
		if !strings.HasPrefix(hint, "shop/web-") {
			t.Errorf("hovering over a share says %q", hint)
		}
		l.keep(ctx, "wide")
		l.do(ctx, "click", chromedp.MouseClickXY(x, y), chromedp.WaitVisible("dl"))
		l.has(ctx, "workload", "shop/web-", "Its share of 198.51.100.")
	})
	t.Run("phone without JavaScript", func(t *testing.T) {
		l.t = t
		ctx := l.browser(360, 740, false)
		for _, path := range []string{"/", "/workloads", "/addresses/198.51.100.8", "/workloads/c0/eth0", "/whois?address=198.51.100.8:20000", "/nothing"} {
			l.do(ctx, path, chromedp.Navigate(l.url+path))
			if wider := ask(l, ctx, path, chromedp.Evaluate[int](overflow)); wider > 0 {
				t.Errorf("%s: is %d pixels wider than a phone", path, wider)
			}
		}
		l.do(ctx, "search", chromedp.Navigate(l.url+"/"), chromedp.SendKeys(`input[name="address"]`, "198.51.100.8:20000\r"), chromedp.WaitVisible("dl"))
		l.has(ctx, "whois", "198.51.100.8:20000", "shop/web-0", "16384-32767")
		l.keep(ctx, "phone")
	})
	t.Run("traffic and looks", func(t *testing.T) {
		l.t = t
		ctx := l.browser(1280, 900, true)
		l.traffic(ctx)
		l.attention(ctx)
		l.looksAll(ctx)
	})
	t.Run("the daemon goes", func(t *testing.T) {
		l.t = t
		ctx := l.browser(800, 600, true)
		l.do(ctx, "overview", chromedp.Navigate(l.url+"/"))
		l.daemon.Kill()
		l.becomes(ctx, "stale", `document.body.classList.contains("stale")`)
		l.daemon.Start()
		l.becomes(ctx, "fresh", `!document.body.classList.contains("stale")`)
	})
}
