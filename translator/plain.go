package translator

func (w *Worker) plain4(p *Packet) Verdict { return w.to4(p) }
func (w *Worker) plain6(p *Packet) Verdict { return w.to6(p, arrived) }
