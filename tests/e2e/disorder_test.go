//go:build linux

package e2e

import (
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// disorder sends what a router forwards through this process, which loses one
// packet in 2000 and lets others overtake one in 100.
type disorder struct {
	tun                 *os.File
	passed, lost, moved int
	done                chan struct{}
}

func newDisorder(t *testing.T, ns *netns.NS) *disorder {
	t.Helper()
	d := &disorder{done: make(chan struct{})}
	var err error
	ns.Do(func() { d.tun, err = openTun("disorder") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.tun.Close()
		<-d.done
		t.Logf("%d packets passed, %d lost, %d overtaken", d.passed, d.lost, d.moved)
	})
	ns.IP("link set disorder up mtu 1500")
	ns.IP("-6 route add default dev disorder table 100")
	ns.IP("-6 rule add pref 10 iif disorder lookup main")
	for _, in := range []string{"w2", "host"} {
		ns.IP("-6 rule add pref 20 iif " + in + " lookup 100")
	}
	go d.run()
	return d
}

// openTun opens a device without offloads: the kernel cuts superpackets.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (d *disorder) run() {
	defer close(d.done)
	random := rand.New(rand.NewPCG(1, 2))
	var held []byte // overtaken by as many packets as wait says
	wait := 0
	packet := make([]byte, 65536)
	for {
		d.tun.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		n, err := d.tun.Read(packet)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			n, wait = 0, 0
		case err != nil:
			return
		case random.IntN(2000) == 0:
			d.lost++
			continue
		case held == nil && random.IntN(100) == 0:
			held, wait = append([]byte(nil), packet[:n]...), 1+random.IntN(20)
			d.moved++
			continue
		}
		if n > 0 {
			d.tun.Write(packet[:n])
			d.passed++
			wait--
		}
		if held != nil && wait <= 0 {
			d.tun.Write(held)
			d.passed++
			held = nil
		}
	}
}

var disordered = flag.Int64("disordered", 64, "`MB` that TestTransferThroughDisorder moves; make soak moves 1024")

// Kernel TCP carries much data, both directions together, through loss, disorder and a
// link of 1400 bytes.
func TestTransferThroughDisorder(t *testing.T) {
	netns.Require(t, netns.Root)
	n := newTopology(t)
	d := newDisorder(t, n.gate)
	streams := []*load.Stream{load.StartStream(t, n.w2, n.server, serverv6), load.StartStream(t, n.server, n.w2, workload2v4)}
	start := time.Now()
	within(t, 5*time.Minute, "what is to be moved", func() bool { return streams[0].Written()+streams[1].Written() >= *disordered<<20 })
	for _, s := range streams {
		s.Finish()
		t.Logf("%d MB in %v", s.Written()>>20, time.Since(start).Round(time.Second))
	}
	if d.lost < 10 || d.moved < 100 {
		t.Errorf("only %d lost and %d overtaken", d.lost, d.moved)
	}
}
