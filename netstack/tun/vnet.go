package tun

import (
	"encoding/binary"

	"github.com/natless/natless/translator"
)

// headerLen is the length of the virtio-net header without num_buffers, which
// TUN does not use (struct virtio_net_hdr, linux/virtio_net.h).
const headerLen = 10

// decode reads the virtio-net header that the kernel wrote in front of the
// packet and of its link header of so many bytes. TUN uses the machine's byte order
// unless told otherwise.
func decode(p *translator.Packet, link int) {
	at := p.Start - link
	h := p.Buf[at-headerLen : at]
	p.Offload = translator.Offload{
		Flags:      h[0],
		GSOType:    h[1],
		HdrLen:     binary.NativeEndian.Uint16(h[2:]),
		GSOSize:    binary.NativeEndian.Uint16(h[4:]),
		CsumStart:  binary.NativeEndian.Uint16(h[6:]),
		CsumOffset: binary.NativeEndian.Uint16(h[8:]),
	}
	if p.Flags&translator.FlagNeedsCsum != 0 {
		p.CsumStart -= uint16(link)
	}
}

// encode writes the header in front of the packet and returns both as the
// bytes to be written. The header's length is computed anew: what a packet
// was read with is not to be trusted.
func encode(p *translator.Packet, link int) []byte {
	frame := p.Buf[p.Start-link-headerLen : p.End]
	if p.Flags&translator.FlagNeedsCsum == 0 && p.GSOType == translator.GSONone {
		*(*[headerLen]byte)(frame) = [headerLen]byte{}
		return frame
	}
	frame[0], frame[1] = p.Flags, p.GSOType
	hdrLen, csumStart := headersLen(p), p.CsumStart
	if hdrLen != 0 {
		hdrLen += uint16(link)
	}
	if p.Flags&translator.FlagNeedsCsum != 0 {
		csumStart += uint16(link)
	}
	binary.NativeEndian.PutUint16(frame[2:], hdrLen)
	binary.NativeEndian.PutUint16(frame[4:], p.GSOSize)
	binary.NativeEndian.PutUint16(frame[6:], csumStart)
	binary.NativeEndian.PutUint16(frame[8:], p.CsumOffset)
	return frame
}

// headersLen is the length of all headers of a superpacket, up to its payload,
// and 0 for an ordinary packet or one that is too short to say.
func headersLen(p *translator.Packet) uint16 {
	switch p.GSOType &^ translator.GSOECN {
	case translator.GSOTCPv4, translator.GSOTCPv6:
		if at := int(p.CsumStart) + 12; p.Start+at < p.End {
			return p.CsumStart + uint16(p.Buf[p.Start+at]>>4)*4
		}
	case translator.GSOUDPL4:
		return p.CsumStart + 8
	}
	return 0
}
