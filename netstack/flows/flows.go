// Package flows itemises what was translated: who talked to whom, by how many
// packets and bytes each way. The dataplane's queues and the kernel's fast path each
// fill a table of their own; a collector takes these away every few moments, merges
// both ways and both paths into open flows, and closes them. No packet depends on a
// table: one that is full, or emptied in the middle, costs detail, which is counted,
// and nothing else. No name, no format and no socket may enter here.
package flows

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Key is a flow as IPv4 saw it, from its workload's point of view. It lies in the
// kernel's map as it stands here.
type Key struct {
	Local, Remote uint32 // IPv4 addresses, the workload's and the other's
	// Slot is the mapping's (mapping.Entry.Slot): whose flow it is where a shared
	// address alone does not tell, as in fragments after the first.
	Slot                  uint32
	LocalPort, RemotePort uint16 // of ICMP: see ICMP
	Proto                 uint8
	// Verdict is what became of its packets. Where some were translated and others
	// not, these are flows of their own.
	Verdict Verdict
	Pad     [2]byte
}

// Verdict is what became of packets.
type Verdict uint8

// The verdicts.
const (
	Forwarded      Verdict = iota // the kernel's map has no others
	Denied                        // by a policy
	DeniedFragment                // by policies, for what a fragment does not say
	Shed                          // its workload gave way; the far end is not known
	NumVerdicts
)

var verdictNames = [NumVerdicts]string{Forwarded: "forward", Denied: "denied", DeniedFragment: "denied-fragment", Shed: "shed"}

func (v Verdict) String() string { return verdictNames[min(v, Shed)] }

// ParseVerdict is the inverse of String.
func ParseVerdict(s string) (Verdict, bool) {
	v := slices.Index(verdictNames[:], s)
	return Verdict(max(v, 0)), v >= 0
}

// refused says that a flow is of packets that policies denied, which anybody can send
// as many of as he likes.
func (k *Key) refused() bool { return k.Verdict == Denied || k.Verdict == DeniedFragment }

// Protocols that flows know more of than that they are.
const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoICMP6    = 58
)

// ICMP gives type, code and identifier of an ICMP flow. An echo and its reply are
// one flow, of the request's type; the identifier is the workload's "port", as that
// decides whose an echo message is.
func (k *Key) ICMP() (typ, code uint8, id uint16) {
	return uint8(k.RemotePort >> 8), uint8(k.RemotePort), k.LocalPort
}

// LocalAddr is the workload's address and port.
func (k *Key) LocalAddr() netip.AddrPort { return addrPort(k.Local, k.LocalPort) }

// RemoteAddr is the other's.
func (k *Key) RemoteAddr() netip.AddrPort { return addrPort(k.Remote, k.RemotePort) }

func addrPort(a uint32, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), port)
}

// Direction is a packet's, as its workload sees it.
type Direction uint8

// The two directions.
const (
	Sent Direction = iota
	Received
)

// Sum is what was seen of a flow. It lies in the kernel's map as it stands here.
type Sum struct {
	First, Last    int64     // see Now
	Packets, Bytes [2]uint64 // by Direction; as on an IPv4 wire: a superpacket is the packets that it stands for
	Flags          [2]uint32 // of TCP, all that were seen
	Began          Direction // of the first packet
	Pad            [3]byte
	// Rule is the serial of the rule that denied it, or would have if its policy were
	// not only audited; 0: none. The kernel translates nothing of these.
	Rule uint32
}

// Add puts what was seen elsewhere of the same flow to it.
func (s *Sum) Add(o *Sum) {
	if o.First < s.First {
		s.First, s.Began = o.First, o.Began
	}
	s.Last = max(s.Last, o.Last)
	if o.Rule != 0 {
		s.Rule = o.Rule
	}
	for d := range s.Packets {
		s.Packets[d] += o.Packets[d]
		s.Bytes[d] += o.Bytes[d]
		s.Flags[d] |= o.Flags[d]
	}
}

// TCP flags that end a flow.
const (
	fin = 1
	rst = 4
)

// over says that TCP has ended.
func (k *Key) over(s *Sum) bool {
	return k.Proto == protoTCP && ((s.Flags[Sent]|s.Flags[Received])&rst != 0 || s.Flags[Sent]&s.Flags[Received]&fin != 0)
}

// Lost is packets and bytes that found no room in a table: they are translated and
// in the sums by workload, and in no flow. Denied are packets that policies denied and
// that found none: rules count these.
type Lost struct{ Packets, Bytes, Denied uint64 }

func (l *Lost) add(n Lost) {
	l.Packets, l.Bytes, l.Denied = l.Packets+n.Packets, l.Bytes+n.Bytes, l.Denied+n.Denied
}

func (l Lost) any() bool { return l.Packets|l.Denied != 0 }

// Now is the time of flows: that of CLOCK_MONOTONIC, in nanoseconds, as the kernel
// has it (bpf_ktime_get_ns).
func Now() int64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // which cannot fail
	return t.Nano()
}

// Clock turns the time of flows into that of people, by how both stand when it is
// made.
type Clock struct{ base time.Time }

// NewClock makes a clock. One that is set meanwhile is followed by the next one.
func NewClock() Clock { return Clock{time.Now().Round(0).Add(-time.Duration(Now()))} }

// At is when that was.
func (c Clock) At(t int64) time.Time { return c.base.Add(time.Duration(t)) }
