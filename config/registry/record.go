package registry

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

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
	recordInside         = 7 // and 8 with the host's interface: the workload has its IPv4 inside
	recordLabels         = 9 // and 10 with the host's interface: it has labels, and says whether its IPv4 is inside
)

var errRecord = errors.New("record is damaged, or of a newer natlessd")

// encode packs an assignment; cool is when its set is free again, or zero.
func encode(a *Assignment, cool time.Time) []byte {
	b := []byte{record}
	if a.inside != 0 {
		b[0] = recordInside // others stay as they were: an older natlessd reads them
	}
	if len(a.Request.Labels) > 0 {
		b[0] = recordLabels
	}
	if a.Request.HostInterface != "" {
		b[0]++
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
	if q.HostInterface != "" {
		text(q.HostInterface)
	}
	if b[0] >= recordInside {
		text(q.Inside)
		b = binary.BigEndian.AppendUint32(b, a.inside)
	}
	if b[0] >= recordLabels {
		count(len(q.Labels))
		for _, k := range slices.Sorted(maps.Keys(q.Labels)) {
			text(k)
			text(q.Labels[k])
		}
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

// unpacker reads what encode wrote. After the first thing amiss it gives zeros. What
// it gives are parts of what it reads.
type unpacker struct {
	rest string
	bad  bool
}

func (u *unpacker) bytes(n uint64) string {
	if u.bad || n > uint64(len(u.rest)) {
		u.bad = true
		return ""
	}
	b := u.rest[:n]
	u.rest = u.rest[n:]
	return b
}

func (u *unpacker) number() uint64 {
	v := uint64(0)
	for i := range min(len(u.rest), binary.MaxVarintLen64) {
		b := u.rest[i]
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if i == binary.MaxVarintLen64-1 && b > 1 {
				break // more than 64 bits
			}
			u.rest = u.rest[i+1:]
			return v
		}
	}
	u.bad = true
	return 0
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

func (u *unpacker) uint32() uint32 {
	if b := u.bytes(4); !u.bad {
		return binary.BigEndian.Uint32([]byte(b))
	}
	return 0
}

func (u *unpacker) port() uint16 { return uint16(u.number()) }

func (u *unpacker) text() string { return u.bytes(u.number()) }

func (u *unpacker) address() netip.Addr {
	switch b := u.text(); len(b) {
	case 4:
		return netip.AddrFrom4([4]byte([]byte(b)))
	case 16:
		return netip.AddrFrom16([16]byte([]byte(b)))
	}
	return netip.Addr{}
}

func (u *unpacker) ipv6() netip.Addr {
	b := u.bytes(16)
	if u.bad {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte([]byte(b)))
}

func (u *unpacker) when() time.Time {
	n := u.number()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}

// sealed reports whether a record is of a known kind and its checksum, if it has one, is
// right.
func sealed(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	switch b[0] {
	case recordUnsummed, recordUnsummedHost:
		return true
	case recordUnnumbered, recordUnnumberedHost, record, recordHost, recordInside, recordInside + 1, recordLabels, recordLabels + 1:
		end := len(b) - 4
		return end >= 1 && checksum(b[:end]) == binary.BigEndian.Uint32(b[end:])
	}
	return false
}

// decode unpacks an assignment. It keeps nothing of b.
func decode(b []byte) (a *Assignment, cool time.Time, err error) {
	if !sealed(b) {
		return nil, cool, errRecord
	}
	a = new(Assignment)
	if cool, err = unpack(a, string(b), nil); err != nil {
		return nil, cool, err
	}
	return a, cool, nil
}

// unpack unpacks a record that is sealed, whose texts are parts of it from then on.
// Lists lie in room, if there is some.
func unpack(a *Assignment, b string, room *scratch) (cool time.Time, err error) {
	kind, u := b[0], unpacker{rest: b[1:]}
	if kind >= recordUnnumbered {
		u.rest = b[1 : len(b)-4]
	}
	*a = Assignment{}
	if numbered(kind) {
		a.Serial, a.Succeeds = u.number(), u.number()
	}
	q := &a.Request
	a.Key.ContainerID, a.Key.Interface = u.text(), u.text()
	q.Name, q.Network, q.Netns = u.text(), u.text(), u.text()
	q.Pool, a.Pool = u.text(), u.text()
	if kind%2 == 0 {
		q.HostInterface = u.text()
	}
	if kind >= recordInside {
		q.Inside, a.inside = u.text(), u.uint32()
	}
	if kind >= recordLabels {
		q.Labels = u.labels()
	}
	q.Address, a.Address = u.address(), u.address()
	q.Ports = int(u.number())
	if err := u.lists(a, room); err != nil {
		return cool, err
	}
	a.size = int(u.number())
	a.Since, a.Until, cool = u.when(), u.when(), u.when()
	if u.bad || len(u.rest) > 0 || !a.Address.Is4() || len(q.IPv6) == 0 {
		return cool, errRecord
	}
	return cool, nil
}

func (u *unpacker) labels() map[string]string {
	n := u.count()
	labels := make(map[string]string, n)
	for range n {
		k := u.text()
		labels[k] = u.text()
	}
	return labels
}

// numbered says that records of a kind have serials.
func numbered(kind byte) bool { return kind >= record }

// lists unpacks the IPv6 addresses and ports.
func (u *unpacker) lists(a *Assignment, room *scratch) (err error) {
	if room == nil {
		room = new(scratch)
	}
	q := &a.Request
	q.IPv6 = within(room.ipv6, u.count())
	for i := range q.IPv6 {
		q.IPv6[i] = u.ipv6()
	}
	if n := u.count(); n > 0 {
		q.ExtraPorts = within(room.extra, n)
	}
	for i := range q.ExtraPorts {
		q.ExtraPorts[i] = u.port()
	}
	runs := within(room.run, u.count())
	for i := range runs {
		runs[i] = ports.Range{First: u.port(), Last: u.port()}
	}
	if a.Ports, err = ports.Disjoint(runs); err != nil {
		return errRecord
	}
	return nil
}

// within is a list of n, in room if it has as much.
func within[T any](room []T, n int) []T {
	if n <= len(room) {
		return room[:n:n]
	}
	return make([]T, n)
}
