package translator

// TranslateOwn is Translate for what the local stack behind the translator's own
// addresses sends, which nobody else may send to us. A packet that needs no
// translation is left as it is and gets the verdict of its family.
func (w *Worker) TranslateOwn(p *Packet) Verdict {
	w.begin()
	if !p.roomy() {
		return Malformed
	}
	if p.Buf[p.Start]>>4 == 6 {
		return Forward6 // a host of the IPv4 side asks by IPv4
	}
	var h parsed
	b := p.Bytes()
	if v := h.read4(b, false); v.IsDrop() {
		return v
	}
	if !w.s.ours.has(h.dst4) && w.s.table.Lookup4(h.dst4) == nil || h.dst4 == w.s.host4 && !w.forWorkload(&h, b) {
		return Forward4
	}
	return w.to6(p, hairpinned) // by the prefix, and its hop limit is fresh; rule 1.1.ours-own
}
