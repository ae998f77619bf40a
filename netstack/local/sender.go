package local

import (
	"hash/maphash"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/budget"
)

// sender names whom a packet is from, by a hash that nobody can foresee.
func (s *Stack) sender(packet []byte) translator.Sender {
	if s.config.Translator != nil {
		return s.config.Translator.Sender(packet)
	}
	switch {
	case len(packet) >= header.IPv6MinimumSize && packet[0]>>4 == 6:
		return translator.Sender{Hash: maphash.Bytes(s.fallback, packet[8:16])}
	case len(packet) >= header.IPv4MinimumSize:
		return translator.Sender{Hash: maphash.Bytes(s.fallback, packet[12:16])}
	}
	return translator.Sender{}
}

// senderOf is sender for who is at the other end of a connection.
func (s *Stack) senderOf(c net.Conn) translator.Sender {
	at := netip.AddrPort{}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		at = a.AddrPort()
	}
	if s.config.Translator != nil {
		return s.config.Translator.SenderAt(at)
	}
	return translator.Sender{Hash: maphash.Comparable(s.fallback, at.Addr().Unmap())}
}

// errorBudget bounds the ICMP errors of the stack for each that hears of them,
// for all workloads and for all others, as the translator does with its own (RFC 4443 2.4 (f)).
type errorBudget struct {
	each    [2]budget.Shares // of strangers, of workloads
	all     [2]budget.Bucket
	limited atomic.Uint64
}

// class is where a sender stands among two: strangers, and workloads.
func class(s translator.Sender) int {
	if s.Workload {
		return 1
	}
	return 0
}

// errorRate is what one hears, errorsOfAll what all of a class do.
var (
	errorRate   = budget.Rate{PerSecond: 100, Burst: 50}
	errorsOfAll = budget.Rate{PerSecond: 10_000, Burst: 5000}
	began       = time.Now()
)

// allows reports whether a packet of the stack may go: all may but ICMP errors that
// are too many for the sender of what they quote.
func (e *errorBudget) allows(packet []byte, sender func([]byte) translator.Sender) bool {
	quote := quoted(packet)
	if quote == nil {
		return true
	}
	now, random := int64(time.Since(began)), rand.Uint64()
	from := sender(quote)
	c := class(from)
	if e.each[c].Take(from.Hash, now, errorRate, random) && e.all[c].Take(now, errorsOfAll, random>>32) {
		return true
	}
	e.limited.Add(1)
	return false
}

// quoted is the packet that an ICMP error is about; nil if packet is none.
func quoted(packet []byte) []byte {
	const headerLen = header.ICMPv6MinimumSize // of ICMPv4 as well
	switch {
	case len(packet) >= header.IPv6MinimumSize+headerLen && packet[0]>>4 == 6:
		ip := header.IPv6(packet)
		if icmp := header.ICMPv6(packet[header.IPv6MinimumSize:]); ip.NextHeader() == uint8(header.ICMPv6ProtocolNumber) &&
			icmp.Type() < header.ICMPv6EchoRequest {
			return packet[header.IPv6MinimumSize+headerLen:]
		}
	case len(packet) >= header.IPv4MinimumSize+headerLen && packet[0]>>4 == 4:
		ip := header.IPv4(packet)
		l4 := int(ip.HeaderLength())
		if ip.Protocol() != uint8(header.ICMPv4ProtocolNumber) || len(packet) < l4+headerLen {
			return nil
		}
		switch header.ICMPv4(packet[l4:]).Type() {
		case header.ICMPv4DstUnreachable, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
			return packet[l4+headerLen:]
		}
	}
	return nil
}
