//go:build linux

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/monitor"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// How packets get from the hub to a reader.
const (
	wordsSnap   = 256     // bytes of a packet that is only described
	wordsBuffer = 1 << 20 // for each queue
	bytesBuffer = 1 << 24 // for each queue, when packets are sent too
)

// watching is one reader's stream, as lines of JSON.
type watching struct {
	*Daemon
	filter *monitor.Filter
	bytes  bool
	send   apiserver.Send
	names  map[netip.Addr]string // of workloads, by IPv6 address
	before uint64                // packets that the kernel had translated at the beginning
	shed   uint64                // packets that it had dropped then, as their workloads gave way
	out    []byte
}

// watch sends packets as they pass until ctx is done.
func (d *Daemon) watch(ctx context.Context, w api.Watch, device string, send apiserver.Send) error {
	filter, err := monitor.Parse(w.Filter)
	if err != nil {
		return &api.Problem{Code: api.CodeInvalid, Field: "filter", Detail: err.Error()}
	}
	o := monitor.Options{Filter: filter, Rate: w.Rate, Snap: wordsSnap, Buffer: wordsBuffer}
	if w.Bytes > 0 {
		o.Snap, o.Buffer = w.Bytes, bytesBuffer
	}
	hello := api.Hello{Version: d.Version, Device: device, Prefix: d.host.Table().Prefix()}
	for _, name := range filter.Resolve(d.keeper.called) {
		hello.Notes = append(hello.Notes, fmt.Sprintf("no workload is called %q just now", name))
	}
	wanted := slices.ContainsFunc([]translator.Verdict{translator.Forward4, translator.Forward6, translator.Pass4, translator.Deliver4},
		filter.MayWant) // the kernel does nothing else
	switch {
	case w.All:
		end, err := d.host.Diversion.All()
		if err != nil {
			return err
		}
		defer end()
	case !w.Leave && wanted:
		defer d.host.Diversion.Sample()()
	}
	if note := d.host.Diversion.Note(!w.Leave); note != "" && wanted {
		hello.Notes = append(hello.Notes, note)
	}
	viewer, err := d.host.Hub.Open(o)
	if errors.Is(err, monitor.ErrTooMany) {
		return &api.Problem{Code: api.CodeRateLimited, Detail: err.Error()}
	}
	if err != nil {
		return err
	}
	defer viewer.Close()
	r := &watching{Daemon: d, filter: filter, bytes: w.Bytes > 0, send: send, names: map[netip.Addr]string{}, before: d.inKernel(), shed: d.host.Shed.Kernel()}
	r.line(api.Seen{Hello: &hello})
	if err := r.Flush(); err != nil {
		return nil // he has gone
	}
	return monitor.Stream(ctx, viewer, r, d.Log)
}

// Refresh forgets who is called what.
func (r *watching) Refresh() {
	r.filter.Resolve(r.keeper.called)
	clear(r.names)
}

// Packet writes a packet.
func (r *watching) Packet(record *monitor.Record) (gathered int) {
	e := r.event(record)
	r.line(api.Seen{Packet: &e})
	if r.bytes {
		r.out = append(append(r.out, record.In...), record.Out...)
	}
	return len(r.out)
}

// Counts writes how many packets there were.
func (r *watching) Counts(c monitor.Counts, end bool) {
	r.line(api.Seen{Counts: &api.Counts{Seen: c.Seen, Matched: c.Matched, Limited: c.Limited, Lost: c.Lost,
		FastPath: max(r.inKernel(), r.before) - r.before, Shed: r.host.Shed.Kernel() - r.shed, End: end}})
}

// inKernel is how many packets the fast path has translated.
func (d *Daemon) inKernel() uint64 {
	if d.host.FastPath.Manager == nil {
		return 0
	}
	return forwarded(d.host.FastPath.Snapshot())
}

// forwarded is how many packets the fast path has sent on, each once: Given are the
// daemon's.
func forwarded(n fastpath.Counters) (all uint64) {
	for _, c := range []*[fastpath.NumReasons]fastpath.Count{&n.Workload, &n.Uplink, &n.Inside, &n.Delivered} {
		all += c[fastpath.Translated].Packets
	}
	return all
}

func (r *watching) line(s api.Seen) {
	b, err := json.Marshal(s)
	if err != nil { // a type of ours that has no JSON
		r.Log.Error("watch", "error", err)
		return
	}
	r.out = append(append(r.out, b...), '\n')
}

// Flush sends what was written.
func (r *watching) Flush() error {
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
		Verdict: record.Verdict, Done: true, Table: r.host.Table()}
	e := api.Event{Time: record.Time.UTC(), Direction: p.Direction().String(), Verdict: record.Verdict.String(),
		Policy: r.rules.RuleName(record.Rule),
		In:     r.side(&p.In, record.In), Out: r.side(&p.Out, record.Out)}
	if record.GSOType != translator.GSONone {
		e.GSOSize = int(record.GSOSize)
	}
	if m := p.Mapping(p.Table); m != nil {
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

// name is who has a mapping: "" when it is one of the configuration.
func (r *watching) name(m mapping.Mapping) string {
	key := m.IPv6.Addr()
	if name, ok := r.names[key]; ok {
		return name
	}
	name := ""
	if a, err := r.keeper.Whois(netip.AddrPortFrom(m.IPv4.Addr(), m.Ports.Min()), time.Time{}); err == nil {
		if name = a.Request.Name; name == "" {
			name = a.Key.String()
		}
	}
	r.names[key] = name
	return name
}

// called finds the workloads that a word means, as `natless workloads show`
// does: by name, by key, or by the start of the container's id.
func (k *keeper) called(word string) (found []monitor.Workload) {
	var started []monitor.Workload
	id, iface, hasIface := strings.Cut(word, "/")
	for a := range k.Each() {
		called := a.Request.Name == word || a.Key.String() == word
		if !called && (!strings.HasPrefix(a.Key.ContainerID, id) || hasIface && iface != a.Key.Interface) {
			continue
		}
		a = a.Clone()
		one := monitor.Workload{IPv6: a.Request.IPv6, IPv4: a.Address, Ports: a.Mapping().Ports}
		if called {
			found = append(found, one)
		} else {
			started = append(started, one)
		}
	}
	if found == nil {
		return started
	}
	return found
}
