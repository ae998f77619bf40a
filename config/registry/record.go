package registry

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
	"unique"

	"github.com/natless/natless/translator/ports"
)

// The first byte of a record says what is in it. Records are packed by hand,
// since 100,000 of them are read before the daemon is ready: that takes half
// the time that encoding/json would need. Even numbers have the host's interface.
const (
	recordUnsummed       = 1 // and 2 with the host's interface: without a checksum
	recordUnsummedHost   = 2
	recordUnnumbered     = 3 // and 4 with the host's interface: without a serial
	recordUnnumberedHost = 4
	record               = 5
	recordHost           = 6 // it names the host's interface, too
)

var errRecord = errors.New("record is damaged, or of a newer natlessd")

// encode packs an assignment; cool is when its set is free again, or zero.
func encode(a *Assignment, cool time.Time) []byte {
	b := []byte{record}
	if a.Request.HostInterface != "" {
		b[0] = recordHost
	}
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	count := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	when := func(t time.Time) {
		if t.IsZero() {
			count(0)
		} else {
			b = binary.AppendUvarint(b, uint64(t.UnixNano()))
		}
	}
	b = binary.AppendUvarint(binary.AppendUvarint(b, a.Serial), a.Succeeds)
	q := &a.Request
	for _, s := range []string{a.Key.ContainerID, a.Key.Interface, q.Name, q.Network, q.Netns, q.Pool, a.Pool} {
		text(s)
	}
	if b[0] == recordHost {
		text(q.HostInterface)
	}
	for _, addr := range []netip.Addr{q.Address, a.Address} {
		text(string(addr.AsSlice()))
	}
	count(q.Ports)
	count(len(q.IPv6))
	for _, ip := range q.IPv6 {
		b = append(b, ip.AsSlice()...)
	}
	count(len(q.ExtraPorts))
	for _, p := range q.ExtraPorts {
		count(int(p))
	}
	count(a.Ports.Len())
	for r := range a.Ports.Runs() {
		count(int(r.First))
		count(int(r.Last))
	}
	count(a.size)
	when(a.Since)
	when(a.Until)
	when(cool)
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

// unpacker reads what encode wrote. After the first thing amiss it gives zeros.
type unpacker struct {
	rest []byte
	bad  bool
}

func (u *unpacker) bytes(n uint64) []byte {
	if u.bad || n > uint64(len(u.rest)) {
		u.bad = true
		return nil
	}
	b := u.rest[:n]
	u.rest = u.rest[n:]
	return b
}

func (u *unpacker) number() uint64 {
	v, n := binary.Uvarint(u.rest)
	if n <= 0 {
		u.bad = true
		return 0
	}
	u.rest = u.rest[n:]
	return v
}

// count is a number of things that each take a byte at least.
func (u *unpacker) count() int {
	n := u.number()
	if n > uint64(len(u.rest)) {
		u.bad = true
		return 0
	}
	return int(n)
}

func (u *unpacker) port() uint16 { return uint16(u.number()) }

func (u *unpacker) text() string { return string(u.bytes(u.number())) }

// word is a text that many assignments have in common, which is kept once.
func (u *unpacker) word() string { return unique.Make(u.text()).Value() }

func (u *unpacker) address() netip.Addr {
	a, _ := netip.AddrFromSlice(u.bytes(u.number()))
	return a
}

func (u *unpacker) when() time.Time {
	n := u.number()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}

// unseal gives what stands between a record's first byte and its checksum.
func unseal(b []byte) (body []byte, err error) {
	if len(b) == 0 {
		return nil, errRecord
	}
	switch b[0] {
	case recordUnsummed, recordUnsummedHost:
		return b[1:], nil
	case recordUnnumbered, recordUnnumberedHost, record, recordHost:
		end := len(b) - 4
		if end < 1 || checksum(b[:end]) != binary.BigEndian.Uint32(b[end:]) {
			return nil, errRecord
		}
		return b[1:end], nil
	}
	return nil, errRecord
}

// decode unpacks an assignment. It keeps nothing of b.
func decode(b []byte) (a *Assignment, cool time.Time, err error) {
	body, err := unseal(b)
	if err != nil {
		return nil, cool, err
	}
	kind := b[0]
	u := unpacker{rest: body}
	a = new(Assignment)
	if kind == record || kind == recordHost {
		a.Serial, a.Succeeds = u.number(), u.number()
	}
	q := &a.Request
	a.Key.ContainerID, a.Key.Interface = u.text(), u.word()
	q.Name, q.Network, q.Netns = u.text(), u.word(), u.text()
	q.Pool, a.Pool = u.word(), u.word()
	if kind%2 == 0 {
		q.HostInterface = u.text()
	}
	q.Address, a.Address = u.address(), u.address()
	q.Ports = int(u.number())
	q.IPv6 = make([]netip.Addr, u.count())
	for i := range q.IPv6 {
		q.IPv6[i], _ = netip.AddrFromSlice(u.bytes(16))
	}
	if n := u.count(); n > 0 {
		q.ExtraPorts = make([]uint16, n)
	}
	for i := range q.ExtraPorts {
		q.ExtraPorts[i] = u.port()
	}
	runs := make([]ports.Range, u.count())
	for i := range runs {
		runs[i] = ports.Range{First: u.port(), Last: u.port()}
	}
	if a.Ports, err = ports.Disjoint(runs); err != nil {
		return nil, cool, errRecord
	}
	a.size = int(u.number())
	a.Since, a.Until, cool = u.when(), u.when(), u.when()
	if u.bad || len(u.rest) > 0 || !a.Address.Is4() || len(q.IPv6) == 0 {
		return nil, cool, errRecord
	}
	return a, cool, nil
}
