//go:build linux

package fastpath

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
)

// hosts is a workload, a host with the fast path and nothing else, and a server
// that knows IPv4 alone: what the fast path does not carry does not arrive.
type hosts struct {
	workload, host, server *netns.NS
	fast                   *FastPath
}

func newHosts(t *testing.T) *hosts {
	netns.Require(t, netns.Root, "ip", "sysctl")
	h := &hosts{netns.New(t, "workload"), netns.New(t, "host"), netns.New(t, "server"), loaded(t)}
	netns.Veth(t, h.workload, "eth0", h.host, "work")
	netns.Veth(t, h.server, "eth0", h.host, "uplink")
	h.host.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	h.host.IP("addr add 2001:db8:6::1/64 dev work")
	h.host.IP("addr add 192.0.2.1/24 dev uplink")
	h.workload.IP("addr add 2001:db8:6::2/64 dev eth0")
	h.workload.IP("route add default via 2001:db8:6::1")
	h.server.IP("addr add 192.0.2.2/24 dev eth0")
	h.server.IP("route add default via 192.0.2.1")
	var work, uplink *net.Interface
	var err error
	h.host.Do(func() {
		if work, err = net.InterfaceByName("work"); err == nil {
			uplink, err = net.InterfaceByName("uplink")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tables := tables(t, "64:ff9b::/96", mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")})
	tables.Interface = func(mapping.Mapping) int { return work.Index }
	if err := h.fast.Replace(tables); err != nil {
		t.Fatal(err)
	}
	h.host.Do(func() {
		for index, program := range map[int]*ebpf.Program{uplink.Index: h.fast.Uplink, work.Index: h.fast.Workload} {
			l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { l.Close() })
		}
	})
	return h
}

// TestTCP sends data there and back over a connection of the kernel's.
func TestTCP(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	var listener net.Listener
	var err error
	h.server.Do(func() { listener, err = net.Listen("tcp4", "192.0.2.2:80") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	data := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{6}).Read(data)
	var back []byte
	h.workload.Do(func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp6", "[64:ff9b::192.0.2.2]:80", 10*time.Second); err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(60 * time.Second))
		go func() {
			conn.Write(data)
			conn.(*net.TCPConn).CloseWrite()
		}()
		back, err = io.ReadAll(conn)
	})
	if err != nil || !bytes.Equal(back, data) {
		t.Fatalf("%d bytes came back of %d, or others: %v", len(back), len(data), err)
	}
	h.whole(t)
}

// whole wants packets, on average, to have been longer than any MTU.
func (h *hosts) whole(t *testing.T) {
	t.Helper()
	c, err := h.fast.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for way, n := range map[string]Count{"6→4": c.Workload[Translated], "4→6": c.Uplink[Translated]} {
		t.Logf("%s: %d packets, %d bytes", way, n.Packets, n.Bytes)
		if n.Packets == 0 {
			t.Errorf("%s: nothing was translated", way)
		}
	}
	if n := c.Workload[Translated]; n.Bytes < 3000*n.Packets {
		t.Error("superpackets did not stay whole")
	}
}

// TestUDP sends datagrams by UDP_SEGMENT: the kernel hands them over in one
// superpacket, and they arrive one by one.
func TestUDP(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	var server, client net.PacketConn
	var err error
	h.server.Do(func() { server, err = net.ListenPacket("udp4", "192.0.2.2:53") })
	if err == nil {
		h.workload.Do(func() { client, err = segmenting("udp6", "[2001:db8:6::2]:5353") })
	}
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	defer client.Close()
	data := make([]byte, 30*segmentSize-77)
	rand.NewChaCha8([32]byte{7}).Read(data)
	for range 20 {
		if _, err := client.WriteTo(data, &net.UDPAddr{IP: net.ParseIP("64:ff9b::192.0.2.2"), Port: 53}); err != nil {
			t.Fatal(err)
		}
		if err := receive(server, data); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, 100)
	if _, err := server.WriteTo(answer, &net.UDPAddr{IP: net.IPv4(198, 51, 100, 2), Port: 5353}); err != nil {
		t.Fatal(err)
	}
	if err := receive(client, answer); err != nil {
		t.Fatal(err)
	}
	h.whole(t)
}

const segmentSize = 1200

func segmenting(network, address string) (net.PacketConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segmentSize)
		}), err)
	}}
	return config.ListenPacket(context.Background(), network, address)
}

// receive wants data to arrive in datagrams, in order.
func receive(c net.PacketConn, data []byte) error {
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 65536)
	for at := 0; at < len(data); {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return fmt.Errorf("after %d bytes of %d: %w", at, len(data), err)
		}
		if want := data[at:min(at+segmentSize, len(data))]; !bytes.Equal(b[:n], want) {
			return fmt.Errorf("at %d came another datagram, of %d bytes", at, n)
		}
		at += n
	}
	return nil
}
