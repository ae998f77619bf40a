package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// held is a registry whose lists and puts wait to be let go on.
type held struct {
	Registry
	list, put <-chan struct{}
	lists     atomic.Int64
}

func (h *held) List(f api.Filter, after string, limit int) ([]*registry.Assignment, string, error) {
	if h.list != nil {
		h.lists.Add(1)
		<-h.list
	}
	return h.Registry.List(f, after, limit)
}

func (h *held) Put(ctx context.Context, k api.Key, q api.Request) (*registry.Assignment, error) {
	if h.put != nil {
		<-h.put
	}
	return h.Registry.Put(ctx, k, q)
}

// crowd sends n requests at once, each on a connection of its own; answered gives
// how many have each status so far, wait waits for all.
func (g *rig) crowd(n int, method, target string, body func(i int) string) (answered func(status int) int, wait func()) {
	var mu sync.Mutex
	statuses := map[int]int{}
	ctx, cancel := context.WithCancel(g.Context())
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", g.socket) }}}
	for i := range n {
		all.Go(func() {
			r, _ := http.NewRequestWithContext(ctx, method, "http://natless"+strings.Replace(target, "#", fmt.Sprint(i), 1), strings.NewReader(body(i)))
			a, err := client.Do(r)
			if err != nil {
				return
			}
			mu.Lock()
			statuses[a.StatusCode]++
			mu.Unlock()
			io.Copy(io.Discard, a.Body)
			a.Body.Close()
		})
	}
	g.Cleanup(func() { cancel(); all.Wait() })
	return func(status int) int { mu.Lock(); defer mu.Unlock(); return statuses[status] }, all.Wait
}

func none(int) string { return "" }

// within waits until done says so.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// works asks for what must be had whatever others do. other is what they do.
func (g *rig) works(other kind) {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.Context(), 20*time.Second)
	defer cancel()
	own := api.NewClientBy("own", g.server.Dial)
	defer own.Close()
	for range 20 {
		if _, err := own.Status(ctx); err != nil {
			g.Fatalf("the daemon's own status: %v", err)
		}
		if err := g.client.Health(ctx); err != nil {
			g.Fatalf("health: %v", err)
		}
	}
	k := api.Key{ContainerID: "works", Interface: "eth0"}
	for range 3 {
		if _, err := g.client.Status(ctx); err != nil {
			g.Errorf("status: %v", err)
		}
		if other != change {
			if _, err := g.client.Put(ctx, k, api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:ffff::1")}, Pool: "dedicated"}); err != nil {
				g.Errorf("put: %v", err)
			}
			if err := g.client.Delete(ctx, k); err != nil {
				g.Errorf("delete: %v", err)
			}
		}
		if other != read {
			if _, err := g.client.Pools(ctx); err != nil {
				g.Errorf("pools: %v", err)
			}
		}
	}
}

// TestWatchersLeaveOthers: of 256 who want to watch few may, and nobody else
// notices.
func TestWatchersLeaveOthers(t *testing.T) {
	g := newRig(t, 0)
	g.server.Watch = func(ctx context.Context, _ api.Watch, send Send) error {
		send([]byte("{}\n"))
		<-ctx.Done()
		return nil
	}
	answered, _ := g.crowd(256, "GET", "/v1/watch", none)
	within(t, "all but those who may watch are refused", func() bool { return answered(429) == 256-rules[watch].each })
	if n := answered(200); n != rules[watch].each {
		t.Errorf("%d watch, one process may with %d", n, rules[watch].each)
	}
	g.works(watch)
	if n := g.server.Stats().Refused["watch"]; n != uint64(256-rules[watch].each) {
		t.Errorf("%d are counted", n)
	}
}

// TestReadersLeaveOthers: who lists all again and again waits for himself.
func TestReadersLeaveOthers(t *testing.T) {
	g := newRig(t, 0)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	h := &held{Registry: g.server.Registry, list: release}
	g.server.Registry = h
	g.crowd(300, "GET", "/v1/workloads", none)
	within(t, "lists are under way", func() bool { return h.lists.Load() == int64(rules[read].each) })
	g.works(read)
	if n := h.lists.Load(); n != int64(rules[read].each) {
		t.Errorf("%d lists of one process at a time, want %d", n, rules[read].each)
	}
}

// TestRushOfContainers: three hundred at once wait for their turn and are all
// served, and health is asked meanwhile.
func TestRushOfContainers(t *testing.T) {
	g := newRig(t, 0)
	release := make(chan struct{})
	g.server.Registry = &held{Registry: g.server.Registry, put: release}
	const n = 300
	// They all want what cannot be had, or the pools would be too small.
	answered, wait := g.crowd(n, "PUT", "/v1/workloads/c#/eth0", func(i int) string { return `{"ipv6":["2001:db8::1"],"pool":"nobody has"}` })
	time.Sleep(20 * time.Millisecond)
	g.works(change)
	close(release)
	wait()
	if answered(400) != n {
		t.Errorf("%d of %d were served, %d refused", answered(400), n, answered(429))
	}
}

// TestOften: who asks more often than he may is told so, and others are not.
func TestOften(t *testing.T) {
	g := newRig(t, 0)
	refused, told := 0, false
	me := peer{known: true, pid: int32(os.Getpid()), uid: uint32(os.Getuid())}
	for range 100 { // each by itself: on a busy machine the allowance grows faster than a client asks
		for {
			end, err := g.server.limits.begin(t.Context(), me, status)
			if err != nil {
				refused++
				break
			}
			end()
		}
		if _, err := g.client.Status(t.Context()); errors.Is(err, api.ErrRateLimited) {
			refused, told = refused+1, true
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !told || uint64(refused) != g.server.Stats().Refused["status"] {
		t.Errorf("told: %v; %d refused, %v counted", told, refused, g.server.Stats())
	}
	for _, other := range []peer{{known: true, uid: 7}, {known: true, pid: 7}, {known: true, own: true}} {
		end, err := g.server.limits.begin(t.Context(), other, status)
		if err != nil {
			t.Fatalf("another, %+v: %v", other, err)
		}
		end()
	}
	if err := g.client.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestIdleConnections: who opens many and says nothing pushes out himself.
func TestIdleConnections(t *testing.T) {
	g := newRig(t, 0)
	for i := range connections + 50 {
		c, err := net.Dial("unix", g.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		io.WriteString(c, []string{"", "GET /v1/hea", "GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n", "PUT /v1/workloads/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"}[i%4])
	}
	g.works(health)
	if n := g.server.limits.connections.Len(); n > connections {
		t.Errorf("%d connections are open", n)
	}
	if g.server.Stats().Evicted == 0 {
		t.Error("none was closed for others")
	}
}

// TestHostileRequests: after whatever somebody sends, everything is answered as
// before: nothing of it stays behind.
func TestHostileRequests(t *testing.T) {
	g := newRig(t, 0)
	g.server.Watch = func(_ context.Context, w api.Watch, _ Send) error {
		return &api.Problem{Code: api.CodeInvalid, Field: "filter", Detail: w.Filter}
	}
	good := func() (all string) {
		for _, target := range []string{"/v1/health", "/v1/workloads", "/v1/workloads/a/eth0", "/v1/pools", "/v1/whois?address=198.51.100.0:20000", "/v1/explain?packet=a", "/v1/openapi.yaml"} {
			status, body := g.ask("GET", target, "")
			all += fmt.Sprintln(target, status, body)
		}
		return all
	}
	if status, body := g.ask("PUT", "/v1/workloads/a/eth0", `{"ipv6":["2001:db8::1"]}`); status != 200 {
		t.Fatal(body)
	}
	before := good()
	long := strings.Repeat("x", 8000)
	for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "BREW"} {
		for _, target := range []string{"/", "/v1/", "/v1/workloads/%00/%ff", "/v1/workloads/" + long + "/x", "/v1/workloads?limit=-1", "/v1/workloads?after=%00", "/v1/whois?address=::1",
			"/v1/explain?packet=" + long, "/v1/explain?packet=nonsense", "/v1/watch?filter=" + long, "/v1/watch?bytes=-1", "/v1/pprof/x", "/v1/status?x", "/v1/health?%zz", "//v1/status", "/v1/../v1/status"} {
			for _, body := range []string{"", "{", "[1,2", `{"ipv6":[null]}`, `{"ipv6":` + strings.Repeat("[", 9000), "\x00\xff", strings.Repeat("y", maxBody+1)} {
				r, err := http.NewRequestWithContext(t.Context(), method, "http://natless", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				r.URL.Opaque = "//natless" + target
				if a, err := g.http.Do(r); err == nil {
					io.Copy(io.Discard, a.Body)
					a.Body.Close()
					if a.StatusCode == http.StatusInternalServerError {
						t.Errorf("%s %.60q %.20q: %d", method, target, body, a.StatusCode)
					}
				}
			}
		}
		if after := good(); after != before {
			t.Fatalf("after %s of all kinds:\n%s\nbefore:\n%s", method, after, before)
		}
	}
}

// TestNoSet: what is not one set, and nothing behind it, is told to nobody.
func TestNoSet(t *testing.T) {
	g := newRig(t, 0)
	told := func() error { t.Error("somebody was told of it"); return nil }
	g.server.PutBlocks = func(context.Context, api.BlockSet) (b api.Blocks, _ error) { return b, told() }
	g.server.PutRules = func(context.Context, api.RuleSet) (r api.Relay, _ error) { return r, told() }
	g.server.PatchRules = func(context.Context, api.RuleDelta) (r api.Relay, _ error) { return r, told() }
	for _, route := range []string{putBlocks, putRules, patchRules} {
		method, target, _ := strings.Cut(route, " ")
		for _, body := range []string{"", "{", "[]", `"x"`, "1", `{"epoch":-1}`, `{"epoch":1.5}`, `{"epoch":18446744073709551616}`, `{"epoch":"1"}`, `{"epoch":1,"näme":1}`,
			`{"epoch":1,"rules":[],"blocks":[]}`, `{"epoch":1} {}`, `{"epoch":1}]`, `{"epoch":1}x`, "{}\x00", "\xff\xfe", `{"epoch":` + strings.Repeat("[", 20_000),
			`{"rules":[{"ipv4":"２０３.0.113.1/32"}],"blocks":[{"ipv4":"２０３.0.113.1/32"}]}`} {
			if status, answer := g.ask(method, target, body); status != 400 || !strings.Contains(answer, "invalid_request") {
				t.Errorf("%s %.60q: %d %s", route, body, status, answer)
			}
		}
		if status, answer := g.ask(method, target, strings.Repeat(" ", maxRules+1)); status != 413 || strings.Contains(answer, "than 64 KiB") {
			t.Errorf("%s of more than there may be: %d %s", route, status, answer)
		}
		c, err := net.Dial("unix", g.socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"epoch\":1", method, target)
		c.(*net.UnixConn).CloseWrite()
		if answer, err := io.ReadAll(c); err != nil || !strings.Contains(string(answer), " 400 ") || !strings.Contains(string(answer), "10 bytes of it") {
			t.Errorf("%s that ended too early: %s, %v", route, answer, err)
		}
		c.Close()
	}
}

// endless is a registry whose list is longer than what the buffers of a
// connection hold.
type endless struct{ Registry }

func (endless) List(api.Filter, string, int) (all []*registry.Assignment, next string, err error) {
	for range 2000 {
		all = append(all, &registry.Assignment{Key: api.Key{ContainerID: strings.Repeat("c", 100), Interface: "eth0"}})
	}
	return all, "", nil
}

// TestSlowReaders: who asks for much and reads none of it keeps nobody waiting,
// nor himself, and the memory of a bounded number of answers.
func TestSlowReaders(t *testing.T) {
	g := newRig(t, 0)
	g.server.Registry = endless{g.server.Registry}
	const crowd = unread + 20
	waits := &g.server.limits.unread
	for i := range crowd {
		c, err := net.Dial("unix", g.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		io.WriteString(c, "GET /v1/workloads HTTP/1.1\r\nHost: natless\r\n\r\n")
		within(t, "an answer waits", func() bool { return waits.Len()+int(waits.Evicted()) > i })
	}
	if n := waits.Len(); n > unread {
		t.Errorf("%d answers wait", n)
	}
	began := time.Now()
	for range 5 {
		if _, err := g.client.Pools(t.Context()); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	}
	g.works(numKinds)
}
