//go:build linux

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
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const config = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
uplink: uplink
pools:
  - {name: default, ipv4: 198.51.100.8/31, ports_per_workload: 16384}
  - {name: dedicated, ipv4: 203.0.113.0/26, whole_address: true}
metrics: {listen: "127.0.0.1:9464"}
flows: {enabled: true}
`

// web is how many workloads there are.
const web = 3

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
	for i := range web {
		l.workload.IP(fmt.Sprintf("addr add 2001:db8:6::%d/64 dev eth0 nodad", i+2))
	}
	l.host.IP("addr add 2001:db8:6::1/64 dev w")
	l.host.IP("addr add 192.0.2.1/24 dev uplink")
	l.server.IP("addr add 192.0.2.2/24 dev eth0")
	l.workload.IP("route add default via 2001:db8:6::1")
	l.server.IP("route add default via 192.0.2.1")
	l.daemon = daemon.Start(t, l.host, config)
	for i := range web {
		q := api.Request{Name: fmt.Sprintf("shop/web-%d", i), HostInterface: "w", IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:6::%d", i+2))}}
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
	note := page.AddScriptToEvaluateOnNewDocumentParams{Source: `addEventListener("securitypolicyviolation", e => (window.refused ||= []).push(e.violatedDirective + " " + e.blockedURI))`}
	if _, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, note); err != nil {
		l.t.Fatal(err)
	}
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

// sends has a workload send datagrams from a port to the server until the test ends,
// which answers each; those from a port that is not its own are refused.
func (l *lab) sends(from string, size int, pause time.Duration) {
	l.t.Helper()
	var conn net.Conn
	var err error
	l.workload.Do(func() {
		conn, err = (&net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))}).Dial("udp", "[2001:db8:64::192.0.2.2]:7777")
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx := l.t.Context()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l.t.Cleanup(func() { stop(); conn.Close() })
	go func() {
		for b := make([]byte, size); ctx.Err() == nil; time.Sleep(pause) {
			conn.Write(b) // what is refused is answered by an error, which the next one gets
		}
	}()
}

// answers has the server send back whatever datagram it gets.
func (l *lab) answers() {
	l.t.Helper()
	var conn net.PacketConn
	var err error
	l.server.Do(func() { conn, err = net.ListenPacket("udp4", "192.0.2.2:7777") })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	go func() {
		for b := make([]byte, 2048); ; {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(b[:n], from)
		}
	}()
}

// keep leaves a picture where NATLESS_SCREENSHOTS says, to be looked at.
func (l *lab) keep(ctx context.Context, name string) {
	l.t.Helper()
	png := ask(l, ctx, "screenshot", chromedp.FullScreenshot(100))
	if dir := os.Getenv("NATLESS_SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			l.t.Error(err)
		}
	}
}

func (l *lab) has(ctx context.Context, what string, want ...string) {
	l.t.Helper()
	text := strings.Join(strings.Fields(ask(l, ctx, what, chromedp.Text("body"))), " ") // with spaces that break no line, too
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
