package explain

import (
	"encoding/binary"
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// bytes makes the packet, checksums and all.
func (k *packet) bytes() ([]byte, error) {
	payload, err := k.payload()
	if err != nil {
		return nil, err
	}
	head := header.IPv4MinimumSize
	if k.v6 {
		head = header.IPv6MinimumSize
		if k.frag {
			head += header.IPv6FragmentHeaderSize
		}
	}
	length := max(k.length, head+len(payload))
	switch {
	case k.length != 0 && k.length != length:
		return nil, fmt.Errorf("len %d: the headers alone have %d bytes", k.length, length)
	case length > 65535:
		return nil, fmt.Errorf("len %d is more than 65535", length)
	}
	b := make([]byte, length)
	copy(b[head:], payload)
	if k.v6 {
		k.header6(b)
	} else {
		k.header4(b)
	}
	k.checksum(b[head:])
	return b, nil
}

func (k *packet) header4(b []byte) {
	fields := header.IPv4Fields{
		TOS: k.class, TotalLength: uint16(len(b)), ID: uint16(k.id), TTL: k.hops, Protocol: k.proto,
		SrcAddr: tcpip.AddrFrom4(k.src.As4()), DstAddr: tcpip.AddrFrom4(k.dst.As4()),
		FragmentOffset: uint16(k.offset),
	}
	if k.df {
		fields.Flags |= header.IPv4FlagDontFragment
	}
	if k.more {
		fields.Flags |= header.IPv4FlagMoreFragments
	}
	ip := header.IPv4(b)
	ip.Encode(&fields)
	ip.SetChecksum(^ip.CalculateChecksum())
}

func (k *packet) header6(b []byte) {
	header.IPv6(b).Encode(&header.IPv6Fields{
		TrafficClass: k.class, PayloadLength: uint16(len(b) - header.IPv6MinimumSize),
		TransportProtocol: tcpip.TransportProtocolNumber(k.proto), HopLimit: k.hops,
		SrcAddr: tcpip.AddrFrom16(k.src.As16()), DstAddr: tcpip.AddrFrom16(k.dst.As16()),
	})
	if !k.frag {
		return
	}
	header.IPv6(b).SetNextHeader(header.IPv6FragmentHeader)
	f := b[header.IPv6MinimumSize:] // RFC 8200 section 4.5
	f[0] = k.proto
	binary.BigEndian.PutUint16(f[2:], uint16(k.offset))
	if k.more {
		f[3] |= 1
	}
	binary.BigEndian.PutUint32(f[4:], k.id)
}

// payload is what follows the IP header, with checksum fields of zero.
func (k *packet) payload() ([]byte, error) {
	switch {
	case k.offset > 0:
		return make([]byte, 8), nil
	case k.icmp:
		b := make([]byte, header.ICMPv6MinimumSize)
		b[0], b[1] = k.icmpType, k.code
		binary.BigEndian.PutUint32(b[4:], k.rest)
		if k.quoted == nil {
			return b, nil
		}
		quoted, err := k.quoted.bytes()
		if err != nil {
			return nil, fmt.Errorf("quoting: %w", err)
		}
		limit := 576 - header.IPv4MinimumSize - len(b) // RFC 1812 section 4.3.2.3
		if k.v6 {
			limit = header.IPv6MinimumMTU - header.IPv6MinimumSize - len(b) // RFC 4443 section 2.4 (c)
		}
		return append(b, quoted[:min(len(quoted), limit)]...), nil
	case k.proto == 6:
		b := make([]byte, header.TCPMinimumSize)
		header.TCP(b).Encode(&header.TCPFields{
			SrcPort: k.sport, DstPort: k.dport, SeqNum: 1, DataOffset: header.TCPMinimumSize,
			Flags: header.TCPFlagSyn, WindowSize: 65535,
		})
		return b, nil
	case k.proto == 17:
		b := make([]byte, header.UDPMinimumSize)
		header.UDP(b).Encode(&header.UDPFields{SrcPort: k.sport, DstPort: k.dport})
		return b, nil
	}
	return make([]byte, 8), nil
}

// checksum completes the upper layer. A fragment gets the sum of what it
// holds, which is as good as any: nobody can verify it.
func (k *packet) checksum(b []byte) {
	if k.offset > 0 {
		return
	}
	at := map[uint8]int{6: 16, 17: 6, 1: 2, 58: 2}[k.proto]
	if k.proto == 17 {
		header.UDP(b).SetLength(uint16(len(b)))
	}
	if at == 0 || at+2 > len(b) || k.noChecksum {
		return
	}
	sum := uint16(0)
	if k.proto != 1 {
		src, dst := k.src.AsSlice(), k.dst.AsSlice()
		sum = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(k.proto), tcpip.AddrFromSlice(src), tcpip.AddrFromSlice(dst),
			uint16(len(b)))
	}
	sum = ^checksum.Checksum(b, sum)
	if k.proto == 17 && sum == 0 {
		sum = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}
