package dataplane

import "github.com/natless/natless/translator"

// At the edge of a fabric without IPv4 a packet passes two halves (rules 1.10), and between
// them it is IPv4: as that it is counted, itemised and shown, as the relay sees it, too.

// descend makes a packet of the fabric IPv4, and sees to what cannot be that.
func (d *Driver) descend(p *translator.Packet) translator.Verdict {
	size := p.End - p.Start
	var came *translator.Packet
	if d.observer != nil {
		came = d.port.Buffer()
		came.Offload = p.Offload
		came.End = came.Start + copy(came.Buf[came.Start:], p.Bytes())
	}
	v := d.worker.Descend(p)
	if v != translator.Forward4 {
		if came != nil {
			d.observer.Read(d.index, came)
		}
		d.settle(p, v, To4, size)
	}
	if came != nil {
		d.port.Release(came)
	}
	return v
}

// ascend has an IPv4 packet leave by the fabric. It has been counted as what it was; where
// it cannot leave, it counts as that as well.
func (d *Driver) ascend(p *translator.Packet, v translator.Verdict) {
	size := p.End - p.Start
	up := d.worker.Ascend(p)
	switch {
	case up == translator.Forward6 && d.worker.Fragments():
		d.sendFragments(p, v)
		return
	case up == translator.Forward6:
		d.port.Send(p, v)
		return
	}
	if d.counters != nil {
		d.counters.add(To4, up, size)
	}
	if d.observer != nil {
		d.observer.Translated(d.index, p, up, 0)
	}
	if up.Replied() {
		d.port.Send(p, up)
	} else {
		d.port.Release(p)
	}
}
