//go:build linux

// Package page looks at the daemon's status page as people do: in a real
// browser, wide and narrow, with JavaScript and without. What the server says
// by itself is tested beside it.
package page

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const config = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: default, ipv4: 198.51.100.8/31, ports_per_workload: 16384}
metrics: {listen: "127.0.0.1:9464"}
`

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// lab is a workload and a server around a daemon with a page, and a browser.
type lab struct {
	t                      *testing.T
	workload, host, server *netns.NS
	daemon                 *daemon.Daemon
	url                    string
}

func newLab(t *testing.T) *lab {
	netns.Require(t, netns.Root, "chromium", "ping")
	l := &lab{t: t, workload: netns.New(t, "w"), host: netns.New(t, "host"), server: netns.New(t, "server")}
	netns.Veth(t, l.workload, "eth0", l.host, "w")
	netns.Veth(t, l.host, "uplink", l.server, "eth0")
	l.workload.IP("addr add 2001:db8:6::2/64 dev eth0")
	l.host.IP("addr add 2001:db8:6::1/64 dev w")
	l.host.IP("addr add 192.0.2.1/24 dev uplink")
	l.server.IP("addr add 192.0.2.2/24 dev eth0")
	l.workload.IP("route add default via 2001:db8:6::1")
	l.server.IP("route add default via 192.0.2.1")
	l.daemon = daemon.Start(t, l.host, config)
	for i := range 3 {
		q := api.Request{Name: fmt.Sprintf("shop/web-%d", i), IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:6::%d", i+2))}}
		if _, err := l.daemon.Client().Put(t.Context(), api.Key{ContainerID: fmt.Sprintf("c%d", i), Interface: "eth0"}, q); err != nil {
			t.Fatal(err)
		}
	}
	l.url = "http://" + forward(t, l.host, "127.0.0.1:9464")
	return l
}

// forward brings connections to a port of this namespace to an address in ns.
func forward(t *testing.T, ns *netns.NS, address string) string {
	t.Helper()
	from, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.Close() })
	go func() {
		for {
			a, err := from.Accept()
			if err != nil {
				return
			}
			var b net.Conn
			if ns.Do(func() { b, err = net.Dial("tcp", address) }); err != nil {
				a.Close()
				continue
			}
			go func() { io.Copy(a, b); a.Close() }()
			go func() { io.Copy(b, a); b.Close() }()
		}
	}()
	return from.Addr().String()
}

// browser is a fresh one of the given size in CSS pixels.
func (l *lab) browser(width, height int64, javascript bool) context.Context {
	l.t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(l.t.TempDir()))
	ctx, cancel := chromedp.NewExecAllocator(l.t.Context(), options...)
	l.t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	l.t.Cleanup(cancel)
	l.do(ctx, "start chromium", chromedp.EmulateViewport(width, height))
	ctx, cancel = context.WithTimeout(ctx, time.Minute) // the first context is the browser's life
	l.t.Cleanup(cancel)
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !javascript}); err != nil {
		l.t.Fatal(err)
	}
	return ctx
}

func (l *lab) do(ctx context.Context, what string, actions ...chromedp.Action[chromedp.Void]) {
	l.t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
}

// ask is do for an action that gives something.
func ask[T any](l *lab, ctx context.Context, what string, action chromedp.Action[T]) T {
	l.t.Helper()
	answer, err := chromedp.Run(ctx, action)
	if err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
	return answer
}

// keep leaves a picture where NATLESS_SCREENSHOTS says, to be looked at.
func (l *lab) keep(ctx context.Context, name string) {
	l.t.Helper()
	png := ask(l, ctx, "screenshot", chromedp.CaptureScreenshot())
	if dir := os.Getenv("NATLESS_SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			l.t.Error(err)
		}
	}
}

func (l *lab) has(ctx context.Context, what string, want ...string) {
	l.t.Helper()
	text := ask(l, ctx, what, chromedp.Text("body"))
	for _, w := range want {
		if !strings.Contains(text, w) {
			l.t.Errorf("%s: want %q in\n%s", what, w, text)
		}
	}
}

// becomes waits for something to be true in the page.
func (l *lab) becomes(ctx context.Context, what, expression string) {
	l.t.Helper()
	ask(l, ctx, what, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(20*time.Second)))
}

const overflow = `document.documentElement.scrollWidth - document.documentElement.clientWidth`

func TestPage(t *testing.T) {
	l := newLab(t)
	t.Run("wide", func(t *testing.T) {
		l.t = t
		ctx := l.browser(1280, 900, true)
		l.do(ctx, "overview", chromedp.Navigate(l.url+"/"))
		l.has(ctx, "overview", "ready", "3 mappings, 3 of them workloads", "2001:db8:64::/96", "198.51.100.8", "2 workloads")
		// Traffic shows up by itself, without a reload by hand.
		go l.workload.Command("ping", "-q", "-i", "0.01", "-c", "600", "2001:db8:64::192.0.2.2").Run()
		l.becomes(ctx, "traffic", `[...document.querySelectorAll(".card .big")].slice(1).every(e => /[1-9].*bit/.test(e.textContent))`)
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
