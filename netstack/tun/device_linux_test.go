package tun

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
)

// eachIO runs a test with every way to read and write.
func eachIO(t *testing.T, test func(t *testing.T, io IO)) {
	for _, io := range []IO{Plain, Uring} {
		t.Run(string(io), func(t *testing.T) { test(t, io) })
	}
}

// flush makes a queue write what it was given.
func flush(t *testing.T, q Queue) {
	t.Helper()
	u, ok := q.(*uringQueue)
	if !ok {
		return
	}
	if !u.enabled {
		if err := u.enable(); err != nil {
			t.Fatal(err)
		}
	}
	u.ring.enter(u.writes, true)
	u.reap()
}

func open(t *testing.T, ns *netns.NS, c Config) (d *Device, err error) {
	t.Helper()
	ns.Do(func() { d, err = Open(c) })
	if err == nil {
		t.Cleanup(func() { d.Close() })
	}
	return d, err
}

func mustOpen(t *testing.T, ns *netns.NS, c Config) *Device {
	t.Helper()
	d, err := open(t, ns, c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// reflect answers every packet with itself, its addresses exchanged, until the
// device stops: who connects to a neighbour's address reaches himself. seen
// counts superpackets.
func reflect(d *Device) (stop func() (seen int, err error)) {
	type result struct {
		seen int
		err  error
	}
	results := make(chan result)
	for _, q := range d.Queues() {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var r result
			for {
				packets, _, err := q.Read()
				if err != nil {
					r.err = err
					results <- r
					return
				}
				for _, p := range packets {
					if p.GSOType != translator.GSONone {
						r.seen++
					}
					swap(p.Bytes())
				}
				q.Write(packets)
			}
		}()
	}
	return func() (int, error) {
		d.Stop()
		var sum result
		for range d.Queues() {
			r := <-results
			sum.seen += r.seen
			if !errors.Is(r.err, ErrStopped) {
				sum.err = r.err
			}
		}
		return sum.seen, sum.err
	}
}

// giveBack takes packets for read.
func giveBack(q Queue, packets []*translator.Packet) {
	for _, p := range packets {
		p.End = p.Start
	}
	q.Write(packets)
}

func swap(b []byte) {
	from, size := 12, 4
	if b[0]>>4 == 6 {
		from, size = 8, 16
	}
	for i := from; i < from+size; i++ {
		b[i], b[i+size] = b[i+size], b[i]
	}
}

func up(ns *netns.NS, name string) {
	ns.IP("link set " + name + " up mtu 1500")
	ns.IP("addr add 192.0.2.1/24 dev " + name)
	ns.IP("addr add 2001:db8::1/64 dev " + name)
}

func TestTCPThroughTheDevice(t *testing.T) { eachIO(t, testTCPThroughTheDevice) }

func testTCPThroughTheDevice(t *testing.T, io IO) {
	for _, queues := range []int{1, 2} {
		for _, neighbour := range []string{"192.0.2.2", "2001:db8::2"} {
			t.Run(fmt.Sprintf("%d queues, %s", queues, neighbour), func(t *testing.T) {
				ns := netns.New(t, "x")
				d := mustOpen(t, ns, Config{Name: "natless0", IO: io, Queues: queues})
				up(ns, "natless0")
				stop := reflect(d)
				transfer(t, ns, neighbour, 64<<20)
				seen, err := stop()
				if err != nil || seen < 100 {
					t.Errorf("%d superpackets, %v", seen, err)
				}
				var stats Stats
				for _, q := range d.Queues() {
					q.Counters().AddTo(&stats)
				}
				if stats.Segmented != 0 || stats.WriteErrors != nil {
					t.Errorf("the kernel refused packets: %+v", stats)
				}
			})
		}
	}
}

// transfer sends bytes to the address over TCP and compares their hash.
func transfer(t *testing.T, ns *netns.NS, address string, size int64) {
	t.Helper()
	var (
		l    net.Listener
		conn net.Conn
		err  error
	)
	ns.Do(func() { l, err = net.Listen("tcp", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sums := make(chan []byte, 1)
	go func() {
		hash := sha256.New()
		if c, err := l.Accept(); err == nil {
			io.Copy(hash, c)
			c.Close()
		}
		sums <- hash.Sum(nil)
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ns.Do(func() { conn, err = net.DialTimeout("tcp", net.JoinHostPort(address, port), 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	hash, block := sha256.New(), random(1<<20)
	for sent := int64(0); sent < size; sent += int64(len(block)) {
		block[0]++
		hash.Write(block)
		if _, err := conn.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close()
	if got, want := <-sums, hash.Sum(nil); string(got) != string(want) {
		t.Error("what arrived is not what was sent")
	}
}

// Without a reader the queue fills: the kernel's drops must be told.
func TestLinkStatsCountDrops(t *testing.T) {
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0"})
	ns.IP("link set natless0 txqueuelen 10")
	up(ns, "natless0")
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.Dial("udp", "192.0.2.2:9") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 100 {
		conn.Write([]byte("x"))
	}
	stats, err := d.LinkStats()
	if err != nil || stats.TxDropped < 80 {
		t.Errorf("%d drops, %v", stats.TxDropped, err)
	}
	d.Close()
	if _, err := d.LinkStats(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// Buffers that the kernel may still write to are not the collector's.
func TestUringFailureKeepsBuffers(t *testing.T) {
	d := mustOpen(t, netns.New(t, "a"), Config{Name: "natless0", IO: Uring})
	q := d.queues[0].(*uringQueue)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the ring is the thread's
		if err := q.enable(); err != nil {
			done <- err
			return
		}
		q.read(&q.intakes[atBulk])
		if errno := q.ring.enter(0, false); errno != 0 {
			done <- errno
			return
		}
		ring := q.ring.fd
		q.ring.fd = -1 // from now on enter fails
		q.finish()
		q.ring.fd = ring
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(abandoned.queues, q) {
		t.Error("nobody keeps the buffers")
	}
}

func TestDeletedDevice(t *testing.T) { eachIO(t, testDeletedDevice) }

func testDeletedDevice(t *testing.T, io IO) {
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0", IO: io, Queues: 2})
	up(ns, "natless0")
	errs := make(chan error)
	for _, q := range d.Queues() {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for {
				packets, _, err := q.Read()
				if err != nil {
					errs <- err
					return
				}
				giveBack(q, packets)
			}
		}()
	}
	time.Sleep(50 * time.Millisecond)
	detached := func() bool { return d.queues[0].(interface{ detached() bool }).detached() }
	if detached() {
		t.Error("a device that is there is taken for one that has gone")
	}
	ns.IP("link del natless0")
	if !detached() {
		t.Error("a read that ends with another error would end the dataplane")
	}
	for range 2 {
		select {
		case err := <-errs:
			if !errors.Is(err, ErrGone) {
				t.Errorf("got %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nobody noticed")
		}
	}
	d.Close()
	mustOpen(t, ns, Config{Name: "natless0", IO: io, Queues: 2})
}

// An idle queue sleeps: nothing wakes its thread, and a stop is seen at once.
func TestIdleQueueSleepsAndStopsAtOnce(t *testing.T) { eachIO(t, testIdleQueueSleepsAndStopsAtOnce) }

func testIdleQueueSleepsAndStopsAtOnce(t *testing.T, io IO) {
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0", IO: io})
	threads := make(chan int, 1)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		threads <- unix.Gettid()
		_, _, err := d.Queues()[0].Read()
		done <- err
	}()
	thread := <-threads
	time.Sleep(100 * time.Millisecond)
	before := switches(t, thread)
	time.Sleep(500 * time.Millisecond)
	if after := switches(t, thread); after != before {
		t.Errorf("thread was woken while idle: %s, then %s", before, after)
	}
	start := time.Now()
	d.Stop()
	if err := <-done; !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("stop took %v", took)
	}
}

func switches(t *testing.T, thread int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", thread))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "voluntary_ctxt_switches:")
	return strings.Join(strings.Fields(after), " ")
}

// The kernel takes no UDP superpacket without a checksum to complete, and no
// segment size of 0xffff; both arrive all the same.
func TestRefusedSuperpacketsAreSegmented(t *testing.T) {
	eachIO(t, testRefusedSuperpacketsAreSegmented)
}

func testRefusedSuperpacketsAreSegmented(t *testing.T, io IO) {
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0", IO: io})
	up(ns, "natless0")
	ns.IP("route add local 192.0.2.2 dev lo")
	var conn net.PacketConn
	var err error
	ns.Do(func() { conn, err = net.ListenPacket("udp4", "192.0.2.2:443") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	q := d.Queues()[0]
	send := func(write func(p *translator.Packet)) {
		p := superpacket(t, false, &layers.UDP{SrcPort: 1000, DstPort: 443}, random(2500), translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: 1000})
		p.Flags = 0
		copy(p.Bytes()[12:], []byte{192, 0, 2, 7}) // on the device's link: reverse path filters agree
		ip := header.IPv4(p.Bytes())
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		write(p)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	send(func(p *translator.Packet) {
		mine := q.Buffer()
		mine.End, mine.Offload = mine.Start+copy(mine.Buf[mine.Start:], p.Bytes()), p.Offload
		q.Write([]*translator.Packet{mine})
		flush(t, q)
	})
	send(func(p *translator.Packet) {
		if err := d.Inject(p); err != nil {
			t.Error(err)
		}
	})
	for _, want := range []int{1000, 1000, 500, 1000, 1000, 500} {
		buffer := make([]byte, 2000)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, _, err := conn.ReadFrom(buffer); err != nil || n != want {
			t.Fatalf("datagram of %d bytes, want %d: %v", n, want, err)
		}
	}
	if n := q.Counters().Segmented.Load(); n != 1 {
		t.Errorf("%d retries counted", n)
	}
}

func TestWriteErrorsAreCounted(t *testing.T) { eachIO(t, testWriteErrorsAreCounted) }

func testWriteErrorsAreCounted(t *testing.T, io IO) {
	ns := netns.New(t, "x")
	q := mustOpen(t, ns, Config{Name: "natless0", IO: io}).Queues()[0]
	p := q.Buffer()
	p.End = p.Start + copy(p.Buf[p.Start:], superpacket(t, false, &layers.UDP{SrcPort: 1, DstPort: 2}, random(10), translator.Offload{}).Bytes())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	q.Write([]*translator.Packet{p}) // the device is down
	flush(t, q)
	var stats Stats
	q.Counters().AddTo(&stats)
	if stats.WriteErrors[unix.EIO] != 1 {
		t.Errorf("got %+v", stats)
	}
}

// Nothing is allocated for a packet.
func TestNoAllocations(t *testing.T) { eachIO(t, testNoAllocations) }

func testNoAllocations(t *testing.T, io IO) {
	ns := netns.New(t, "x")
	d := mustOpen(t, ns, Config{Name: "natless0", IO: io})
	up(ns, "natless0")
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.Dial("udp", "192.0.2.2:9") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	q, payload := d.Queues()[0], []byte("x")
	if n := testing.AllocsPerRun(200, func() {
		conn.Write(payload)
		for {
			packets, _, err := q.Read()
			if err != nil {
				t.Fatal(err)
			}
			udp := false
			for _, p := range packets {
				udp = udp || p.Buf[p.Start]>>4 == 4
			}
			q.Write(packets)
			if udp {
				return
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A stop that comes late writes to no descriptor that has become another's.
func TestStopAfterClose(t *testing.T) {
	d := mustOpen(t, netns.New(t, "a"), Config{Name: "natless0", IO: Plain})
	wake := d.queues[0].(*plainQueue).wake
	d.Close()
	other, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	if other != wake {
		if err := unix.Dup3(other, wake, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(wake)
	}
	d.Stop()
	if n, err := unix.Read(other, make([]byte, 8)); err != unix.EAGAIN {
		t.Errorf("read %d bytes that Stop wrote, %v", n, err)
	}
}

// A stop is seen although Write has already reaped what announced it.
func TestUringStopReapedByWrite(t *testing.T) {
	d := mustOpen(t, netns.New(t, "a"), Config{Name: "natless0", IO: Uring})
	q := d.queues[0].(*uringQueue)
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := q.enable(); err != nil {
			result <- err
			return
		}
		d.Stop()
		for range 2 * uringEntries { // the ring is full once, and both it and the wake-up are reaped
			p := q.Buffer()
			p.End = p.Start + 1 // no IP packet: refused and counted
			q.Write([]*translator.Packet{p})
		}
		_, _, err := q.Read()
		result <- err
	}()
	select {
	case err := <-result:
		if !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Read sleeps")
	}
}
