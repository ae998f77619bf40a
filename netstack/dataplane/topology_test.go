//go:build linux

package dataplane_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Addresses of the topology: workload w6 – host x with the dataplane – server s4.
const (
	workload6 = "2001:db8:6::2"
	workload4 = "198.51.100.2"
	server4   = "192.0.2.2"
	server6   = "2001:db8:64::192.0.2.2"
	own4      = "198.51.100.1"
	own6      = "2001:db8:1::1"
)

// eachIO runs a test with every way to read and write.
func eachIO(t *testing.T, test func(t *testing.T, io tun.IO)) {
	for _, io := range []tun.IO{tun.Plain, tun.Uring} {
		t.Run(string(io), func(t *testing.T) { test(t, io) })
	}
}

type topology struct {
	t         *testing.T
	w6, x, s4 *netns.NS
	plane     *dataplane.Dataplane
	inside    *dataplane.Dataplane // of IPv4 inside
	stop      func() error         // ends Run and gives its error

	translator *translator.Translator
}

// newTopology builds the three namespaces and runs a dataplane in the middle.
func newTopology(t *testing.T, c tun.Config, local dataplane.Local) *topology {
	t.Helper()
	c.Name = "natless0"
	n := &topology{t: t, w6: netns.New(t, "w6"), x: netns.New(t, "x"), s4: netns.New(t, "s4")}
	netns.Veth(t, n.w6, "eth0", n.x, "w6")
	netns.Veth(t, n.s4, "eth0", n.x, "s4")
	n.x.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	n.x.IP("addr add 2001:db8:6::1/64 dev w6")
	n.x.IP("addr add 192.0.2.1/24 dev s4")
	n.w6.IP("addr add " + workload6 + "/64 dev eth0")
	n.w6.IP("route add default via 2001:db8:6::1")
	n.s4.IP("addr add " + server4 + "/24 dev eth0")
	n.s4.IP("route add default via 192.0.2.1")

	tr := newTranslator(t)
	n.translator = tr
	n.plane = dataplane.New(dataplane.Config{Translator: tr, Local: local, PerMapping: true, Open: func() (d *tun.Device, err error) {
		n.x.Do(func() { d, err = tun.Open(c) })
		return d, err
	}})
	n.inside = dataplane.New(dataplane.Config{Translator: tr, Local: local, PerMapping: true, Inside: true, FirstQueue: max(c.Queues, 1),
		Open: func() (*tun.Device, error) { return openTAP(n.x, c) }})
	n.plane.Pair(n.inside)
	n.run()
	n.route()
	return n
}

func newTranslator(t *testing.T) *translator.Translator {
	t.Helper()
	table, err := mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix(workload6 + "/128"), IPv4: netip.MustParsePrefix(workload4 + "/32")}})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: netip.MustParseAddr(own4), IPv6: netip.MustParseAddr(own6)}, table)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func (n *topology) run() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	both, done := make(chan error, 2), make(chan error, 1)
	pair := []*dataplane.Dataplane{n.plane, n.inside}
	for _, plane := range pair {
		go func() { both <- plane.Run(ctx) }()
	}
	for _, plane := range pair {
		select {
		case <-plane.Ready():
		case err := <-both:
			n.t.Fatal(err)
		}
	}
	go func() { done <- errors.Join(<-both, <-both) }()
	n.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	n.t.Cleanup(func() {
		if err := n.stop(); err != nil {
			n.t.Error(err)
		}
	})
}

// route does what netstack/route does for a daemon.
func (n *topology) route() {
	n.t.Helper()
	n.x.IP("link set natless0 up mtu 1500")
	n.x.IP("route add 2001:db8:64::/96 dev natless0")
	n.x.IP("route add " + own6 + " dev natless0")
	n.x.IP("route add 198.51.100.0/24 dev natless0")
}

// listenTCP accepts one connection in ns and hashes what comes.
func listenTCP(t *testing.T, ns *netns.NS) (port string, sum <-chan [32]byte) {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	sums := make(chan [32]byte, 1)
	go func() {
		hash := sha256.New()
		if c, err := l.Accept(); err == nil {
			io.Copy(hash, c)
			c.Close()
		}
		sums <- [32]byte(hash.Sum(nil))
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, sums
}

func dial(t *testing.T, ns *netns.NS, network, address string) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.DialTimeout(network, address, 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func listenUDP(t *testing.T, ns *netns.NS) (*net.UDPConn, string) {
	t.Helper()
	var conn net.PacketConn
	var err error
	ns.Do(func() { conn, err = net.ListenPacket("udp", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	return conn.(*net.UDPConn), port
}
