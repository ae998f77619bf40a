//go:build linux

package netns

import (
	"net"
	"testing"
)

func TestDoRunsInsideTheNamespace(t *testing.T) {
	a, b := New(t, "a"), New(t, "b")
	Veth(t, a, "eth0", b, "eth0")
	a.IP("addr add 2001:db8::1/64 dev eth0")
	b.IP("addr add 2001:db8::2/64 dev eth0")
	var (
		listener net.Listener
		conn     net.Conn
		err      error
	)
	a.Do(func() { listener, err = net.Listen("tcp", "[2001:db8::1]:7") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	b.Do(func() { conn, err = net.Dial("tcp", "[2001:db8::1]:7") })
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := net.Listen("tcp", "[2001:db8::1]:8"); err == nil {
		t.Fatal("the namespace's address can be used outside of it")
	}
}
