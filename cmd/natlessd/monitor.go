//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/monitor"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// How packets get from the hub to a reader.
const (
	wordsSnap   = 256     // bytes of a packet that is only described
	wordsBuffer = 1 << 20 // for each queue
	bytesBuffer = 1 << 24 // for each queue, when packets are sent too
	sendAt      = 1 << 18 // bytes that are sent at once
	batch       = 4096    // packets until the time is looked at again

	idlePause   = 20 * time.Millisecond // how long nothing is looked for when there was nothing
	busyPause   = 2 * time.Millisecond
	countsEvery = 100 * time.Millisecond
	namesEvery  = time.Second // workloads come and go
)

// newHub makes what packets can be watched through.
func newHub(c *config.Config, t *translator.Translator, d *dataplane.Dataplane) *monitor.Hub {
	return monitor.NewHub(t, queues(c), func(s *monitor.Set) {
		if s == nil {
			d.Observe(nil)
			return
		}
		d.Observe(s)
	})
}

// diversion has a fast path outside of the daemon leave every packet to it while
// somebody wants to see all. Being stateless, packets may take either way at any
// time. The zero value is of a daemon that sees all packets anyway.
type diversion struct {
	pause      func(on bool) error // nil: there is no other way
	interfaces func() int          // where packets take it just now

	mu     sync.Mutex // guards what follows
	wanted int
}

// begin diverts packets until end is called.
func (d *diversion) begin() (end func(), err error) {
	if d.pause == nil {
		return func() {}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wanted == 0 {
		if err := d.pause(true); err != nil {
			return nil, fmt.Errorf("have the kernel's fast path leave all packets to the daemon: %w", err)
		}
	}
	d.wanted++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.wanted--; d.wanted == 0 {
			d.pause(false)
		}
	}, nil
}

// note says what is not seen without it; "" when all is.
func (d *diversion) note() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pause == nil || d.wanted > 0 {
		return ""
	}
	if n := d.interfaces(); n > 0 {
		return fmt.Sprintf("the kernel's fast path translates plain packets on %d interfaces by itself: they are not shown; --all shows them", n)
	}
	return ""
}

// watching is one reader's stream.
type watching struct {
	*server
	viewer *monitor.Viewer
	filter *monitor.Filter
	bytes  bool
	send   apiserver.Send
	names  map[netip.Addr]string // of workloads, by IPv6 address
	looked time.Time             // when names and the filter's workloads were
	counts monitor.Counts        // as sent last
	sent   time.Time
	out    []byte
}

// watch sends packets as they pass until ctx is done.
func (s *server) watch(ctx context.Context, w api.Watch, device string, send apiserver.Send) error {
	filter, err := monitor.Parse(w.Filter)
	if err != nil {
		return &api.Problem{Code: api.CodeInvalid, Field: "filter", Detail: err.Error()}
	}
	o := monitor.Options{Filter: filter, Rate: w.Rate, Snap: wordsSnap, Buffer: wordsBuffer}
	if w.Bytes > 0 {
		o.Snap, o.Buffer = w.Bytes, bytesBuffer
	}
	hello := api.Hello{Version: version, Device: device, Prefix: s.translator.Table().Prefix()}
	for _, name := range filter.Resolve(s.workloads.called) {
		hello.Notes = append(hello.Notes, fmt.Sprintf("no workload is called %q just now", name))
	}
	if w.All {
		end, err := s.diversion.begin()
		if err != nil {
			return err
		}
		defer end()
	}
	if note := s.diversion.note(); note != "" {
		hello.Notes = append(hello.Notes, note)
	}
	viewer, err := s.hub.Open(o)
	if errors.Is(err, monitor.ErrTooMany) {
		return &api.Problem{Code: api.CodeRateLimited, Detail: err.Error()}
	}
	if err != nil {
		return err
	}
	defer viewer.Close()
	r := &watching{server: s, viewer: viewer, filter: filter, bytes: w.Bytes > 0, send: send, looked: time.Now(), names: map[netip.Addr]string{}}
	r.line(api.Seen{Hello: &hello})
	if err := r.flush(); err != nil {
		return nil // he has gone
	}
	done := make(chan error)
	go func() { done <- r.runBehind(ctx) }()
	return <-done
}

// behind is by how much a reader's thread steps back behind those of the queues.
const behind = 15

// runBehind runs on a thread of its own, which steps back where processors are
// short: packets come before those who watch them.
func (r *watching) runBehind(ctx context.Context) (err error) {
	defer func() { // what packets say is anybody's: a reader may end of it, the daemon not
		if p := recover(); p != nil {
			r.log.Error("watch: panic", "value", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("a packet could not be shown: %v", p)
		}
	}()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), behind); err != nil {
		r.log.Debug("watch with a priority as high as the packets'", "error", err)
	}
	return r.run(ctx)
}

func (r *watching) run(ctx context.Context) error {
	for {
		r.viewer.Refill()
		if time.Since(r.looked) > namesEvery {
			r.looked = time.Now()
			r.filter.Resolve(r.workloads.called)
			clear(r.names)
		}
		n, err := r.drain()
		if err != nil {
			return nil
		}
		r.countNow()
		if r.flush() != nil {
			return nil
		}
		pause := busyPause
		if n == 0 {
			pause = idlePause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			r.viewer.Close()
			r.drain()
			r.count(r.viewer.Counts(), true)
			r.flush()
			return nil
		}
	}
}

// drain sends what is there, and says how many packets.
func (r *watching) drain() (n int, err error) {
	for ; n < batch; n++ {
		record, ok := r.viewer.Next()
		if !ok {
			break
		}
		e := r.event(&record)
		r.line(api.Seen{Packet: &e})
		if r.bytes {
			r.out = append(append(r.out, record.In...), record.Out...)
		}
		if len(r.out) > sendAt {
			r.countNow() // a slow reader learns what is missing before all that waits for it
			if err := r.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// countNow sends the counts when they have changed, now and then.
func (r *watching) countNow() {
	if time.Since(r.sent) <= countsEvery {
		return
	}
	if c := r.viewer.Counts(); c != r.counts {
		r.count(c, false)
	}
}

func (r *watching) count(c monitor.Counts, end bool) {
	r.counts, r.sent = c, time.Now()
	r.line(api.Seen{Counts: &api.Counts{Seen: c.Seen, Matched: c.Matched, Limited: c.Limited, Lost: c.Lost, End: end}})
}

func (r *watching) line(s api.Seen) {
	b, err := json.Marshal(s)
	if err != nil { // a type of ours that has no JSON
		r.log.Error("watch", "error", err)
		return
	}
	r.out = append(append(r.out, b...), '\n')
}

func (r *watching) flush() error {
	if len(r.out) == 0 {
		return nil
	}
	err := r.send(r.out)
	r.out = r.out[:0]
	return err
}

// event says what a record is.
func (r *watching) event(record *monitor.Record) api.Event {
	p := monitor.Packet{In: monitor.MakeHead(record.In, record.InLength), Out: monitor.MakeHead(record.Out, record.OutLength),
		Verdict: record.Verdict, Done: true}
	e := api.Event{Time: record.Time.UTC(), Direction: "4to6", Verdict: record.Verdict.String(),
		In: r.side(&p.In, record.In), Out: r.side(&p.Out, record.Out)}
	if p.To4() {
		e.Direction = "6to4"
	}
	if record.GSOType != translator.GSONone {
		e.GSOSize = int(record.GSOSize)
	}
	if m := r.mapping(&p); m != nil {
		mapped := m.Mapping()
		e.Mapping, e.Workload = mapped.String(), r.name(mapped)
	}
	return e
}

// side says what a packet is; nil when there is none.
func (r *watching) side(h *monitor.Head, b []byte) *api.Side {
	if h.Length == 0 {
		return nil
	}
	s := &api.Side{Src: h.Src, Dst: h.Dst, Length: h.Length}
	if h.Valid {
		s.Proto = strconv.Itoa(int(h.Proto))
		switch {
		case h.ICMP():
			s.Proto = "icmp"
		case h.Proto == 6:
			s.Proto, s.TCPFlags = "tcp", tcpFlags(h.TCPFlags)
		case h.Proto == 17:
			s.Proto = "udp"
		}
	}
	if h.Ports {
		s.SrcPort, s.DstPort = h.SrcPort, h.DstPort
	} else {
		s.TCPFlags = ""
	}
	if r.bytes {
		s.Bytes = len(b)
	} else {
		s.Words = explain.Describe(b)
	}
	return s
}

// tcpFlags writes flags as tcpdump does: a dot is an acknowledgement.
func tcpFlags(flags uint8) string {
	var b strings.Builder
	for i, name := range "FSRP.UEW" {
		if flags>>i&1 != 0 {
			b.WriteRune(name)
		}
	}
	return b.String()
}

// mapping is the mapping of the workload that sent the packet or gets it, as
// the table is now; nil when there is none.
func (r *watching) mapping(p *monitor.Packet) *mapping.Entry {
	table := r.translator.Table()
	switch {
	case p.In.Valid && p.In.V6():
		return table.Lookup6(mapping.Addr6From(p.In.Src))
	case p.Out.Valid && p.Out.V6():
		return table.Lookup6(mapping.Addr6From(p.Out.Dst))
	case !p.In.Valid:
		return nil
	}
	a := mapping.Addr4From(p.In.Dst)
	e := table.Lookup4(a)
	if e == nil || !e.Shared() {
		return e
	}
	if !p.In.Ports {
		return nil
	}
	return table.Port(e, a, p.In.DstPort)
}

// name is who has a mapping: "" when it is one of the configuration.
func (r *watching) name(m mapping.Mapping) string {
	key := m.IPv6.Addr()
	if name, ok := r.names[key]; ok {
		return name
	}
	name := ""
	if a, err := r.workloads.Whois(netip.AddrPortFrom(m.IPv4.Addr(), m.Ports.Min()), time.Time{}); err == nil {
		if name = a.Request.Name; name == "" {
			name = a.Key.String()
		}
	}
	r.names[key] = name
	return name
}

// called finds the workloads that a word means, as `natless workloads show`
// does: by name, by key, or by the start of the container's id.
func (w *workloads) called(word string) (found []monitor.Workload) {
	var started []monitor.Workload
	id, iface, hasIface := strings.Cut(word, "/")
	for _, a := range w.All() {
		one := monitor.Workload{IPv6: a.Request.IPv6, IPv4: a.Address, Ports: a.Mapping().Ports}
		switch {
		case a.Request.Name == word || a.Key.String() == word:
			found = append(found, one)
		case strings.HasPrefix(a.Key.ContainerID, id) && (!hasIface || iface == a.Key.Interface):
			started = append(started, one)
		}
	}
	if found == nil {
		return started
	}
	return found
}
