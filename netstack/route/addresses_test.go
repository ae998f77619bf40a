package route

import (
	"net/netip"
	"testing"
)

func TestAddresses(t *testing.T) {
	var h Addresses
	if h.Has(netip.MustParseAddr("2001:db8::dead")) {
		t.Error("the host is said to have a documentation address")
	}
	first := h.read
	h.Has(netip.MustParseAddr("2001:db8::beef"))
	if h.read != first {
		t.Error("each stranger has the interfaces read")
	}
	if !h.Has(netip.MustParseAddr("127.0.0.1")) {
		t.Error("the host is said not to have 127.0.0.1")
	}
}
