//go:build linux

// Package dataplane runs the loops that move packets: read from a queue,
// translate, write to the same queue. It counts, feeds the local stack and
// makes the device anew when somebody deleted it. How a packet is translated,
// and addresses and routes, may not enter here.
package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// reopenEvery is how often a deleted device is tried to be made anew.
const reopenEvery = 100 * time.Millisecond

// errNoDevice is what Inject says before the device is there and while it is
// made anew.
var errNoDevice = errors.New("no device")

// Local takes packets for the translator's own addresses.
type Local interface {
	// Deliver gets one packet with complete checksums, longer than an MTU where
	// it was a TCP superpacket. It copies what it keeps and never waits: false
	// says that its bounded queue is full, and the packet is dropped and
	// counted. It is called from every queue's thread.
	Deliver(packet []byte) bool
}

// Config is what a dataplane is made from.
type Config struct {
	Translator *translator.Translator
	// Open makes the device, first and again whenever it was deleted, with the
	// same number of queues.
	Open  func() (*tun.Device, error)
	Local Local        // nil: packets for the translator's own addresses are dropped
	Log   *slog.Logger // nil: slog.Default
	// PerMapping counts packets by mapping, for Traffic.
	PerMapping bool
	// Flows are where queues itemise what they translate, by the queue's index.
	Flows []*flows.Queue
	// FirstUse takes a copy of a packet whose sender may have an assignment by first use,
	// from any loop, and never waits; false: it does not. nil: nobody gives any.
	FirstUse func(*translator.Packet) bool
	// Shed are what loops ask which packets to drop before anything else, by the queue's
	// index.
	Shed []*shed.Queue
	// Inside says that the device is a TAP, by which workloads send and get IPv4 that
	// they have inside; see Pair. FirstQueue is the number of its first queue, for
	// observers, who see all queues of both devices.
	Inside     bool
	FirstQueue int
}

// Dataplane is a task: Run it once.
type Dataplane struct {
	config   Config
	ready    chan struct{}
	opened   chan struct{} // closed when the device is there for the first time
	observer atomic.Pointer[Observer]
	placed   placement
	other    *Dataplane                 // of the other device; nil: there is none
	current  atomic.Pointer[tun.Device] // device, for the loops of the other

	mu       sync.RWMutex // guards what follows
	device   *tun.Device  // nil while there is none
	loops    []*loop      // one for each queue, whatever becomes of the device
	before   tun.Stats    // of devices that are gone
	police   int          // the program in front of the queues; 0: none was asked for
	reopened uint64
}

// New makes a dataplane; Run opens the device.
func New(c Config) *Dataplane {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Dataplane{config: c, ready: make(chan struct{}), opened: make(chan struct{})}
}

// Ready is closed when every queue is read.
func (d *Dataplane) Ready() <-chan struct{} { return d.ready }

// Run opens the device and moves packets until ctx is done, which is no error.
// A device that somebody deleted is opened again.
func (d *Dataplane) Run(ctx context.Context) error {
	device, err := d.config.Open()
	for first := true; ; first = false {
		if err != nil {
			return err
		}
		d.adopt(device)
		d.config.Log.Info("device is open", "device", device.Name(), "queues", len(device.Queues()),
			"io", device.IO(), "by_cpu", device.Steers(), "tso", device.Offloads().TSO, "uso", device.Offloads().USO)
		if first {
			close(d.opened)
			d.awaitOther(ctx)
			close(d.ready)
		}
		err = d.serve(ctx, device)
		d.drop(device)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, tun.ErrGone) {
			return err
		}
		d.config.Log.Warn("device was deleted, making it anew", "device", device.Name())
		if device, err = d.reopen(ctx); device == nil {
			return err
		}
	}
}

// adopt makes the device the one that Inject and Snapshot use.
func (d *Dataplane) adopt(device *tun.Device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.device = device
	d.current.Store(device)
	for i, q := range device.Queues() {
		if i == len(d.loops) {
			d.loops = append(d.loops, newLoop(d, i))
		}
		d.loops[i].queue = q
		d.loops[i].awake.Store(0) // the queue counts from the beginning
	}
	d.placed.begin(device)
	if err := device.Police(cmp.Or(d.police, -1)); err != nil { // a predecessor's may be there
		d.config.Log.Debug("police the device", "error", err)
	}
}

// drop closes the device and keeps what it counted.
func (d *Dataplane) drop(device *tun.Device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	device.AddTo(&d.before)
	d.device = nil
	d.current.Store(nil)
	if err := device.Close(); err != nil {
		d.config.Log.Warn("close the device", "device", device.Name(), "error", err)
	}
}

// serve runs one thread for each queue until ctx is done or one fails.
func (d *Dataplane) serve(ctx context.Context, device *tun.Device) error {
	defer context.AfterFunc(ctx, device.Stop)()
	defer shareProcessors(len(device.Queues()))()
	var allowed unix.CPUSet
	pinned := device.Steers() && unix.SchedGetaffinity(0, &allowed) == nil
	var threads errgroup.Group
	for i := range device.Queues() {
		l := d.loops[i]
		threads.Go(func() error {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			hurry()
			if pinned {
				pin(i, len(device.Queues()), &allowed)
			}
			defer device.Stop() // one queue's end is every queue's
			return l.run()
		})
	}
	return threads.Wait()
}

// reopen tries until there is a device again. It gives none once ctx is done.
func (d *Dataplane) reopen(ctx context.Context) (*tun.Device, error) {
	for complained := false; ; {
		device, err := d.config.Open()
		if err == nil {
			d.mu.Lock()
			d.reopened++
			d.mu.Unlock()
			return device, nil
		}
		if !complained {
			d.config.Log.Error("make the device anew", "error", err)
			complained = true
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(reopenEvery):
		}
	}
}

// Inject writes a packet of the local stack to the device, from any goroutine.
// The packet stays the caller's. Its buffer needs 10 bytes before Start.
func (d *Dataplane) Inject(p *translator.Packet) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.device == nil {
		return errNoDevice
	}
	if err := d.device.Inject(p); err != nil {
		return fmt.Errorf("device %s: write: %w", d.device.Name(), err)
	}
	return nil
}

// Device is the device, or nil while there is none.
func (d *Dataplane) Device() *tun.Device {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.device
}

// Observe has o see every packet from the next batch on; nil ends that, and
// calls that are under way may still come for a moment.
func (d *Dataplane) Observe(o Observer) {
	if o == nil {
		d.observer.Store(nil)
		return
	}
	d.observer.Store(&o)
}
