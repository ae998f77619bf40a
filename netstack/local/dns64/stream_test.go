package dns64

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/natless/natless/tests/netns"
)

// slow answers names that begin with "slow" after a time, and others at once.
func slow(t testing.TB, after time.Duration, records ...string) *scripted {
	z := zone(t, records...)
	return script(t, func(q *dns.Msg, network string) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "slow") {
			time.Sleep(after)
		}
		return z(q, network)
	})
}

// TestPipelining is RFC 7766 6.2.1.1: a quick answer overtakes a slow one, and
// each comes with its query's identifier.
func TestPipelining(t *testing.T) {
	u := slow(t, 600*time.Millisecond, "slow.test. 300 A 192.0.2.1", "quick.test. 300 A 192.0.2.2")
	_, at := start(t, Config{Upstreams: []netip.AddrPort{u.AddrPort}}, wellKnown, Options{})
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &dns.Conn{Conn: conn}
	ids := map[uint16]string{}
	for _, name := range []string{"slow.test.", "quick.test."} {
		q := query(name, dns.TypeA)
		ids[q.Id] = name
		if err := c.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"quick.test.", "slow.test."} {
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		r, err := c.ReadMsg()
		if err != nil || ids[r.Id] != want || len(r.Answer) != 1 || r.Answer[0].Header().Name != want {
			t.Fatalf("%v %v, want %s", r, err, want)
		}
	}
}

// TestPipelineIsBounded: as many queries as one likes on one connection, nobody
// reading: they wait in the connection, not here. Read, each has its answer.
func TestPipelineIsBounded(t *testing.T) {
	u := misbehaving(t, behaviour{udp: func(*dns.Msg) [][]byte { return nil }})
	s, at := start(t, Config{Upstreams: []netip.AddrPort{u.AddrPort}}, wellKnown, Options{Timeout: 400 * time.Millisecond})
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const count = 2 * maxPipelined
	for i := range count {
		p := packed(query(fmt.Sprintf("d%d.test.", i), dns.TypeA))
		conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
	}
	time.Sleep(200 * time.Millisecond)
	if n := s.InProgress(); n != maxPipelined {
		t.Errorf("%d queries of one connection under way, want %d", n, maxPipelined)
	}
	c := &dns.Conn{Conn: conn}
	for range count {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if r, err := c.ReadMsg(); err != nil || r.Rcode != dns.RcodeServerFailure {
			t.Fatal(r, err)
		}
	}
}

// TestDigPipelines: glibc's habit, A and AAAA at once on one TCP connection, and
// dig's with several questions on one.
func TestDigPipelines(t *testing.T) {
	netns.Require(t, "dig")
	recursive, _ := unbounds(t, "64:ff9b::/96")
	_, at := start(t, Config{Upstreams: []netip.AddrPort{recursive}}, wellKnown, Options{})
	args := []string{"@" + at.Addr().String(), "-p", fmt.Sprint(at.Port()), "+tcp", "+keepopen", "+short"}
	for range 20 {
		args = append(args, "v4only.natless.test", "A", "v4only.natless.test", "AAAA", "big.natless.test", "TXT")
	}
	out, err := exec.Command("dig", args...).CombinedOutput()
	if n := strings.Count(string(out), "64:ff9b::c000:221"); err != nil || n != 20 {
		t.Errorf("%d answers of 20: %v\n%s", n, err, out)
	}
}

// TestStreamsAreKept: what is cut is asked for over one TCP connection again and
// again (RFC 7766 6.2.1), also when the other end has closed it meanwhile.
func TestStreamsAreKept(t *testing.T) {
	z := zone(t, "a.test. 1 A 192.0.2.1")
	good := func(q *dns.Msg) [][]byte { return [][]byte{packed(z(q, ""))} }
	cut := func(q *dns.Msg) [][]byte {
		r := z(q, "")
		r.Truncated = true
		return [][]byte{packed(r)}
	}
	u := misbehaving(t, behaviour{cut, good})
	s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}, Cache: -1}, wellKnown, Options{})
	defer s.Close()
	for range 10 {
		if got := lines(ask(t, s, query("a.test.", dns.TypeA), "udp")); got != "NOERROR; 1 A 192.0.2.1" {
			t.Fatal(got)
		}
	}
	if n := u.streams.Load(); n != 1 || s.Stats.Reused.Load() != 9 {
		t.Errorf("%d connections for 10 questions, %d times kept", n, s.Stats.Reused.Load())
	}
	s.settings.Load().upstreams()[0].streams.idle[0].Conn.(*net.TCPConn).CloseWrite() // the other end takes it for the end
	if got := lines(ask(t, s, query("a.test.", dns.TypeA), "udp")); got != "NOERROR; 1 A 192.0.2.1" {
		t.Error("after the connection was closed: ", got)
	}
	if n := u.streams.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// TestShutdown: with all that it may have under way, a server ends at once.
func TestShutdown(t *testing.T) {
	u := misbehaving(t, behaviour{udp: func(*dns.Msg) [][]byte { return nil }})
	at := freePort(t)
	pc, err := net.ListenPacket("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}}, wellKnown, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, pc, ln) }()
	a := newAsker(t, "127.0.0.1", at)
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 500 {
		p := packed(query(fmt.Sprintf("d%d.test.", i), dns.TypeAAAA))
		a.Write(p)
		if i < maxPipelined {
			conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
		}
	}
	for deadline := time.Now().Add(2 * time.Second); s.Asking() < 50 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("took %v", took)
	}
	if s.InProgress()+s.Asking() > 0 {
		t.Errorf("%d queries and %d questions are left", s.InProgress(), s.Asking())
	}
}
