package local

import (
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// issuer translates what the stack says to workloads by IPv4. The translator
// takes nothing from the device that has an address of ours as its source, for
// anybody could have sent that. It is its own driver's port.
type issuer struct {
	tun.Buffers
	stack  *Stack
	driver *dataplane.Driver
	own    *translator.Packet // that of the stack, whose buffer is none of Buffers
}

func newIssuer(s *Stack) *issuer {
	i := &issuer{stack: s}
	i.driver = dataplane.NewDriver(s.config.Translator.NewWorker(), i, nil)
	return i
}

func (i *issuer) issue(p *translator.Packet) {
	i.own = p
	i.driver.Now()
	i.driver.MoveOwn(p)
	i.driver.Done()
}

// Send is the port's. An error of ours goes back to the stack.
func (i *issuer) Send(p *translator.Packet, v translator.Verdict) {
	if v.Replied() {
		i.stack.Deliver(p.Bytes())
	} else {
		i.stack.write(p)
	}
	i.Release(p)
}

// Deliver is the port's.
func (i *issuer) Deliver(p *translator.Packet, to mapping.Tag, v translator.Verdict) {
	if v.Replied() || i.stack.config.Deliver == nil {
		i.Send(p, v)
		return
	}
	i.stack.wrote(i.stack.config.Deliver(p, to))
	i.Release(p)
}

// Local is the port's.
func (i *issuer) Local(p *translator.Packet) {
	i.stack.Deliver(p.Bytes())
	i.Release(p)
}

// Release is the port's.
func (i *issuer) Release(p *translator.Packet) {
	if p != i.own {
		i.Buffers.Release(p)
	}
}

// write gives a packet to the device.
func (s *Stack) write(p *translator.Packet) { s.wrote(s.config.Write(p)) }

func (s *Stack) wrote(err error) {
	if err != nil {
		s.writeErrors.Add(1) // lost, as on any link; the device's task speaks of its troubles itself
		return
	}
	s.written.Add(1)
}
