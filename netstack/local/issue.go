package local

import (
	"time"

	"github.com/natless/natless/translator"
)

// start is the zero of the worker's clock, as in package dataplane.
var start = time.Now()

// issuer translates what the stack says to workloads by IPv4. The translator
// takes nothing from the device that has an address of ours as its source, for
// anybody could have sent that.
type issuer struct {
	stack    *Stack
	worker   *translator.Worker
	fragment translator.Packet
}

func newIssuer(s *Stack) *issuer {
	t := s.config.Translator
	return &issuer{stack: s, worker: t.NewWorker(), fragment: translator.Packet{
		Buf: make([]byte, translator.Headroom+t.Config().LowestMTU6+translator.Tailroom)}}
}

func (i *issuer) issue(p *translator.Packet) {
	i.worker.SetTime(int64(time.Since(start)))
	v := i.worker.TranslateOwn(p)
	defer i.worker.Done()
	switch {
	case v.Replied():
		i.stack.Deliver(p.Bytes())
	case v.IsForward() && i.worker.Fragments():
		if size := translator.Headroom + i.stack.config.Translator.Config().LowestMTU6 + translator.Tailroom; len(i.fragment.Buf) < size {
			i.fragment.Buf = make([]byte, size) // a reload may have made it more
		}
		for i.worker.NextFragment(p, &i.fragment) {
			i.stack.write(&i.fragment)
		}
	case v.IsForward():
		i.stack.write(p)
	}
}

// write gives a packet to the device.
func (s *Stack) write(p *translator.Packet) {
	if err := s.config.Write(p); err != nil {
		s.writeErrors.Add(1) // lost, as on any link; the device's task speaks of its troubles itself
		return
	}
	s.written.Add(1)
}
