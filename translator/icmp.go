package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
)

// ICMPv4 types and codes (RFC 792, RFC 1812 5.2.7).
const (
	icmp4EchoReply        = 0
	icmp4Unreachable      = 3
	icmp4SourceQuench     = 4
	icmp4Redirect         = 5
	icmp4EchoRequest      = 8
	icmp4TimeExceeded     = 11
	icmp4ParameterProblem = 12

	icmp4Host        = 1
	icmp4Protocol    = 2
	icmp4Port        = 3
	icmp4TooBig      = 4
	icmp4SourceRoute = 5
	icmp4HostAdmin   = 10
	icmp4Prohibited  = 13
)

// ICMPv6 types and codes (RFC 4443).
const (
	icmp6Unreachable      = 1
	icmp6TooBig           = 2
	icmp6TimeExceeded     = 3
	icmp6ParameterProblem = 4
	icmp6EchoRequest      = 128
	icmp6EchoReply        = 129
	icmp6Redirect         = 137

	icmp6NoRoute      = 0
	icmp6Prohibited   = 1
	icmp6Port         = 4
	icmp6SourcePolicy = 5
)

const (
	sizeICMP  = 8    // of the header that all messages of interest have
	maxError4 = 576  // RFC 1812 4.3.2.3
	maxError6 = 1280 // RFC 4443 2.4 (c)
)

// icmpError4 says that an ICMPv4 type is that of an error (RFC 1122 3.2.2).
func icmpError4(typ uint8) bool {
	switch typ {
	case icmp4Unreachable, icmp4SourceQuench, icmp4Redirect, icmp4TimeExceeded, icmp4ParameterProblem:
		return true
	}
	return false
}

// icmpError6 says that an ICMPv6 type is that of an error (RFC 4443 2.1).
func icmpError6(typ uint8) bool { return typ < 128 }

// echo says that typ, of that family's ICMP, is echo request or reply.
func echo(proto, typ uint8) bool { // rule 6.echo
	if proto == protoICMP4 {
		return typ == icmp4EchoRequest || typ == icmp4EchoReply
	}
	return typ == icmp6EchoRequest || typ == icmp6EchoReply
}

// echoTo6 turns ICMPv4 echo into ICMPv6 echo, whose checksum covers a pseudo
// header as well (RFC 7915 4.2). length is that of the whole message, of which
// a quote may have only the beginning.
func echoTo6(l4 []byte, src, dst mapping.Addr6, length int, partial bool) {
	typ := uint8(icmp6EchoReply)
	if l4[0] == icmp4EchoRequest {
		typ = icmp6EchoRequest
	}
	setEcho(l4, typ, 0, pseudo6(src, dst, length, protoICMP6), partial)
}

// echoTo4 is the other way of echoTo6 (RFC 7915 5.2).
func echoTo4(l4 []byte, src, dst mapping.Addr6, length int, partial bool) {
	typ := uint8(icmp4EchoReply)
	if l4[0] == icmp6EchoRequest {
		typ = icmp4EchoRequest
	}
	setEcho(l4, typ, pseudo6(src, dst, length, protoICMP6), 0, partial)
}

// setEcho changes the type of an echo message, and its checksum by that and by
// what becomes of the pseudo header.
func setEcho(l4 []byte, typ uint8, oldPseudo, newPseudo uint64, partial bool) {
	oldType := l4[0]
	l4[0] = typ
	if len(l4) < 4 {
		return
	}
	if partial {
		binary.BigEndian.PutUint16(l4[2:], fold(newPseudo))
		return
	}
	diff := difference(add(oldPseudo, uint64(oldType)<<8), add(newPseudo, uint64(typ)<<8)) // rule 4.icmp
	binary.BigEndian.PutUint16(l4[2:], update(binary.BigEndian.Uint16(l4[2:]), diff))
}

// problem is what an ICMP error says: its header without the checksum.
type problem struct {
	typ, code uint8
	rest      uint32 // pointer or MTU, where the other family has it
	extended  bool   // may carry extensions (RFC 4884)
}

// plateaus are the MTUs that a host guesses where a router does not say its
// own (RFC 1191 7.1).
var plateaus = [...]int{65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68}

// plateau is the greatest one below length.
func plateau(length int) int {
	for _, p := range plateaus {
		if p < length {
			return p
		}
	}
	return plateaus[len(plateaus)-1]
}
