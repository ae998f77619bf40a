//go:build linux

package ipfix

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/netstack/flows"
)

func exporter(t *testing.T, transport, address string) (e *Exporter, stop func()) {
	t.Helper()
	e = New(Config{Transport: transport, Address: address, Serial: func(any) uint64 { return 0 },
		Owners: func() iter.Seq[Owner] { return func(func(Owner) bool) {} }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return e, func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("it does not end")
		}
	}
}

// A collector that is absent, or takes nothing, costs no time and a bounded number of
// records; all are counted.
func TestBadCollectors(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp4", "127.0.0.1:0") // whose connections nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct{ transport, address string }{
		{"tcp", silent.Addr().String()}, {"tcp", closed.Addr().String()}, {"udp", closed.Addr().String()},
		{"tls", silent.Addr().String()}, {"tcp", "no.such.host.invalid:4739"},
	} {
		t.Run(c.transport+" "+c.address, func(t *testing.T) {
			t.Parallel()
			e, stop := exporter(t, c.transport, c.address)
			const batches, size = 600, 512
			began := time.Now()
			for range batches {
				e.Put(make([]flows.Record, size))
				e.Tell(Event{Owner: Owner{IPv6: netip.IPv6Loopback(), IPv4: netip.AddrFrom4([4]byte{198, 51, 100, 1})}})
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("records waited for %v", took)
			}
			if c.transport == "udp" {
				return // where nobody can tell what has come to somebody
			}
			s := e.Status()
			if waiting := batches*size - int(s.Dropped) - int(s.Written); waiting > 257*size || waiting < 0 {
				t.Errorf("%+v: %d wait", s, waiting)
			}
			stop()
		})
	}
}

// What was put before the end is sent before it.
func TestRestIsSent(t *testing.T) {
	t.Parallel()
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e, stop := exporter(t, "udp", l.LocalAddr().String())
	b := make([]byte, 65536)
	templates := map[uint16][]field{}
	next := func() map[uint16][]map[field][]byte {
		l.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, _, err := l.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		records, _ := read(t, b[:n], templates)
		return records
	}
	next()
	e.Put(make([]flows.Record, 30))
	stop()
	for got := 0; got < 30; {
		got += len(next()[templateFlow])
	}
	if s := e.Status(); s.Written != 30 || s.State != "ok" {
		t.Errorf("%+v", s)
	}
}
