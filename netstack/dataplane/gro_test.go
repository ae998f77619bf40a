//go:build linux

package dataplane_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/natless/natless/netstack/gro"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/tests/netns"
)

// write writes a file of /sys as it is in the namespace.
func write(t *testing.T, ns *netns.NS, file, value string) {
	t.Helper()
	if out, err := exec.Command("ip", "netns", "exec", ns.Name, "sh", "-c", "echo "+value+" >"+file).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", file, err, out)
	}
}

// Small datagrams of a burst pass in superpackets, and arrive as they were.
func TestSmallDatagramsBecomeSuperpackets(t *testing.T) {
	netns.Require(t, "ethtool")
	n := newTopology(t, tun.Config{}, nil)
	if !n.plane.Device().Offloads().USO {
		t.Skip("the kernel offers no UDP segmentation offload to TUN (Linux 6.2)")
	}
	ctx, cancel := context.WithCancel(t.Context())
	task := gro.New(gro.Config{Interfaces: []string{"w6", "s4"}, Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go n.x.Do(func() { done <- task.Run(ctx) })
	<-task.Ready()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	// A veth is polled for each packet that its peer sends; a network card's
	// bursts come of themselves.
	for _, device := range []string{"w6", "s4"} {
		write(t, n.x, "/sys/class/net/"+device+"/gro_flush_timeout", "1000000")
	}
	for _, way := range n.ways() {
		server, port := listenUDP(t, way.to)
		server.SetReadBuffer(8 << 20)
		client := dial(t, way.from, "udp", net.JoinHostPort(way.address, port)).(*net.UDPConn)
		before := n.plane.Snapshot().Superpackets
		const count = 2000
		for i := range count {
			client.Write(fmt.Appendf(nil, "datagram %4d", i))
		}
		buffer, got := make([]byte, 2048), 0
		for ; got < count; got++ {
			server.SetReadDeadline(time.Now().Add(time.Second))
			size, err := server.Read(buffer)
			if err != nil {
				break
			}
			if size != 13 || !bytes.HasPrefix(buffer, []byte("datagram ")) {
				t.Fatalf("%v: got %q", way.direction, buffer[:size])
			}
		}
		if super := n.plane.Snapshot().Superpackets - before; super == 0 || got < count/2 {
			t.Errorf("%v: %d of %d datagrams arrived, %d superpackets", way.direction, got, count, super)
		}
	}
}
