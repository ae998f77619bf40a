package tun

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator"
)

// busyFor is how long Open waits, unless it is told otherwise, for a device that
// another process holds: a killed predecessor's descriptors are closed a moment
// after its death.
const busyFor = time.Second

// Config is what a device is made from.
type Config struct {
	Name     string        // "natless0"
	Queues   int           // 0: 1
	Sparse   bool          // flows that send little have the way to each queue for themselves
	IO       IO            // how packets are read and written
	Patience time.Duration // with a device that another process holds; 0: a second
	Adopt    []int         // descriptors of a predecessor's queues, which are ours from now on; see inherit
	Disown   func()        // called where these are not what is asked for, before a device is made; may be nil
	TAP      bool          // packets have Ethernet headers
}

// IO is a way to read and write packets.
type IO string

// The ways. Both behave alike.
const (
	Auto  IO = ""         // io_uring where the kernel has and allows it, else plain
	Plain IO = "plain"    // one system call for each packet
	Uring IO = "io_uring" // system calls for batches; Linux 6.4
)

// Offloads is what the kernel agreed to.
type Offloads struct {
	TSO bool // TCP superpackets, with ECN
	USO bool // UDP superpackets; Linux 6.2
}

// Device is an open TUN device or TAP. It goes away when it is closed, and with the
// process, unless it was there before as a persistent one.
type Device struct {
	name     string
	index    int
	link     int // size of a packet's link header
	offloads Offloads
	io       IO
	queues   []queue
	steering *steering       // nil where there is none
	netlink  *netlink.Handle // in the namespace that the device was opened in

	inherited bool

	mu     sync.RWMutex // guards descriptors and netlink against Close while others use them
	closed bool
	inject injector
}

// Open makes the device in the calling thread's network namespace, or adopts a
// persistent one of that name that nobody holds.
func Open(c Config) (*Device, error) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil && !c.TAP {
		return nil, &MissingError{"IPv6", "load the kernel module ipv6, or boot without ipv6.disable=1", err}
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("device %s: netlink: %w", c.Name, err)
	}
	d := &Device{name: c.Name, netlink: handle}
	if c.TAP {
		d.link = LinkLen
	}
	if err := d.open(c); err != nil {
		d.Close()
		return nil, fmt.Errorf("device %s: %w", c.Name, err)
	}
	return d, nil
}

func (d *Device) open(c Config) error {
	if c.files() > 1 { // without it the kernel goes by flows, which works too
		d.steering, _ = newSteering(c)
	}
	if d.steering == nil {
		c.Sparse = false
	}
	if err := d.attachAll(c); err != nil {
		return err
	}
	if d.steering != nil && d.steering.attach(d.queues[0].files()[0]) != nil {
		d.steering.close()
		d.steering = nil
	}
	if err := d.setOffloads(); err != nil {
		return err
	}
	link, err := d.netlink.LinkByName(d.name)
	if err != nil {
		return fmt.Errorf("find it: %w", err)
	}
	d.index = link.Attrs().Index
	if c.TAP {
		return nil
	}
	return d.requireIPv6()
}

// count is the number of queues.
func (c *Config) count() int { return max(c.Queues, 1) }

// files is how many queues the kernel has for them.
func (c *Config) files() int {
	if c.Sparse {
		return 2 * c.count()
	}
	return c.count()
}

// attachAll opens the descriptors: one for each queue, and behind them, where sparse
// flows have their own, as many more.
func (d *Device) attachAll(c Config) error {
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if c.TAP {
		flags ^= unix.IFF_TUN | unix.IFF_TAP
	}
	if c.files() > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	fds, err := d.inherit(c, flags)
	if err == nil && fds == nil {
		fds, err = d.attachNew(c, flags)
	}
	for i := 0; err == nil && i < c.count(); i++ {
		fd, sparse := fds[i], -1
		fds[i] = -1
		if c.Sparse {
			sparse, fds[c.count()+i] = fds[c.count()+i], -1
		}
		err = d.addQueue(fd, sparse, c.IO)
	}
	if err != nil {
		closeAll(fds)
	}
	return err
}

// attachNew opens new descriptors.
func (d *Device) attachNew(c Config, flags uint16) (fds []int, err error) {
	fd, err := d.attachFirst(flags, cmp.Or(c.Patience, busyFor))
	for ; err == nil; fd, err = d.attach(flags) {
		if fds = append(fds, fd); len(fds) == c.files() {
			return fds, nil
		}
	}
	return fds, err
}

// closeAll closes descriptors; a negative one is none.
func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// AutoQueues is how many queues suit the machine: one for each CPU that the
// process may use, up to 8, whose threads suffice for any link.
func AutoQueues() int { return min(runtime.NumCPU(), 8) }

// addQueue makes a queue of a descriptor, and one for sparse flows if it is not
// negative; both are the queue's then. The first queue settles what Auto is.
func (d *Device) addQueue(fd, sparse int, io IO) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		closeAll([]int{fd, sparse})
		return fmt.Errorf("eventfd: %w", err)
	}
	c := &common{name: d.name, fd: fd, sparse: sparse, wake: wake, link: d.link, counters: new(Counters)}
	if d.io != "" {
		io = d.io
	}
	var q queue = &plainQueue{common: c}
	if io != Plain {
		ring, err := newUringQueue(c)
		if err == nil {
			q, io = ring, Uring
		} else if io == Uring {
			q.close()
			return err
		} else {
			io = Plain
		}
	}
	d.io = io
	d.queues = append(d.queues, q)
	return nil
}

// attachFirst insists on a device of our own: without the exclusive flag, a
// second daemon would become one more queue of the first one's device.
func (d *Device) attachFirst(flags uint16, patience time.Duration) (int, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		fd, err := d.attach(flags | unix.IFF_TUN_EXCL)
		if err == unix.EBUSY {
			fd, err = d.adopt(flags)
		}
		if err == nil || !errors.Is(err, ErrBusy) || time.Now().After(deadline) {
			return fd, err
		}
	}
}

// adopt takes over a device of that name that exists.
func (d *Device) adopt(flags uint16) (int, error) {
	link, err := d.netlink.LinkByName(d.name)
	if err != nil { // it went away between the two calls
		return -1, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	old, ok := link.(*netlink.Tuntap)
	mode, kind := netlink.TuntapMode(netlink.TUNTAP_MODE_TUN), "TUN device"
	if d.link != 0 {
		mode, kind = netlink.TUNTAP_MODE_TAP, "TAP"
	}
	if !ok || old.Mode != mode {
		return -1, fmt.Errorf("a device of that name exists and is not a %s: choose another name, or delete it", kind)
	}
	multi := old.Flags&netlink.TUNTAP_MULTI_QUEUE != 0
	if multi && old.Queues+old.DisabledQueues > 0 {
		return -1, fmt.Errorf("%w by another process: stop it, or choose another name", ErrBusy)
	}
	if multi != (flags&unix.IFF_MULTI_QUEUE != 0) && !old.NonPersist {
		if err := d.netlink.LinkDel(link); err != nil { // the number of queues cannot be changed
			return -1, fmt.Errorf("replace the one left over: %w", err)
		}
		return d.attach(flags | unix.IFF_TUN_EXCL)
	}
	fd, err := d.attach(flags)
	if err == unix.EBUSY || err == unix.EINVAL && old.NonPersist {
		err = fmt.Errorf("%w by another process: stop it, or choose another name", ErrBusy)
	}
	return fd, err
}

// attach opens a descriptor and ties it to the device.
func (d *Device) attach(flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, &MissingError{"permission for /dev/net/tun", "run as root, or allow the device in the container's device policy", err}
	case err != nil:
		return -1, &MissingError{"/dev/net/tun", "load the kernel module tun, or give the container the device (--device /dev/net/tun)", err}
	}
	request, err := unix.NewIfreq(d.name)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("a name of 1 to 15 bytes is needed: %w", err)
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		if err == unix.EPERM {
			return -1, &MissingError{"CAP_NET_ADMIN",
				"run as root or grant the capability (AmbientCapabilities=CAP_NET_ADMIN, --cap-add NET_ADMIN)", err}
		}
		return -1, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerLen); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("virtio-net header of %d bytes: %w", headerLen, err)
	}
	return fd, nil
}

// tunFUSO4 and tunFUSO6 came with Linux 6.2 (linux/if_tun.h).
const (
	tunFUSO4 = 0x20
	tunFUSO6 = 0x40
)

func (d *Device) setOffloads() error {
	const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	fd := d.queues[0].files()[0]
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso|tunFUSO4|tunFUSO6) == nil {
		d.offloads = Offloads{TSO: true, USO: true}
		return nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso); err != nil {
		return fmt.Errorf("checksum and TCP segmentation offload: %w", err)
	}
	d.offloads = Offloads{TSO: true}
	return nil
}

func (d *Device) requireIPv6() error {
	value, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + d.name + "/disable_ipv6")
	if err == nil && len(value) > 0 && value[0] == '1' {
		return &MissingError{"IPv6 on the device", "set net.ipv6.conf.default.disable_ipv6=0", errors.New("disable_ipv6 is 1")}
	}
	return nil
}

// Name is the device's name.
func (d *Device) Name() string { return d.name }

// IO is how packets are read and written.
func (d *Device) IO() IO { return d.io }

// Index is the device's interface index.
func (d *Device) Index() int { return d.index }

// Offloads is what the kernel agreed to.
func (d *Device) Offloads() Offloads { return d.offloads }

// Queues are the device's queues, each for one owner.
func (d *Device) Queues() []Queue {
	queues := make([]Queue, len(d.queues))
	for i, q := range d.queues {
		queues[i] = q
	}
	return queues
}

// AddTo sums the counters of every queue and of Inject into s.
func (d *Device) AddTo(s *Stats) {
	for _, q := range d.queues {
		q.Counters().AddTo(s)
	}
	d.inject.counters.AddTo(s)
}

// LinkStats are the kernel's counters of the device. What natless reads is the
// kernel's transmit direction: TxDropped counts packets that found the queue
// full.
func (d *Device) LinkStats() (netlink.LinkStatistics64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return netlink.LinkStatistics64{}, fmt.Errorf("device %s: statistics: %w", d.name, os.ErrClosed)
	}
	link, err := d.netlink.LinkByIndex(d.index)
	if err != nil {
		return netlink.LinkStatistics64{}, fmt.Errorf("device %s: statistics: %w", d.name, err)
	}
	return netlink.LinkStatistics64(*link.Attrs().Statistics), nil
}

// Inject writes a packet from any goroutine. The packet stays the caller's;
// its buffer needs 10 bytes before Start, or before the link header.
func (d *Device) Inject(p *translator.Packet) error { return d.InjectAt(0, p) }

// InjectAt is Inject by one of the queues, modulo their number: who writes much has one
// for himself.
func (d *Device) InjectAt(queue int, p *translator.Packet) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return os.ErrClosed
	}
	return d.inject.write(d.queues[queue%len(d.queues)].files()[0], p, d.link)
}

// Stop makes every queue's Read answer ErrStopped, without waiting for a
// packet. After Close it does nothing, whose descriptors may be another's by then.
func (d *Device) Stop() {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return
	}
	for _, q := range d.queues {
		q.stop()
	}
}

// Close gives the device back. No queue may be in use any more.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	var err error
	for _, q := range d.queues {
		err = errors.Join(err, q.close())
	}
	if d.steering != nil {
		err = errors.Join(err, d.steering.close())
	}
	d.netlink.Close()
	return err
}

// injector writes packets that do not come from a queue's owner.
type injector struct {
	mu        sync.Mutex
	segmenter Segmenter
	counters  Counters
	scratch   *translator.Packet
}

func (i *injector) write(fd int, p *translator.Packet, link int) error {
	errno := writePacket(fd, p, link)
	if errno == unix.EINVAL && retryable(p) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.scratch == nil {
			i.scratch = new(Buffers).Buffer()
		}
		i.counters.Segmented.Add(1)
		errno = writeSegmented(fd, &i.segmenter, p, i.scratch, link)
	}
	if errno == 0 {
		return nil
	}
	i.counters.lost(errno)
	return syscall.Errno(errno)
}
