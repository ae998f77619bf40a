package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// scrape asks for metrics as Prometheus does, on a connection of its own from an
// address of loopback.
func scrape(t *testing.T, s *Server, from string) {
	t.Helper()
	began := time.Now()
	c := dial(t, s, from, 0)
	c.SetDeadline(began.Add(patient))
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("scrape after %v: %v", time.Since(began), err)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 || len(body) != bodySize {
		t.Errorf("scrape: %d, %d bytes, %v", r.StatusCode, len(body), err)
	}
	c.Close()
}

// patient is how long something may take on a machine that has much to do.
const patient = 20 * time.Second

// dial connects from an address of loopback, with a buffer for what it reads of so
// many bytes, or an ordinary one.
func dial(t *testing.T, s *Server, from string, buffer int) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	if buffer > 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, buffer) })
		}
	}
	c, err := d.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// bodySize is that of a scrape; bigSize is more than the buffers of a connection
// hold.
const bodySize, bigSize = 50 << 10, 1 << 20

// bodies answers with one of them, or the other to those who ask so.
func bodies() http.Handler {
	big := make([]byte, bigSize)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "big" {
			w.Write(big)
			return
		}
		w.Write(big[:bodySize])
	})
}

// TestScrapeGetsIn: whatever others do with their connections, from one address
// or from many, a scrape gets in at once, from theirs as well.
func TestScrapeGetsIn(t *testing.T) {
	for name, hostile := range map[string]string{
		"silent":       "",
		"half a line":  "GET /met",
		"slow header":  "GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: ",
		"huge header":  "GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 2*maxHeader),
		"slow readers": "GET /metrics HTTP/1.1\r\nHost: big\r\n\r\n",
		"slow pages":   "GET / HTTP/1.1\r\nHost: big\r\n\r\n",
		"slow body":    "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"idle":         "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
		"pipelined":    strings.Repeat("GET /metrics HTTP/1.1\r\nHost: big\r\n\r\n", 5),
		"no HTTP":      "\x16\x03\x01\x02\x00\x01\x00",
	} {
		for _, addresses := range []int{1, 300} {
			t.Run(fmt.Sprint(name, " from ", addresses), func(t *testing.T) {
				s, _ := start(t, bodies())
				n := connections + 44
				if strings.Contains(hostile, "Host: big") {
					n = 3 * unread // each costs the server an answer
				}
				for i := range n {
					c := dial(t, s, fmt.Sprintf("127.0.%d.%d", i%addresses/250+1, i%addresses%250+1), 4096)
					io.WriteString(c, hostile)
				}
				for _, from := range []string{"127.9.9.9", "127.0.1.1"} {
					scrape(t, s, from)
				}
				if n := s.connections.Len(); n > connections {
					t.Errorf("%d connections are open", n)
				}
				for end := time.Now().Add(patient); name == "slow readers" && s.Stats().Unread == 0; time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("all who did not read were served to the end")
					}
				}
			})
		}
	}
}

// TestIdleGoesFirst: who goes on asking on one connection keeps it while others
// open many.
func TestIdleGoesFirst(t *testing.T) {
	s, _ := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
	c := dial(t, s, "127.9.9.9", 0)
	r := bufio.NewReader(c)
	for range 3 * connections {
		dial(t, s, "127.0.1.1", 0)
	}
	for range 3 {
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, a.Body)
	}
	for end := time.Now().Add(10 * time.Second); s.Stats().Evicted < 2*connections; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections were closed for others", s.Stats().Evicted)
		}
	}
}

// TestBoundedConcurrency: few are answered at a time, of one source fewer; the
// others wait for their turn, and who waits too long is told so.
func TestBoundedConcurrency(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	s, _ := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		now--
		mu.Unlock()
		w.Write(make([]byte, bodySize))
	}))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() { scrape(t, s, fmt.Sprintf("127.0.0.%d", i%2+1)) })
	}
	wg.Wait()
	if most > scrapes {
		t.Errorf("%d at a time", most)
	}
	d := newDoor(http.NotFoundHandler())
	d.scrapes.AtOnce = 0
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", "/metrics", nil)
	if _, _, ok := d.answer(r, nil, netip.Prefix{}); ok || d.scrapes.Refused() != 1 {
		t.Error("a turn where there is none")
	}
}

// TestPanics: a handler that panics costs its request alone.
func TestPanics(t *testing.T) {
	s := New(netip.AddrPort{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") }), slog.New(slog.DiscardHandler))
	for range 3 * (concurrent + scrapes) {
		func() {
			defer func() { recover() }()
			r, _ := http.NewRequestWithContext(t.Context(), "GET", "/metrics", nil)
			s.door.answer(r, nil, netip.Prefix{})
		}()
	}
	if end, ok := s.door.scrapes.Try(netip.Prefix{}); !ok {
		t.Error("a panic keeps its turn")
	} else {
		end()
	}
}
