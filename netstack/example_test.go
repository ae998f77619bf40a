package netstack_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"

	"github.com/natless/natless/netstack"
	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// A program that embeds gVisor has an IPv6-only link, a tunnel say. Three lines
// give its stack IPv4 on it.
func ExampleTranslate() {
	link, network := pipe.New("", "", 1500) // an IPv6-only link, and what is behind it

	table, _ := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), []mapping.Mapping{{IPv6: netip.MustParsePrefix("2001:db8::46/128"), IPv4: netip.MustParsePrefix("192.0.0.2/32")}})
	t, _ := translator.New(translator.Config{Client: true, IPv4: netip.MustParseAddr("192.0.0.1"), IPv6: netip.MustParseAddr("2001:db8::1")}, table)
	translated := netstack.Translate(link, t)

	// From here on: an IPv4 stack (host.New makes a gVisor stack with a NIC, an
	// address and a default route), and a server that is at 64:ff9b::808:808.
	stack, err := host.New(translated, netip.MustParseAddr("192.0.0.2"))
	if err != nil {
		log.Fatal(err)
	}
	defer stack.Close()
	server, err := host.New(network, netip.MustParseAddr("64:ff9b::8.8.8.8"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	listener, err := server.ListenTCP(netip.MustParseAddrPort("[64:ff9b::808:808]:80"))
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()

	conn, err := stack.DialContext(context.Background(), "tcp", "8.8.8.8:80")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	peer, err := listener.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	fmt.Println(conn.LocalAddr().Network(), "to", conn.RemoteAddr())
	fmt.Println("the server sees", peer.RemoteAddr().String()[:len("[2001:db8::46]")])
	// Output:
	// tcp to 8.8.8.8:80
	// the server sees [2001:db8::46]
}
