//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// dead is an upstream that knows every name but those that begin with "dead",
// about which it says nothing.
func dead(t *testing.T, ns *netns.NS, at string) {
	t.Helper()
	var pc net.PacketConn
	var err error
	ns.Do(func() { pc, err = net.ListenPacket("udp", at) })
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w dns.ResponseWriter, q *dns.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "dead") {
			return
		}
		r := new(dns.Msg).SetReply(q)
		soa, _ := dns.NewRR("test. 300 SOA ns.test. h.test. 1 1 1 1 300")
		r.Ns = []dns.RR{soa}
		if q.Question[0].Qtype == dns.TypeA {
			a := &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 2)}
			r.Answer, r.Ns = []dns.RR{a}, nil
		}
		w.WriteMsg(r)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(answer)}
	go s.ActivateAndServe()
	t.Cleanup(func() { s.Shutdown() })
}

// TestNamesBesideFlood: one workload asks for 2,500 dead names a second; the other
// has every name it asks for, at once.
func TestNamesBesideFlood(t *testing.T) {
	daemon.OnePath(t, "what is for the translator itself is always answered by the daemon")
	netns.Require(t, netns.Root)
	n := newTopology(t, `dns64: {enabled: true, upstreams: ["192.0.2.2:5353"]}`)
	dead(t, n.server, "192.0.2.2:5353")
	dial := func(ns *netns.NS) (c net.Conn) {
		var err error
		ns.Do(func() { c, err = net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(own6), 53).String()) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	flood, stop, sent := dial(n.w2), make(chan struct{}), atomic.Int64{}
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				for range 5 {
					q, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("dead%d.test.", sent.Add(1)), dns.TypeAAAA).Pack()
					flood.Write(q)
				}
			}
		}
	}()
	time.Sleep(300 * time.Millisecond)
	c := &dns.Conn{Conn: dial(n.w1)}
	var slowest time.Duration
	for i := range 300 {
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.test.", i/2), dns.TypeAAAA) // new, then known
		began := time.Now()
		r, _, err := (&dns.Client{Timeout: 2 * time.Second}).ExchangeWithConn(q, c)
		if err != nil || len(r.Answer) != 1 {
			t.Errorf("query %d: %v %v", i, r, err)
		}
		slowest = max(slowest, time.Since(began))
	}
	close(stop)
	t.Logf("300 of 300 beside %d dead names, the slowest after %v", sent.Load(), slowest)
}
