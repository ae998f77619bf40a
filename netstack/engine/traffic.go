//go:build linux

package engine

import (
	"net/netip"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/translator"
)

// Traffic is what the daemon and the kernel did, together: no figure depends on the
// way that a packet took.
func (h *Host) Traffic() dataplane.Snapshot {
	s := h.Dataplane.Snapshot()
	if h.Inside != nil {
		s.Add(h.Inside.Snapshot())
	}
	h.Shed.Each(func(_ uint32, packets, bytes [shed.NumWays]uint64) {
		for way, to := range [shed.NumWays]dataplane.Direction{shed.Sent: dataplane.To4, shed.Received: dataplane.To6} {
			n := &s.Verdicts[to][translator.Shed]
			n.Packets, n.Bytes = n.Packets+packets[way], n.Bytes+bytes[way]
		}
	})
	if h.FastPath.Manager == nil {
		return s
	}
	kernel := h.FastPath.Snapshot()
	for _, way := range []struct {
		to   *dataplane.Count
		from fastpath.Count
	}{
		{&s.Verdicts[dataplane.To4][translator.Forward4], kernel.Workload[fastpath.Translated]},
		{&s.Verdicts[dataplane.To6][translator.Forward6], kernel.Uplink[fastpath.Translated]},
		{&s.Verdicts[dataplane.Across][translator.Pass4], kernel.Inside[fastpath.Translated]},
		{&s.Verdicts[dataplane.Across][translator.Deliver4], kernel.Delivered[fastpath.Translated]},
		{&s.Verdicts[dataplane.Across][translator.SpoofedSource], kernel.Inside[fastpath.Spoofed]},
	} {
		way.to.Packets += way.from.Packets
		way.to.Bytes += way.from.Bytes
	}
	return s
}

// TrafficOf is what both did for the mapping with a slot of the table.
func (h *Host) TrafficOf(slot uint32) dataplane.Traffic {
	t := h.trafficHere(slot)
	h.addKernel(&t, slot)
	return t
}

// Activity is how many packets were ever translated, by daemon and kernel, at the slot that
// the mapping of an IPv6 prefix has now: whoever was there has been active when it is another
// number than before. ok is false where that cannot be known just now.
func (h *Host) Activity(p netip.Prefix) (packets uint64, ok bool) {
	e := h.Table().Get(p)
	if e == nil || !h.perMapping {
		return 0, false
	}
	t := h.trafficHere(e.Slot())
	if h.FastPath.Manager != nil {
		kernel, err := h.FastPath.Traffic(e.Slot())
		if err != nil {
			return 0, false
		}
		t.Sent.Packets += kernel.Sent.Packets
		t.Received.Packets += kernel.Received.Packets
	}
	return t.Sent.Packets + t.Received.Packets, true
}

// trafficHere is what the daemon itself did for it.
func (h *Host) trafficHere(slot uint32) dataplane.Traffic {
	t := h.Dataplane.Traffic(slot)
	if h.Inside != nil {
		t.Add(h.Inside.Traffic(slot))
	}
	return t
}

// addKernel adds what the kernel did.
func (h *Host) addKernel(t *dataplane.Traffic, slot uint32) {
	if h.FastPath.Manager == nil {
		return
	}
	kernel, err := h.FastPath.Traffic(slot)
	if err != nil {
		h.parts.Log.Debug("traffic of a workload in the kernel", "error", err)
	}
	t.Sent.Packets += kernel.Sent.Packets
	t.Sent.Bytes += kernel.Sent.Bytes
	t.Received.Packets += kernel.Received.Packets
	t.Received.Bytes += kernel.Received.Bytes
}
