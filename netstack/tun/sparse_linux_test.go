package tun

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/regenerate"
)

// sender sends UDP from a port of its own to 192.0.2.2, or to another's address, on one CPU.
type sender struct {
	t    *testing.T
	conn net.Conn
	sent uint32
}

func newSender(t *testing.T, ns *netns.NS, to string) *sender {
	t.Helper()
	s := &sender{t: t}
	var err error
	ns.Do(func() { s.conn, err = net.Dial("udp", to) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	return s
}

// send sends datagrams that are numbered.
func (s *sender) send(count, size int) {
	s.t.Helper()
	onCPU(s.t, 0, func() {
		for range count {
			s.sent++
			s.conn.Write(binary.BigEndian.AppendUint32(make([]byte, 0, size), s.sent)[:size])
		}
	})
}

// waiting is how many packets wait in each of the kernel's queues of a device that
// nobody reads; they are read.
func waiting(t *testing.T, d *Device) (n []int) {
	t.Helper()
	frame := make([]byte, 1<<17)
	for _, fd := range d.Descriptors() {
		count := 0
		for {
			_, err := unix.Preadv2(fd, [][]byte{frame}, -1, unix.RWF_NOWAIT)
			if err != nil {
				break
			}
			count++
		}
		n = append(n, count)
	}
	return n
}

func sparseDevice(t *testing.T, io IO, queues int, tap bool) (*netns.NS, *Device) {
	t.Helper()
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0", IO: io, Queues: queues, Sparse: true, TAP: tap})
	if !d.Steers() {
		t.Fatal("there is no steering program: this test needs the right to load BPF programs")
	}
	up(ns, "natless0")
	for _, neighbour := range []string{"192.0.2.2", "192.0.2.3"} {
		ns.Run("ip", "neigh", "replace", neighbour, "lladdr", "02:00:00:00:00:02", "dev", "natless0")
	}
	ns.Run("sysctl", "-qw", "net.ipv6.conf.natless0.disable_ipv6=1") // it sends of its own accord
	waiting(t, d)
	return ns, d
}

// A flow that sends little has the second half of the queues, and one that sends much
// the first half, until it has been calm for a while. Others are not touched by it.
func TestSparse(t *testing.T) {
	for _, tap := range []bool{false, true} {
		for _, queues := range []int{1, 2} {
			ns, d := sparseDevice(t, Plain, queues, tap)
			want := func(what string, bulk, sparse int) {
				t.Helper()
				expected := make([]int, 2*queues)
				expected[0], expected[queues] = bulk, sparse
				for i, n := range waiting(t, d) {
					if n != expected[i] {
						t.Fatalf("TAP %v, %d queues, %s: %d packets in queue %d of the kernel's, want %v", tap, queues, what, n, i, expected)
					}
				}
			}
			little, much := newSender(t, ns, "192.0.2.2:9"), newSender(t, ns, "192.0.2.2:10")
			little.send(2, 64)
			want("little", 0, 2)
			// Over 16 KiB an epoch, whenever it begins. A pause of this process calms it.
			for try := 0; ; try++ {
				much.send(100, 1400)
				bulk := waiting(t, d)[0]
				much.send(1, 64)
				if one := waiting(t, d); bulk >= 60 && one[0] == 1 {
					break
				}
				if try == 20 {
					t.Fatalf("TAP %v, %d queues: of 100 packets that are much, %d are bulk", tap, queues, bulk)
				}
			}
			little.send(1, 64)
			want("little beside it", 0, 1)
			time.Sleep(150 * time.Millisecond)
			much.send(1, 64)
			want("after a calm while", 0, 1)
		}
	}
}

// Whoever sends from many ports does not come before everybody's bulk with all of that,
// and one that was bulk and goes on is so until it pauses. Packets are large, so that
// a slow machine sends enough in an epoch.
func TestSparseCrowd(t *testing.T) {
	ns, d := sparseDevice(t, Plain, 1, false)
	ns.Run("ip", "link", "set", "natless0", "mtu", "9000")
	senders := make([]*sender, 60)
	for i := range senders {
		senders[i] = newSender(t, ns, "192.0.2.2:9")
	}
	for try := 0; ; try++ {
		for _, s := range senders {
			s.conn.Write(make([]byte, 8000))
		}
		if n := waiting(t, d); n[1] < n[0] {
			break
		} else if try == 20 { // a pause of this process calms them
			t.Fatalf("of %d packets of as many flows %d are bulk", len(senders), n[0])
		}
	}
	const others = 3 // one in seventy has the hash of one of the crowd
	for range others {
		newSender(t, ns, "192.0.2.3:9").send(1, 64)
	}
	if n := waiting(t, d); n[1] < others-1 {
		t.Errorf("%d packets of another host's, as many flows: %v", others, n)
	}
}

// What a flow sends comes in its order, also where it becomes bulk in the middle, and
// bulk does not wait for ever for flows that send little.
func TestSparseKeepsOrder(t *testing.T) { eachIO(t, testSparseKeepsOrder) }

func testSparseKeepsOrder(t *testing.T, io IO) {
	ns, d := sparseDevice(t, io, 1, false)
	s := newSender(t, ns, "192.0.2.2:9")
	got := make(chan uint32, 1<<16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		q := d.Queues()[0]
		for {
			packets, _, err := q.Read()
			if err != nil {
				return
			}
			for _, p := range packets {
				if b := p.Bytes(); len(b) >= 32 {
					got <- binary.BigEndian.Uint32(b[28:])
				}
			}
			giveBack(q, packets)
		}
	}()
	defer func() { d.Stop(); <-ended }()
	var last uint32
	for range 10 {
		s.send(3, 100)   // sparse
		s.send(30, 1400) // becomes bulk
		for last != s.sent {
			select {
			case n := <-got:
				if n != last+1 {
					t.Fatalf("datagram %d after %d", n, last)
				}
				last = n
			case <-time.After(10 * time.Second):
				t.Fatalf("datagram %d of %d was the last to come", last, s.sent)
			}
		}
		time.Sleep(120 * time.Millisecond) // calm
	}
}

// TestGenerated generates the Go code and the objects again.
func TestGenerated(t *testing.T) { regenerate.Compare(t, "steer_linux.go") }

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}
