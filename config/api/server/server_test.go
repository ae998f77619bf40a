package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/ports"
)

// rig is a server with a real registry on a real socket.
type rig struct {
	*testing.T
	socket string
	client *api.Client
	http   *http.Client
	doc    *openapi3.T
	server *Server
	ready  atomic.Bool
	wrong  error // of the next reload
}

func newRig(t *testing.T, group int) *rig {
	t.Helper()
	if group == 0 {
		group = os.Getgid() // the test may ask, whoever runs it
	}
	dir := t.TempDir()
	g := &rig{T: t, socket: filepath.Join(dir, "n.sock"), doc: document(t)}
	g.ready.Store(true)
	reg, err := registry.Open(registry.Options{Path: filepath.Join(dir, "r.db"), History: 100, Pools: []registry.Pool{
		{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/31"), PortsPerWorkload: 16384, Reserved: ports.MustParse("0-1023"), Cooldown: time.Minute},
		{Name: "dedicated", IPv4: netip.MustParsePrefix("203.0.113.0/30"), Whole: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{
		Registry: reg, Ready: g.ready.Load, Group: group,
		Status: func(context.Context) (api.Status, error) { return fullStatus(), nil },
		Explain: func(_ context.Context, words string) (api.Explanation, error) {
			if words == "nonsense" {
				return api.Explanation{}, errors.New("nonsense is no packet")
			}
			return api.Explanation{Packet: words, Verdict: "forward4", Output: []string{"a"}, Mappings: []string{"b"}, Rule: "RFC 7915 5.1", Text: "c"}, nil
		},
		Reload: func(context.Context) error { return g.wrong },
		Complete: func(w *api.Workload) {
			w.Prefix, w.Violations = netip.MustParsePrefix("64:ff9b::/96"), 7
		},
	})
	g.server = s
	l, err := Listen(g.socket, group)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	g.client = api.NewClient(g.socket)
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", g.socket) }
	g.http = &http.Client{Transport: &http.Transport{DialContext: dial}}
	t.Cleanup(func() {
		g.client.Close()
		g.http.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(g.socket); err == nil {
			t.Error("the socket is still there")
		}
		reg.Close()
	})
	return g
}

func fullStatus() api.Status {
	return api.Status{Version: "1", PID: 1, Ready: true, Started: time.Now(), Config: "/c", Prefix: netip.MustParsePrefix("64:ff9b::/96"),
		IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1"), Device: api.Device{Name: "natless0", MTU: 1500, Queues: 1, Offload: []string{"tso4"}},
		Mappings: 1, Workloads: 2, Verdicts: map[string]uint64{"forward4": 3}, Reload: api.Reload{At: time.Now(), Error: "x"},
		Limits: []api.Limit{{What: "icmp-errors too-big", Budget: "workload", Refused: 5}},
		Checks: []api.Check{{Name: "routes", State: "ok", Detail: "all there"}},
		FastPath: api.FastPath{Mode: "auto", State: api.FastPathPartial, Detail: "x", Attach: "tcx", Layout: 1, Adopted: true,
			Interfaces: []api.FastPathInterface{{Name: "eth0", Uplink: true}, {Name: "veth1", Workloads: 1, Error: "y"}},
			Translated: map[string]api.FastPathCount{"forward4": {Packets: 1, Bytes: 2}}, Lost: 4, Passed: map[string]uint64{"fragment": 3}}}
}

func document(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err == nil {
		err = doc.Validate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// ask sends a request as it is, checks the answer against the description,
// and gives status and body.
func (g *rig) ask(method, target, body string) (int, string) {
	g.Helper()
	req, err := http.NewRequestWithContext(g.Context(), method, "http://natless"+target, strings.NewReader(body))
	if err != nil {
		g.Fatal(err)
	}
	resp, err := g.http.Do(req)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.Fatal(err)
	}
	g.validate(method, req.URL.Path, resp, b)
	return resp.StatusCode, string(b)
}

// validate holds an answer against the description.
func (g *rig) validate(method, path string, resp *http.Response, body []byte) {
	g.Helper()
	where := fmt.Sprintf("%s %s: %d %s", method, path, resp.StatusCode, body)
	response := g.doc.Components.Responses["Problem"].Value
	if item := g.doc.Paths.Find(template(path)); item != nil && item.GetOperation(method) != nil {
		responses := item.GetOperation(method).Responses
		if r := responses.Status(resp.StatusCode); r != nil {
			response = r.Value
		} else if resp.StatusCode < 400 {
			g.Fatalf("%s: this status is not described", where)
		}
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	media := response.Content.Get(kind)
	if media == nil {
		if len(response.Content) > 0 || len(body) > 0 {
			g.Fatalf("%s: content type %q is not described", where, kind)
		}
		return
	}
	if !strings.HasSuffix(kind, "json") {
		return
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		g.Fatalf("%s: %v", where, err)
	}
	if err := media.Schema.Value.VisitJSON(v, openapi3.MultiErrors()); err != nil {
		g.Fatalf("%s: %v", where, err)
	}
}

// template is the path of the description that a path belongs to.
func template(path string) string {
	if strings.HasPrefix(path, "/v1/workloads/") {
		return "/v1/workloads/{container_id}/{interface}"
	}
	return path
}

// TestAnswers asks for everything once, with every field filled.
func TestAnswers(t *testing.T) {
	g := newRig(t, 0)
	const one = "/v1/workloads/abc/eth0"
	var beforeDelete time.Time
	full := `{"name":"ns/a","network":"n","netns":"/run/netns/a","ipv6":["2001:db8::1","2001:db8::2"],"pool":"default","ports":1000,"address":"198.51.100.1","extra_ports":[443]}`
	for _, c := range []struct {
		method, target, body string
		status               int
		want                 string // in the answer
	}{
		{"GET", "/v1/health", "", 200, `{"ready":true}`},
		{"GET", "/v1/status", "", 200, `"verdicts":{"forward4":3}`},
		{"PUT", one, full, 200, `"address":"198.51.100.1","ports":[{"first":443,"last":443},{"first":1024,"last":2047}]`},
		{"PUT", one, full, 200, `"violations":7`},
		{"PUT", "/v1/workloads/def/eth0", `{"ipv6":["2001:db8::3"],"pool":"dedicated"}`, 200, `"address":"203.0.113.0","since"`},
		{"GET", one, "", 200, `"prefix":"64:ff9b::/96"`},
		{"GET", "/v1/workloads", "", 200, `"container_id":"def"`},
		{"GET", "/v1/workloads?limit=1", "", 200, `"next":"abc/eth0"`},
		{"GET", "/v1/workloads?limit=1&after=abc/eth0", "", 200, `{"workloads":[{"container_id":"def"`},
		{"GET", "/v1/workloads?address=2001:db8::3", "", 200, `{"workloads":[{"container_id":"def"`},
		{"PUT", "/v1/workloads/ghi/eth0", `{"name":"ns/c","ipv6":["2001:db8::9"],"host_interface":"veth1","inside":"inside","ports":1}`, 200, `"inside":{"address":"198.51.100.`},
		{"GET", "/v1/workloads/ghi/eth0", "", 200, `"inside":{"address":"198.51.100.`},
		{"GET", "/v1/owners?address=2001:db8::9", "", 200, `"inside":true`},
		{"DELETE", "/v1/workloads/ghi/eth0", "", 204, ""},
		{"GET", "/v1/workloads?name=nobody", "", 200, `{"workloads":[]}`},
		{"GET", "/v1/whois?address=198.51.100.1:443", "", 200, `"name":"ns/a"`},
		{"GET", "/v1/pools", "", 200, `"ports_used":1025`},
		{"GET", "/v1/explain?packet=a+b", "", 200, `"packet":"a b"`},
		{"POST", "/v1/reload", "", 200, `"at":`},
		{"GET", "/v1/openapi.yaml", "", 200, "openapi: 3"},
		{"DELETE", one, "", 204, ""},
		{"GET", "/v1/whois?address=198.51.100.1:443&at=NOW", "", 200, `"until"`},
	} {
		if c.method == "DELETE" {
			beforeDelete = time.Now()
		}
		c.target = strings.Replace(c.target, "NOW", beforeDelete.UTC().Format(time.RFC3339Nano), 1)
		status, body := g.ask(c.method, c.target, c.body)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s\nwant %d %s", c.method, c.target, status, body, c.status, c.want)
		}
	}
}

// TestProblems: each has its code and names the field.
func TestProblems(t *testing.T) {
	g := newRig(t, 0)
	put := func(body string) [3]string { return [3]string{"PUT", "/v1/workloads/abc/eth0", body} }
	get := func(target string) [3]string { return [3]string{"GET", target, ""} }
	for _, body := range []string{`{"ipv6":["2001:db8::1"],"address":"203.0.113.1"}`} {
		if status, answer := g.ask("PUT", "/v1/workloads/owner/eth0", body); status != 200 {
			t.Fatal(answer)
		}
	}
	for _, c := range []struct {
		ask    [3]string
		status int
		code   api.Code
		field  string
	}{
		{put(``), 400, api.CodeInvalid, "body"},
		{put(`[]`), 400, api.CodeInvalid, "body"},
		{put(`{} {}`), 400, api.CodeInvalid, "body"},
		{put(`{}`), 400, api.CodeInvalid, "ipv6"},
		{put(`{"ipv6":"2001:db8::2"}`), 400, api.CodeInvalid, "ipv6"},
		{put(`{"ipv6":["2001:db8::2","x"]}`), 400, api.CodeInvalid, "ipv6[1]"},
		{put(`{"ipv6":["2001:db8::2",7]}`), 400, api.CodeInvalid, "ipv6[1]"},
		{put(`{"ipv6":["192.0.2.1"]}`), 400, api.CodeInvalid, "ipv6[0]"},
		{put(`{"ipv6":["2001:db8::2"],"ports":"many"}`), 400, api.CodeInvalid, "ports"},
		{put(`{"ipv6":["2001:db8::2"],"ports":1.5}`), 400, api.CodeInvalid, "ports"},
		{put(`{"ipv6":["2001:db8::2"],"ports":65537}`), 400, api.CodeInvalid, "ports"},
		{put(`{"ipv6":["2001:db8::2"],"extra_ports":[443,65536]}`), 400, api.CodeInvalid, "extra_ports[1]"},
		{put(`{"ipv6":["2001:db8::2"],"address":"x"}`), 400, api.CodeInvalid, "address"},
		{put(`{"ipv6":["2001:db8::2"],"address":"192.0.2.1"}`), 400, api.CodeInvalid, "address"},
		{put(`{"ipv6":["2001:db8::2"],"pool":"x"}`), 400, api.CodeInvalid, "pool"},
		{put(`{"ipv6":["2001:db8::2"],"netns":"x"}`), 400, api.CodeInvalid, "netns"},
		{put(`{"ipv6":["2001:db8::2"],"name":7}`), 400, api.CodeInvalid, "name"},
		{put(`{"ipv6":["2001:db8::2"],"network":{}}`), 400, api.CodeInvalid, "network"},
		{put(`{"ipv6":["2001:db8::2"],"inside":true}`), 400, api.CodeInvalid, "inside"},
		{put(`{"ipv6":["2001:db8::2"],"inside":"outside"}`), 400, api.CodeInvalid, "inside"},
		{put(`{"ipv6":["2001:db8::2"],"inside":"inside"}`), 501, api.CodeNoInside, "inside"}, // without the host's end of its link
		{put(`{"ipv6":["2001:db8::2"],"colour":1}`), 400, api.CodeInvalid, "colour"},
		{[3]string{"PUT", "/v1/workloads/a%2Fb/eth0", `{"ipv6":["2001:db8::2"]}`}, 400, api.CodeInvalid, "container_id"},
		{[3]string{"PUT", "/v1/workloads/abc/an-interface-too-long", `{"ipv6":["2001:db8::2"]}`}, 400, api.CodeInvalid, "interface"},
		{put(`{"ipv6":["2001:db8::1"]}`), 409, api.CodeConflict, "ipv6[0]"},
		{put(`{"ipv6":["2001:db8::2"],"address":"203.0.113.1"}`), 409, api.CodeConflict, "address"},
		{put(`{"ipv6":["2001:db8::2"],"ports":30000,"extra_ports":[40000]}`), 507, api.CodeExhausted, ""},
		{put(`{"name":"` + strings.Repeat("x", maxBody) + `"}`), 413, api.CodeTooLarge, ""},
		{get("/v1/workloads/nobody/eth0"), 404, api.CodeNotFound, ""},
		{[3]string{"DELETE", "/v1/workloads/nobody/eth0", ""}, 404, api.CodeNotFound, ""},
		{get("/v1/workloads?limit=0"), 400, api.CodeInvalid, "limit"},
		{get("/v1/workloads?address=x"), 400, api.CodeInvalid, "address"},
		{get("/v1/workloads?colour=x"), 400, api.CodeInvalid, "colour"},
		{get("/v1/workloads?name=x&name=y"), 400, api.CodeInvalid, "name"},
		{get("/v1/workloads?name=%zz"), 400, api.CodeInvalid, "query"},
		{get("/v1/whois"), 400, api.CodeInvalid, "address"},
		{get("/v1/whois?address=192.0.2.1"), 400, api.CodeInvalid, "address"},
		{get("/v1/whois?address=192.0.2.1:99999"), 400, api.CodeInvalid, "address"},
		{get("/v1/whois?address=192.0.2.1:9&at=yesterday"), 400, api.CodeInvalid, "at"},
		{get("/v1/whois?address=192.0.2.1:9&at=9999-01-01T00:00:00Z"), 400, api.CodeInvalid, "at"},
		{get("/v1/whois?address=192.0.2.1:9"), 404, api.CodeNotFound, ""},
		{get("/v1/explain"), 400, api.CodeInvalid, "packet"},
		{get("/v1/explain?packet=nonsense"), 400, api.CodeInvalid, "packet"},
		{get("/v1/explain?packet=" + strings.Repeat("x", maxPacket+1)), 400, api.CodeInvalid, "packet"},
		{get("/v1/nothing"), 404, api.CodeNotFound, ""},
		{get("/v2/status"), 404, api.CodeNotFound, ""},
		{get("/v1/reload"), 405, api.CodeMethodNotAllowed, ""},
		{[3]string{"POST", "/v1/workloads/abc/eth0", ""}, 405, api.CodeMethodNotAllowed, ""},
	} {
		status, body := g.ask(c.ask[0], c.ask[1], c.ask[2])
		var p api.Problem
		json.Unmarshal([]byte(body), &p)
		if status != c.status || p.Code != c.code || p.Field != c.field || p.Detail == "" || p.Status != status {
			t.Errorf("%.150s: %d %s\nwant %d %s %s", c.ask, status, body, c.status, c.code, c.field)
		}
	}
	g.wrong = errors.New("config: line 3: prefix: is wrong")
	if _, err := g.client.Reload(t.Context()); !errors.Is(err, &api.Problem{Code: api.CodeReloadRefused}) || err.Error() != g.wrong.Error() {
		t.Errorf("refused reload: %v", err)
	}
	g.ready.Store(false)
	if _, err := g.client.Get(t.Context(), api.Key{ContainerID: "a", Interface: "b"}); !errors.Is(err, api.ErrStarting) {
		t.Errorf("before it is ready: %v", err)
	}
	if err := g.client.Health(t.Context()); !errors.Is(err, api.ErrStarting) {
		t.Errorf("health before it is ready: %v", err)
	}
	if _, err := g.client.Status(t.Context()); err != nil {
		t.Errorf("status before it is ready: %v", err)
	}
}

// TestClient goes through all that the client can ask.
func TestClient(t *testing.T) {
	g := newRig(t, 0)
	ctx, c := t.Context(), g.client
	var keys []api.Key
	for n := range 3 {
		k := api.Key{ContainerID: fmt.Sprintf("c.%d", n), Interface: "eth0"}
		w, err := c.Put(ctx, k, api.Request{IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n+1))}, Network: "n"})
		if err != nil || w.Key != k || !w.Address.Is4() || w.Run().Size() != 16384 {
			t.Fatalf("put: %+v, %v", w, err)
		}
		keys = append(keys, k)
		if got, err := c.Get(ctx, k); err != nil || got.Address != w.Address || got.Since.IsZero() {
			t.Errorf("get: %+v, %v", got, err)
		}
		if o, err := c.Whois(ctx, netip.AddrPortFrom(w.Address, w.Ports.Min()), time.Time{}); err != nil || o.Key != k {
			t.Errorf("whois: %+v, %v", o, err)
		}
	}
	if all, err := c.List(ctx, api.Filter{Network: "n"}); err != nil || len(all) != 3 || all[2].Key != keys[2] {
		t.Errorf("list: %v, %v", all, err)
	}
	if pools, err := c.Pools(ctx); err != nil || len(pools) != 2 || pools[0].Workloads != 3 {
		t.Errorf("pools: %+v, %v", pools, err)
	}
	if s, err := c.Status(ctx); err != nil || s.Device.Name != "natless0" {
		t.Errorf("status: %+v, %v", s, err)
	}
	if e, err := c.Explain(ctx, "x & y?"); err != nil || e.Packet != "x & y?" {
		t.Errorf("explain: %+v, %v", e, err)
	}
	if r, err := c.Reload(ctx); err != nil || r.At.IsZero() {
		t.Errorf("reload: %+v, %v", r, err)
	}
	if err := c.Health(ctx); err != nil {
		t.Error(err)
	}
	for _, want := range []error{nil, api.ErrNotFound} {
		if err := c.Delete(ctx, keys[0]); !errors.Is(err, want) {
			t.Errorf("delete: %v, want %v", err, want)
		}
	}
	gone := api.NewClient(filepath.Join(t.TempDir(), "none"))
	if err := gone.Health(ctx); !errors.Is(err, api.ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no daemon: %v", err)
	}
}
