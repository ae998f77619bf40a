package translator

import (
	"net/netip"
	"testing"
)

// TestSender: a workload is one sender whichever way it comes, every other
// workload another, and strangers are so by their prefix.
func TestSender(t *testing.T) {
	tr := newTestWorker(t).t
	from4 := func(src string, port uint16) Sender {
		return tr.Sender(hdr4{src: src, dst: own4, proto: 17}.packet(udp(src, own4, port, 53, nil)))
	}
	echo := func(src string, id uint32) Sender {
		return tr.Sender(hdr4{src: src, dst: own4, proto: 1}.packet(icmp4(8, 0, id<<16, data(9))))
	}
	from6 := func(src string) Sender { return tr.Sender(udp6(src, own6)) }
	workloads := map[string]bool{"workload": true, "of a subnet": true, "its neighbour": true, "sharing": true, "sharing too": true}
	names := map[Sender]string{}
	for name, same := range map[string][]Sender{
		"workload":      {from6(work6), from4(work4, 1), from4(work4, 999), tr.SenderAt(netip.MustParseAddrPort(work4 + ":5"))},
		"of a subnet":   {from6(other6), from4(other4, 7)},
		"its neighbour": {from6("2001:db8:7::6"), from4("203.0.113.6", 7)},
		"sharing": {from6(sharedA6), from4(shared4, 1024), from4(shared4, 2047), echo(shared4, 1030),
			tr.SenderAt(netip.MustParseAddrPort(shared4 + ":1025"))},
		"sharing too": {from6(sharedB6), from4(shared4, 2048), echo(shared4, 2050),
			tr.SenderAt(netip.MustParseAddrPort("[" + sharedB6 + "]:9"))},
		"stranger":          {from6(inside6), from6("2001:db8:dead::ffff")},
		"another stranger":  {from6("2001:db8:dead:1::1")},
		"remote":            {from4(server4, 1), from4("192.0.2.255", 9), echo(server4, 1030), from6("2001:db8:64::192.0.2.9")},
		"another remote":    {from4("192.0.3.1", 1)},
		"nobody's port":     {from4(shared4, 9), from4("198.51.100.77", 9)},
		"nothing of a kind": {tr.Sender(nil), tr.Sender([]byte{0x45}), tr.SenderAt(netip.AddrPort{})},
	} {
		for i, h := range same {
			if was, ok := names[h]; ok && was != name || h != same[0] {
				t.Errorf("%s, %d: also %q", name, i, was)
			}
			names[h] = name
			if want := workloads[name]; h.Workload != want {
				t.Errorf("%s, %d: a workload: %v", name, i, h.Workload)
			}
		}
	}
	if a, b := newTestWorker(t).t.Sender(udp6(work6, own6)), from6(work6); a == b {
		t.Error("two processes have the same hash")
	}
}
