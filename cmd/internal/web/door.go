package web

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/netip"

	"github.com/natless/natless/translator/budget"
	"github.com/natless/natless/translator/budget/admit"
)

// door lets few requests in at a time, and none that would change anything.
// Answers are made whole before the first byte of them is sent, so that who takes
// them slowly holds up nobody.
type door struct {
	next    http.Handler
	scrapes budget.Turns[netip.Prefix] // of /metrics: pages do not keep a scrape waiting
	others  budget.Turns[netip.Prefix]
	unread  budget.Room[netip.Prefix]
	serve   func(context.Context) (done func()) // says that a connection is not idle
}

func newDoor(next http.Handler) *door {
	return &door{
		next:    next,
		scrapes: budget.Turns[netip.Prefix]{AtOnce: scrapes, Each: 1},
		others:  budget.Turns[netip.Prefix]{AtOnce: concurrent, Each: perSource},
		unread:  budget.Room[netip.Prefix]{Most: unread, Least: takeTime},
	}
}

type connKey struct{}

// withConn remembers the connection of a request, and bounds what the kernel keeps
// for one who does not read.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetWriteBuffer(sendBuffer)
	}
	return context.WithValue(ctx, connKey{}, c)
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "there is nothing to change here: GET only", http.StatusMethodNotAllowed)
		return
	}
	conn := r.Context().Value(connKey{}).(net.Conn)
	source := admit.Source(conn.RemoteAddr())
	a, g, ok := d.answer(r, conn, source)
	if !ok {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests are being answered: try again", http.StatusServiceUnavailable)
		return
	}
	if g == nil {
		return
	}
	defer g.Leave()
	a.send(w, func() { g.Serve()(); d.serve(r.Context())() })
}

// answer makes the answer when its turn has come, and finds room for it; false
// where its turn did not come in time.
func (d *door) answer(r *http.Request, conn net.Conn, source netip.Prefix) (*answer, *budget.Guest[netip.Prefix], bool) {
	turns := &d.others
	if r.URL.Path == "/metrics" {
		turns = &d.scrapes
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	end, err := turns.Wait(ctx, source)
	if err != nil {
		return nil, nil, false
	}
	defer end()
	defer d.serve(r.Context())()
	a := &answer{header: http.Header{}}
	d.next.ServeHTTP(a, r)
	return a, d.unread.Enter(source, func() { conn.Close() }), true
}

const (
	sendPart   = 16 << 10
	sendBuffer = 128 << 10
)

// answer is one that is being made.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// send calls taken whenever a part is on its way: who takes what he asked for is
// not the one who goes.
func (a *answer) send(w http.ResponseWriter, taken func()) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(max(a.status, http.StatusOK))
	for a.body.Len() > 0 {
		taken()
		if _, err := w.Write(a.body.Next(sendPart)); err != nil {
			return // who left does not hear it
		}
	}
}
