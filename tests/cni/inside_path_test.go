//go:build linux

package cni

import (
	"fmt"

	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// way is one of those that TestInsidePath compares.
type way struct {
	name     string
	from, to *netns.NS
	address  string
	port     int
	sender   int // sockets
	receiver int
	took     []float64
	against  string
	failed   int
}

// TestInsidePath takes the processor's time, in one thread, of all that becomes of a
// packet from the one socket to the other. Ways take turns every millisecond and few of
// each are looked at, those of the moments when nobody else was in the way: it says the
// same on a machine that does much else. What it does not see is what several processors
// make of it, for which there is TestInsideFigures.
func TestInsidePath(t *testing.T) {
	if *figures == 0 {
		t.Skip("-figures says how many hundred turns")
	}
	n := place(t, "ptp", insidePool, 0)
	kernel := kernelPods(t, n.node)
	a, b, six := int(n.wa.Run().First), int(n.wb.Run().First), int(n.wsix.Run().First)
	ways := func(port int) []*way {
		return []*way{
			{name: "out, kernel", from: kernel[0], to: n.server, address: serverIPv4, port: 7001 + port},
			{name: "out, inside", from: n.a.NS, to: n.server, address: serverIPv4, port: 7002 + port, against: "out, kernel"},
			{name: "out, 6→4", from: n.six.NS, to: n.server, address: server6, port: 7003 + port, against: "out, kernel"},
			{name: "in, kernel", from: n.server, to: kernel[0], address: "10.77.0.2", port: 7004 + port},
			{name: "in, inside", from: n.server, to: n.a.NS, address: n.wa.Address.String(), port: a + 100 + port, against: "in, kernel"},
			{name: "in, 4→6", from: n.server, to: n.six.NS, address: n.wsix.Address.String(), port: six + 100 + port, against: "in, kernel"},
			{name: "between, kernel", from: kernel[0], to: kernel[1], address: "10.77.1.2", port: 7005 + port},
			{name: "between, inside", from: n.a.NS, to: n.b.NS, address: n.wb.Address.String(), port: b + 100 + port, against: "between, kernel"},
		}
	}
	runtime.LockOSThread() // whose time it is
	defer runtime.UnlockOSThread()
	turns(t, "UDP, 18 bytes, ns a packet", ways(0), unix.SOCK_DGRAM, func(w *way) float64 { return w.datagrams(200) })
	turns(t, "TCP, ns for 64 KiB", ways(10), unix.SOCK_STREAM, func(w *way) float64 { return w.stream(1 << 20) })
}

// turns has the ways take turns, and prints what they took.
func turns(t *testing.T, what string, ways []*way, kind int, once func(*way) float64) {
	for _, w := range ways {
		if err := w.open(kind); err != nil {
			t.Fatalf("%s, %s: %v", what, w.name, err)
		}
		defer unix.Close(w.sender)
		defer unix.Close(w.receiver)
	}
	for turn := range 100**figures + 10 {
		for _, w := range ways {
			if took := once(w); turn >= 10 { // routes and neighbours are known by then
				w.took = append(w.took, took)
			}
		}
	}
	fmt.Println(what)
	best := map[string]float64{}
	for _, w := range ways {
		slices.Sort(w.took)
		best[w.name] = w.took[len(w.took)/20]
		line := fmt.Sprintf("  %-16s %6.0f (quarter %6.0f, half %6.0f)", w.name, best[w.name], w.took[len(w.took)/4], w.took[len(w.took)/2])
		if w.against != "" {
			line += fmt.Sprintf("  kernel / this: %.2f", best[w.against]/best[w.name])
		}
		fmt.Println(line)
		if 2*w.failed > len(w.took) { // a turn now and then is another thread's to end
			t.Errorf("%s, %s: %d of its %d turns came to nothing", what, w.name, w.failed, len(w.took))
		}
	}
}

// open makes the sockets: an AF_INET6 one hears IPv4, too.
func (w *way) open(kind int) (err error) {
	listener := -1
	w.to.Do(func() {
		if listener, err = unix.Socket(unix.AF_INET6, kind, 0); err != nil {
			return
		}
		if err = unix.Bind(listener, &unix.SockaddrInet6{Port: w.port}); err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(listener, 1)
		}
	})
	if err != nil {
		return err
	}
	w.from.Do(func() { err = w.dial(kind) })
	if err != nil {
		return err
	}
	w.receiver = listener
	if kind == unix.SOCK_STREAM {
		w.receiver, _, err = unix.Accept(listener)
		unix.Close(listener)
	}
	for _, s := range []int{w.sender, w.receiver} {
		if err == nil {
			err = unix.SetNonblock(s, true)
		}
	}
	return err
}

func (w *way) dial(kind int) (err error) {
	ip, err := netip.ParseAddr(w.address)
	if err != nil {
		return err
	}
	if ip.Is4() {
		if w.sender, err = unix.Socket(unix.AF_INET, kind, 0); err == nil {
			err = unix.Connect(w.sender, &unix.SockaddrInet4{Port: w.port, Addr: ip.As4()})
		}
		return err
	}
	if w.sender, err = unix.Socket(unix.AF_INET6, kind, 0); err == nil {
		err = unix.Connect(w.sender, &unix.SockaddrInet6{Port: w.port, Addr: ip.As16()})
	}
	return err
}

// used is the time that this thread has used.
func used() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// datagrams sends some, and is what each took. All that is done for one is done before
// the next, up to the queue of the other socket.
func (w *way) datagrams(n int) float64 {
	buffer, here := make([]byte, 18), 0
	began := used()
	for range n {
		unix.Write(w.sender, buffer)
	}
	took := used() - began
	for {
		if _, err := unix.Read(w.receiver, buffer); err != nil {
			break
		}
		here++
	}
	if here == 0 {
		w.failed++
	}
	return float64(took) / float64(n)
}

// stream sends n bytes and reads them, and is what 64 KiB took.
func (w *way) stream(n int) float64 {
	const most = 1 << 16
	buffer := make([]byte, most)
	began := used()
	end := time.Now().Add(10 * time.Second)
	for sent, read := 0, 0; read < n; {
		if sent < n {
			if m, err := unix.Write(w.sender, buffer[:min(most, n-sent)]); err == nil {
				sent += m
			}
		}
		if m, err := unix.Read(w.receiver, buffer); err == nil {
			read += m
		} else if time.Now().After(end) {
			w.failed++
			break
		}
	}
	return float64(used()-began) * most / float64(n)
}
