//go:build linux

package fastpath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/special"
)

// between is a UDP packet between two addresses of one family.
func between(src, dst netip.Addr) reference.Packet {
	if src.Is4() {
		b := udp4(20)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		generate.Repair(b)
		return reference.Packet{Bytes: b}
	}
	b := udp6(20)
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return reference.Packet{Bytes: b}
}

func worldNamed(t *testing.T, name string) generate.World {
	t.Helper()
	for _, w := range generate.Worlds() {
		if w.Name == name {
			return w
		}
	}
	t.Fatalf("no world %s", name)
	return generate.World{}
}

// TestSpecialAddresses walks the table of special addresses: what the program
// says of the edges of each entry, and of what lies beside them, is what the
// translator says, as source and as destination, whatever the prefix.
func TestSpecialAddresses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, name := range []string{"global-only", "well-known", "96"} {
		w := worldNamed(t, name)
		j := newPair(t, r, w, loaded(t)).judge()
		workload4, workload6 := netip.MustParseAddr("5.1.2.3"), netip.MustParseAddr("2001:db8:6::3")
		translated := map[netip.Addr]bool{}
		try := func(in reference.Packet, about netip.Addr) {
			o, err := j.check(in, 0)
			if err != nil {
				t.Errorf("%s, %v: %v", name, about, err)
			}
			translated[about] = translated[about] || o.translated
		}
		r.Do(func() {
			for _, e := range special.Registry {
				last := e.Prefix.Addr().AsSlice()
				for i := e.Prefix.Bits(); i < len(last)*8; i++ {
					last[i/8] |= 0x80 >> (i % 8)
				}
				end, _ := netip.AddrFromSlice(last)
				for _, a := range []netip.Addr{e.Prefix.Addr().Prev(), e.Prefix.Addr(), end, end.Next()} {
					if !a.IsValid() {
						continue
					}
					if a.Is6() {
						try(between(a, reference.Embed(w.Prefix, netip.MustParseAddr("8.8.8.8"))), a)
						try(between(workload6, a), a)
						continue
					}
					try(between(a, workload4), a)
					try(between(workload6, reference.Embed(w.Prefix, a)), a)
				}
			}
		})
		for a, want := range map[string]bool{"192.0.0.8": name != "global-only", "192.0.0.9": true, "192.0.0.10": true, "9.255.255.255": true,
			"127.0.0.0": false, "192.0.0.255": name != "global-only"} {
			if got := translated[netip.MustParseAddr(a)]; got != want {
				t.Errorf("%s: %s is translated: %v, want %v", name, a, got, want)
			}
		}
	}
}

// TestOurs: no address of ours is a source of what the program translates, nor a
// destination of what it sends on, also while the workloads of a pool come and go.
func TestOurs(t *testing.T) {
	r := newRig(t)
	w := worldNamed(t, "well-known")
	w.Config.Host4 = netip.MustParseAddr("192.0.2.77")
	w.Config.ICMPSource4, w.Config.ICMPSource6 = netip.MustParsePrefix("192.0.2.64/30"), netip.MustParsePrefix("2001:db8:f::/112")
	w.Pools4 = append(w.Pools4, netip.MustParsePrefix("198.51.100.200/32"))
	// A pool without the address of a gateway in its middle.
	const gateway = "10.20.30.40"
	for bits := 9; bits <= 32; bits++ {
		b := netip.MustParseAddr(gateway).As4()
		b[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
		w.Pools4 = append(w.Pools4, netip.PrefixFrom(netip.AddrFrom4(b), bits).Masked())
	}
	covering := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:f::/124"), IPv4: netip.MustParsePrefix("5.1.8.0/28")}
	w.Mappings = append(w.Mappings, covering)
	p := newPair(t, r, w, loaded(t))
	workload4, workload6, peer4 := netip.MustParseAddr("5.1.2.3"), netip.MustParseAddr("2001:db8:6::3"), netip.MustParseAddr("8.8.8.8")
	embed := func(a netip.Addr) netip.Addr { return reference.Embed(w.Prefix, a) }
	type fate struct {
		translated bool
		verdict    translator.Verdict
	}
	try := func(what string, in reference.Packet, want fate) {
		t.Helper()
		j := p.judge()
		r.Do(func() {
			o, err := j.check(in, 0)
			if got := (fate{o.translated, o.verdict.Reason()}); err != nil || got != want {
				t.Errorf("%s: %+v, want %+v (%v)", what, got, want, err)
			}
		})
	}
	look := func(when string) {
		t.Helper()
		for _, s := range []string{"198.51.100.0", "198.51.100.9", "198.51.100.15", "5.1.2.7", generate.Own4.String(), "192.0.2.64", "192.0.2.67", "198.51.100.200",
			"10.0.0.0", "10.20.30.39", "10.20.30.41", "10.255.255.255"} {
			a := netip.MustParseAddr(s)
			try(when+" from "+s, between(a, workload4), fate{false, translator.SpoofedSource})
			want := fate{false, translator.UntranslatableDestination}
			if a == generate.Own4 {
				want.verdict = translator.Local
			}
			try(when+" to "+s, between(workload6, embed(a)), want)
			try(when+" from the prefix's "+s, between(embed(a), embed(peer4)), fate{false, translator.SpoofedSource})
		}
		for _, s := range []string{"198.51.99.255", "198.51.100.16", "5.1.2.8", "192.0.2.0", "192.0.2.2", "192.0.2.63", "192.0.2.68", "198.51.100.199", "198.51.100.201",
			gateway, "9.255.255.255", "11.0.0.0"} {
			a := netip.MustParseAddr(s)
			try(when+" from "+s, between(a, workload4), fate{true, translator.Forward6})
			try(when+" to "+s, between(workload6, embed(a)), fate{true, translator.Forward4})
		}
	}
	look("at first")
	for _, s := range []string{"198.51.100.2", "5.1.2.3", "203.0.113.9", "198.51.100.7"} {
		try("from the workload "+s, between(netip.MustParseAddr(s), workload4), fate{false, translator.SpoofedSource})
	}
	for _, a := range []netip.Addr{generate.Own6, netip.MustParseAddr("2001:db8:f::7"), netip.MustParseAddr("2001:db8:f::ffff")} {
		try("from "+a.String(), between(a, embed(peer4)), fate{false, translator.SpoofedSource})
	}
	try("to what covers a source pool", between(peer4, netip.MustParseAddr("5.1.8.3")), fate{false, translator.UntranslatableDestination})
	try("to a source", between(workload6, netip.MustParseAddr("2001:db8:f::99")), fate{false, translator.UntranslatableDestination})

	// A workload gets an address of a pool, and one that is a pool of its own.
	for _, s := range []string{"198.51.100.9/32", "198.51.100.200/32", "198.51.100.8/30"} {
		m := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:6::99/128"), IPv4: netip.MustParsePrefix(s)}
		if m.IPv4.Bits() < 32 {
			m.IPv6 = netip.MustParsePrefix("2001:db8:6:9::/126")
		}
		edit := func(removed, added []mapping.Mapping) {
			t.Helper()
			err := p.slow.Edit(func(table *mapping.Table) (*mapping.Table, error) {
				e := table.Edit()
				for _, m := range removed {
					e.Remove(m)
				}
				for _, m := range added {
					if err := e.Insert(m); err != nil {
						return nil, err
					}
				}
				p.table = e.Table()
				return p.table, nil
			})
			if err == nil {
				err = p.fast.Edit(p.table, removed, added)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		edit(nil, []mapping.Mapping{m})
		try("to its workload", between(peer4, m.IPv4.Addr()), fate{true, translator.Forward6})
		try("from its workload", between(m.IPv6.Addr(), embed(peer4)), fate{true, translator.Forward4})
		try("from it", between(m.IPv4.Addr(), workload4), fate{false, translator.SpoofedSource})
		edit([]mapping.Mapping{m}, nil)
		look(fmt.Sprintf("without a workload at %s", s))
	}
}

// TestLongest sends superpackets of the greatest lengths by real devices: a
// packet that would overflow the length of the other family is passed on, and
// what comes out has the length that it says, and its class.
func TestLongest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := loaded(t)
	p := newPair(t, r, worldNamed(t, "well-known"), f)
	r.attach(t, f)
	d := &taps{judge: p.judge(), buf: make([]byte, 1<<17)}
	lengths := []int{65475, 65480, 65494, 65495, 65496, 65500, 65514, 65515, 65516, 65517, 65520, 65527, 65534, 65535}
	for _, to4 := range []bool{true, false} {
		for _, length := range lengths { // of what is behind the IPv6 header, or of all IPv4
			in, longest, from, to, mac := tcpSuper(to4, length), 65515, r.workload, r.uplink, r.workMAC
			if !to4 {
				longest, from, to, mac = 65535, to, from, r.upMAC
			}
			before, err := d.sent(to4)
			if err != nil {
				t.Fatal(err)
			}
			n, err := r.pass(from, to, frame(mac, in), d)
			after, err2 := d.sent(to4)
			if err != nil || err2 != nil {
				t.Fatalf("from IPv6 %v, %d bytes: %v, %v", to4, length, err, err2)
			}
			if translated := after > before; translated != (length <= longest) || translated != (n > 0) {
				t.Errorf("from IPv6 %v, %d bytes: translated %v, %d packets came out", to4, length, translated, n)
			}
		}
	}
}

// pass writes a frame and reads what comes of it on the other side, each of
// which must have the length that it says, and no class.
func (r *rig) pass(from, to int, frame []byte, d *taps) (n int, err error) {
	if err := write(from, frame); err != nil {
		return 0, err
	}
	d.drain(from)
	return n, d.each(to, func(b []byte) error {
		n++
		switch {
		case b[0]>>4 == 4 && (int(binary.BigEndian.Uint16(b[2:])) != len(b) || b[1] != 0):
			return fmt.Errorf("IPv4 packet of %d bytes says % x", len(b), b[:20])
		case b[0]>>4 == 6 && (int(binary.BigEndian.Uint16(b[4:])) != len(b)-40 || b[0] != 0x60 || b[1] != 0):
			return fmt.Errorf("IPv6 packet of %d bytes says % x", len(b), b[:40])
		}
		return nil
	})
}

// tcpSuper is a superpacket from or for the first world's first workload.
func tcpSuper(to4 bool, length int) reference.Packet {
	head, at, gso, proto := udp6(0)[:40], 40, uint8(translator.GSOTCPv6), 6
	if to4 {
		binary.BigEndian.PutUint16(head[4:], uint16(length))
		length += 40
	} else {
		head, at, gso, proto = udp4(0)[:20], 20, translator.GSOTCPv4, 9
		binary.BigEndian.PutUint16(head[2:], uint16(length))
		head[6] = 0x40
	}
	head[proto] = 6
	generate.Repair(head)
	b := append(head, make([]byte, length-at)...)
	b[at+12] = 5 << 4
	return reference.Packet{Bytes: b, Offload: translator.Offload{Flags: translator.FlagNeedsCsum, GSOType: gso,
		HdrLen: uint16(at + 20), GSOSize: 1400, CsumStart: uint16(at), CsumOffset: 16}}
}
