package reference

import "github.com/natless/natless/translator"

// firstUse leaves a packet to who gives assignments by first use (1.9): its source is one
// that may have one, and it is for somewhere.
func (c *call) firstUse(d *datagram) bool {
	if !within(d.src, c.t.Config.FirstUse) || d.ttl <= 1 || d.segmentsLeft != 0 || d.behind {
		return false
	}
	if _, why := c.destination4(d.dst); why != ok {
		return false
	}
	c.rule("1.9.first-use")
	c.fault(translator.FirstUse)
	return true
}
