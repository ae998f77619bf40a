//go:build linux

package ipfix

import (
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/natless/natless/cmd/internal/flowlog"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/flows"
)

const (
	udpMessage = 1400 // bytes: no fragments on a link of 1500
	tcpMessage = 16 << 10
	// templatesEvery is how often templates are sent again by UDP (RFC 7011 8.4), and
	// whoEvery how often everybody hears whose serials are.
	templatesEvery = time.Minute
	whoEvery       = 5 * time.Minute
	// patience is how long a collector may take for a message, or to answer.
	patience = 5 * time.Second
	// firstRetry and lastRetry are how long one waits for a collector that is away.
	firstRetry, lastRetry = time.Second, 30 * time.Second
	// eventsWait is how many events of ownership wait for a collector.
	eventsWait = 16_384
)

// Config is what an exporter is made from.
type Config struct {
	Transport, Address string // udp, tcp or tls, and host with port
	TLS                *tls.Config
	Domain             uint32
	Sample             int                    // flows are of one of so many packets; 0 is 1
	Serial             func(owner any) uint64 // of a record's owner
	Owners             func() iter.Seq[Owner] // all that there are
	Log                *slog.Logger
}

// Exporter is a task that sends to one collector. What it cannot send it drops, and
// counts: nobody waits for it.
type Exporter struct {
	config  Config
	records *flowlog.Queue
	events  chan Event
	lost    atomic.Uint64 // events that found no room
	there   atomic.Bool   // the collector is
	ready   chan struct{}
	ends    atomic.Pointer[time.Time] // when nothing more is sent; nil: nobody has said that it ends

	conn    net.Conn // nil: there is none
	encoder encoder
	one     []byte

	mu      sync.Mutex // guards what follows
	sent    uint64
	dropped uint64
	problem string
	failed  time.Time
	said    time.Time
}

// New makes an exporter.
func New(c Config) *Exporter {
	e := &Exporter{config: c, records: flowlog.NewQueue(), events: make(chan Event, eventsWait), ready: make(chan struct{}),
		problem: "not connected yet"}
	e.encoder = encoder{domain: c.Domain, most: tcpMessage, send: e.write, now: time.Now}
	if c.Transport == "udp" {
		e.encoder.most = udpMessage
	}
	return e
}

// Put takes records, and never waits.
func (e *Exporter) Put(batch []flows.Record) { e.records.Put(batch) }

// Room says that another batch finds room. For one who is away nobody waits.
func (e *Exporter) Room() bool {
	return e.records.Room() || !e.there.Load()
}

// Tell takes an event, and never waits.
func (e *Exporter) Tell(event Event) {
	select {
	case e.events <- event:
	default:
		e.lost.Add(1)
	}
}

// Ready is closed at once: who translates waits for no collector.
func (e *Exporter) Ready() <-chan struct{} { return e.ready }

// Status says how it does.
func (e *Exporter) Status() api.FlowReceiver {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := api.FlowReceiver{Name: e.config.Transport + "://" + e.config.Address, State: "ok", Written: e.sent,
		Dropped: e.dropped + e.records.Dropped() + e.lost.Load()}
	if e.problem != "" {
		r.State = e.problem
	}
	return r
}

// Run sends until ctx is done, and then what was put before that, if the collector
// is there.
func (e *Exporter) Run(ctx context.Context) error {
	close(e.ready)
	defer e.hangUp()
	defer e.untilEnd(ctx)()
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := e.connect(ctx)
		if err == nil {
			retry = firstRetry
			if err = e.serve(ctx); err == nil {
				return nil // ctx is done
			}
		}
		e.fail(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

// untilEnd has all that is sent after ctx is done take no longer than patience together:
// a collector that reads slowly does not keep us from ending.
func (e *Exporter) untilEnd(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		end := time.Now().Add(patience)
		e.ends.Store(&end)
	})
}

// connect dials, and says what all who listen must know first.
func (e *Exporter) connect(ctx context.Context) (err error) {
	e.hangUp()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch e.config.Transport {
	case "tls":
		d := tls.Dialer{Config: e.config.TLS}
		e.conn, err = d.DialContext(ctx, "tcp", e.config.Address)
	default:
		e.conn, err = new(net.Dialer).DialContext(ctx, e.config.Transport, e.config.Address)
	}
	if err != nil {
		e.conn = nil
		return err
	}
	if e.config.Transport != "udp" {
		e.encoder.sequence = 0 // of a new session (RFC 7011 3.1)
	}
	if err = templates(e.config.Sample, e.encoder.put); err == nil {
		err = e.everybody()
	}
	e.there.Store(err == nil)
	return err
}

func (e *Exporter) hangUp() {
	e.there.Store(false)
	if e.conn != nil {
		e.conn.Close()
		e.conn = nil
	}
	e.encoder.buf, e.encoder.set, e.encoder.records = e.encoder.buf[:0], 0, 0
}

// everybody says whose serials are.
func (e *Exporter) everybody() error {
	for o := range e.config.Owners() {
		e.one = appendWho(e.one[:0], &o)
		if err := e.encoder.put(templateWho, e.one); err != nil {
			return err
		}
	}
	return e.encoder.flush()
}

// serve sends until ctx is done (nil), or the collector is not there any more.
func (e *Exporter) serve(ctx context.Context) error {
	template, who := time.NewTicker(templatesEvery), time.NewTicker(whoEvery)
	defer template.Stop()
	defer who.Stop()
	gone := e.watch()
	for {
		var err error
		select {
		case batch := <-e.records.Batches():
			err = e.flows(batch)
		case event := <-e.events:
			err = e.event(event)
		case <-template.C:
			if e.config.Transport == "udp" {
				if err = templates(e.config.Sample, e.encoder.put); err == nil {
					err = e.encoder.flush()
				}
			}
		case <-who.C:
			err = e.everybody()
		case <-gone:
			return fmt.Errorf("the collector has hung up")
		case <-ctx.Done():
			return e.rest()
		}
		if err != nil {
			return err
		}
	}
}

// watch is closed when the collector hangs up: it has nothing else to say.
func (e *Exporter) watch() <-chan struct{} {
	gone := make(chan struct{})
	if e.config.Transport == "udp" {
		return nil
	}
	conn := e.conn
	go func() {
		defer close(gone)
		b := make([]byte, 512)
		for {
			if _, err := conn.Read(b); err != nil {
				return
			}
		}
	}()
	return gone
}

// rest sends what waits.
func (e *Exporter) rest() error {
	for {
		var err error
		select {
		case batch := <-e.records.Batches():
			err = e.flows(batch)
		case event := <-e.events:
			err = e.event(event)
		default:
			return nil
		}
		if err != nil {
			e.fail(err)
			return nil
		}
	}
}

func (e *Exporter) flows(batch []flows.Record) error {
	for i := range batch {
		r, to := &batch[i], templateOf(&batch[i])
		if to == templateFlow {
			e.one = appendFlow(e.one[:0], r, e.config.Serial(r.Owner))
		} else {
			e.one = appendOther(e.one[:0], r, e.config.Serial(r.Owner))
		}
		if err := e.encoder.put(to, e.one); err != nil {
			e.count(0, len(batch)-i)
			return err
		}
	}
	return e.encoder.flush()
}

// event says that ownership began or ended, and whose it is that began.
func (e *Exporter) event(event Event) error {
	e.one = appendEvent(e.one[:0], &event)
	err := e.encoder.put(templateOwner, e.one)
	if err == nil && event.Given {
		e.one = appendWho(e.one[:0], &event.Owner)
		err = e.encoder.put(templateWho, e.one)
	}
	if err != nil {
		return err
	}
	return e.encoder.flush()
}

// write sends a message.
func (e *Exporter) write(message []byte) error {
	n := int(e.encoder.flushed)
	until := time.Now().Add(patience)
	if end := e.ends.Load(); end != nil && end.Before(until) {
		until = *end
	}
	e.conn.SetWriteDeadline(until)
	_, err := e.conn.Write(message)
	if err == nil {
		e.count(n, 0)
		return nil
	}
	e.count(0, n)
	if e.config.Transport == "udp" { // one that was away is there again without a word
		e.fail(err)
		return nil
	}
	return err
}

func (e *Exporter) count(sent, dropped int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent += uint64(sent)
	e.dropped += uint64(dropped)
	if dropped == 0 && (e.config.Transport != "udp" || time.Since(e.failed) > refused) {
		e.problem = ""
	}
}

// refused is for how long a collector by UDP that was not there is taken for absent:
// of two messages, the kernel refuses one.
const refused = 10 * time.Second

// sayEvery is how often a problem is in the log.
const sayEvery = time.Minute

func (e *Exporter) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.problem, e.failed = err.Error(), time.Now()
	if time.Since(e.said) > sayEvery {
		e.said = time.Now()
		e.config.Log.Warn("flow records do not get to their collector", "collector", e.config.Transport+"://"+e.config.Address, "error", err)
	}
}
