package netstack

import (
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/translator"
)

// FuzzEndpoint: whatever passes either way, nothing panics, and TestMain finds
// no packet left over.
func FuzzEndpoint(f *testing.F) {
	v4 := make([]byte, 28)
	header.IPv4(v4).Encode(&header.IPv4Fields{TotalLength: 28, TTL: 64, Protocol: 17})
	copy(v4[12:], workload4.AsSlice())
	copy(v4[16:], workload4.AsSlice())
	header.IPv4(v4).SetChecksum(^header.IPv4(v4).CalculateChecksum())
	v6 := make([]byte, 48)
	header.IPv6(v6).Encode(&header.IPv6Fields{PayloadLength: 8, TransportProtocol: 17, HopLimit: 64})
	copy(v6[8:], workload6.AsSlice())
	copy(v6[24:], server46.AsSlice())
	for _, seed := range [][]byte{nil, v4, v6} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, packet []byte, client bool) {
		lower := channel.New(64, 1500, "")
		defer lower.Close()
		e := Translate(lower, newTranslator(t, translator.Config{Client: client}))
		above, err := host.New(e, workload4, workload6)
		if err != nil {
			t.Fatal(err)
		}
		defer above.Close()
		protocol := header.IPv4ProtocolNumber
		if len(packet) > 0 && packet[0]>>4 == 6 {
			protocol = header.IPv6ProtocolNumber
		}
		out := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		out.NetworkProtocolNumber = protocol
		var list stack.PacketBufferList
		list.PushBack(out)
		e.WritePackets(list)
		list.DecRef()
		in := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		lower.InjectInbound(protocol, in)
		in.DecRef()
	})
}
