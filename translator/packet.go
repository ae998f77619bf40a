package translator

// Headroom is how many bytes must be free in front of a packet: room for the
// greatest growth, which is an ICMPv4 error whose own header and quoted packet
// both become IPv6, one of them with a fragment header, and for the device's
// own header before that.
const Headroom = 128

// Tailroom is how many bytes must be free behind a packet, for the padding of
// extended ICMP messages (RFC 4884) and the echo trailer.
const Tailroom = 64

// Packet is one IP packet, or one superpacket, inside a buffer that its caller
// owns. Translate works in place: it moves Start and End and never payload.
type Packet struct {
	// Buf is the whole buffer. Buf[Start:End] is the packet, from the first
	// byte of its IP header. At least Headroom bytes lie before Start and
	// Tailroom bytes behind End when Translate is called.
	Buf        []byte
	Start, End int
	Offload
}

// Bytes is the packet from the first byte of its IP header.
func (p *Packet) Bytes() []byte { return p.Buf[p.Start:p.End] }

// roomy says that there is a packet, and room on both sides.
func (p *Packet) roomy() bool { // rule 7.no-panic
	return p.Start >= Headroom && p.End <= len(p.Buf)-Tailroom && p.Start < p.End
}

// Offload holds the fields of a virtio-net header (VIRTIO 1.2, 5.1.6), in host
// byte order. CsumStart counts from the first byte of the IP header. The zero
// value is an ordinary packet with a complete checksum.
type Offload struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16
	GSOSize    uint16
	CsumStart  uint16
	CsumOffset uint16
}

// Flags and types of Offload (linux/virtio_net.h).
const (
	FlagNeedsCsum = 1 // the checksum field holds the pseudo header's sum alone
	FlagDataValid = 2 // the device vouches for the checksum

	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // UFO: IP fragments, not datagrams
	GSOTCPv6 = 4
	GSOUDPL4 = 5 // USO: datagrams of GSOSize bytes each
	GSOECN   = 0x80
)
