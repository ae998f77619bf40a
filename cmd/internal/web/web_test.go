package web

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server on a port of its own, until the test ends.
func start(t *testing.T, h http.Handler) (s *Server, url string) {
	t.Helper()
	s = New(netip.MustParseAddrPort("127.0.0.1:0"), h, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(grace + time.Second):
			t.Error("it does not end")
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s, "http://" + s.Addr().String()
}

func ask(t *testing.T, method, url string) (status int, body string) {
	t.Helper()
	q, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestOnlyReading(t *testing.T) {
	asked := 0
	_, url := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked++; io.WriteString(w, "here") }))
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		if status, _ := ask(t, method, url); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: status %d", method, status)
		}
	}
	if asked != 0 {
		t.Errorf("the handler was asked %d times", asked)
	}
	if status, body := ask(t, "GET", url); status != 200 || body != "here" {
		t.Errorf("GET: %d %q", status, body)
	}
	if status, body := ask(t, "HEAD", url); status != 200 || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
}

// An answer under way, and a client that says nothing, do not keep it from
// ending (see start's cleanup).
func TestEndsInTime(t *testing.T) {
	s, url := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go http.Get(url)
	time.Sleep(50 * time.Millisecond)
}

func TestListenErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for address, want := range map[string]string{
		l.Addr().String(): "another program listens there",
		"192.0.2.77:9464": "this host does not have the address",
	} {
		err := New(netip.MustParseAddrPort(address), http.NotFoundHandler(), slog.New(slog.DiscardHandler)).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "metrics.listen") || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}
