package tun

import (
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
)

// readers read every queue until the device stops, and tell which queue the
// UDP packets of IPv4 came to.
func readers(t *testing.T, d *Device) <-chan int {
	t.Helper()
	seen, ended := make(chan int, 1000), make(chan struct{})
	for i, q := range d.Queues() {
		go func() {
			defer func() { ended <- struct{}{} }()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for {
				packets, _, err := q.Read()
				if err != nil {
					return
				}
				for _, p := range packets {
					if p.Bytes()[0]>>4 == 4 {
						seen <- i
					}
				}
				giveBack(q, packets)
			}
		}()
	}
	t.Cleanup(func() {
		d.Stop()
		for range d.Queues() {
			<-ended
		}
	})
	return seen
}

// onCPU runs f on a CPU.
func onCPU(t *testing.T, cpu int, f func()) {
	t.Helper()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(cpu)
		err := unix.SchedSetaffinity(0, &set)
		if err == nil {
			f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// A packet comes to the queue of its CPU, or so many further.
func TestSteering(t *testing.T) { eachIO(t, testSteering) }

func testSteering(t *testing.T, io IO) {
	if runtime.NumCPU() < 2 {
		t.Skip("with one CPU there is nothing to tell apart")
	}
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0", IO: io, Queues: 2})
	if !d.Steers() {
		t.Fatal("there is no steering program: this test needs the right to load BPF programs")
	}
	up(ns, "natless0")
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.Dial("udp", "192.0.2.2:9") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	seen := readers(t, d)
	for _, shift := range []int{0, 1, 0, 3} {
		if err := d.Steer(shift); err != nil {
			t.Fatal(err)
		}
		for cpu := range 2 {
			onCPU(t, cpu, func() {
				for range 20 {
					conn.Write([]byte("x"))
				}
			})
			for range 20 {
				select {
				case queue := <-seen:
					if want := (cpu + shift) % 2; queue != want {
						t.Fatalf("shift %d: what CPU %d sent came to queue %d", shift, cpu, queue)
					}
				case <-time.After(5 * time.Second):
					t.Fatalf("shift %d: what CPU %d sent did not come", shift, cpu)
				}
			}
		}
	}
}

// Queues keep a share of GOMAXPROCS while they wait briefly. Whether they just
// got a packet or have been idle, they are in nobody's way who stops the world.
func TestWaitingQueuesDoNotHoldUpTheCollector(t *testing.T) {
	eachIO(t, testWaitingQueuesDoNotHoldUpTheCollector)
}

func testWaitingQueuesDoNotHoldUpTheCollector(t *testing.T, io IO) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0", IO: io, Queues: 2})
	up(ns, "natless0")
	var conns [4]net.Conn
	var err error
	ns.Do(func() {
		for i := range conns {
			if conns[i], err = net.Dial("udp", fmt.Sprintf("192.0.2.%d:9", 2+i)); err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := readers(t, d)
	for _, busy := range []bool{false, true} {
		var worst time.Duration
		for range 20 {
			for _, c := range conns {
				if busy {
					c.Write([]byte("x"))
				}
			}
			start := time.Now()
			runtime.GC()
			worst = max(worst, time.Since(start))
			for len(seen) > 0 {
				<-seen
			}
		}
		t.Logf("busy %v: the longest of 20 collections took %v", busy, worst)
		if worst > time.Second { // a queue that does not let go holds it up for good
			t.Errorf("busy %v: a collection took %v", busy, worst)
		}
	}
	for _, c := range conns {
		c.Close()
	}
}
