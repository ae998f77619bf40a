//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	room       = 64 // before a frame, that a header may grow without a copy
	payload    = 18
	xdpDrop    = 1
	xdpTX      = 3
	liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18
	ethernet   = 14
)

// frame is what a generator sends: with a number in the last three bytes of an address, and
// the complement of its sum elsewhere, so that checksums stay what they are.
type frame struct {
	bytes       []byte
	number      int // where the lower two bytes are
	complements []int
}

// frame6 is IPv6 from a workload, frame4 is IPv4 to one.
func frame6(src, dst netip.Addr, from, to [6]byte) frame {
	f := frame{number: ethernet + 22, complements: []int{ethernet + 48}}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, 17, 64
	binary.BigEndian.PutUint16(h[4:], 8+payload)
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	f.bytes = framed(0x86dd, from, to, h, h[8:40])
	return f
}

func frame4(src, dst netip.Addr, from, to [6]byte) frame {
	f := frame{number: ethernet + 18, complements: []int{ethernet + 28, ethernet + 4}}
	h := make([]byte, 20)
	h[0], h[6], h[8], h[9] = 0x45, 0x40, 64, 17
	binary.BigEndian.PutUint16(h[2:], 28+payload)
	binary.BigEndian.PutUint16(h[4:], 0xffff)
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^sum(h))
	f.bytes = framed(0x0800, from, to, h, h[12:20])
	return f
}

func framed(kind uint16, from, to [6]byte, header, addresses []byte) []byte {
	b := append(append([]byte(nil), to[:]...), from[:]...)
	b = append(binary.BigEndian.AppendUint16(b, kind), header...)
	u := make([]byte, 8+payload)
	binary.BigEndian.PutUint16(u, 5353)
	binary.BigEndian.PutUint16(u[2:], 9)
	binary.BigEndian.PutUint16(u[4:], 8+payload)
	binary.BigEndian.PutUint16(u[8:], 0xffff)
	copy(u[10:], "natless")
	binary.BigEndian.PutUint16(u[6:], ^sum(addresses, []byte{0, 17, 0, 8 + payload}, u))
	return append(b, u...)
}

// sum is the ones' complement sum of parts of even length.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, p := range parts {
		for i := 0; i < len(p); i += 2 {
			s += uint32(binary.BigEndian.Uint16(p[i:]))
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// generator sends frames out of an interface, in the thread that runs it.
type generator struct {
	program *ebpf.Program
	next    *ebpf.Map // the next number, and the frame
	ifindex int
	length  int
}

// newGenerator has so many numbers, a power of two.
func newGenerator(f frame, ifindex, numbers int) (*generator, error) {
	size := (len(f.bytes) + 7) / 8 * 8
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(8 + size), MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("map of a generator: %w", err)
	}
	value := append(make([]byte, 8, 8+size), f.bytes...)
	if err := m.Put(uint32(0), value[:8+size]); err != nil {
		return nil, fmt.Errorf("map of a generator: %w", err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "generator", Type: ebpf.XDP, License: "GPL", Instructions: generating(f, m.FD(), numbers)})
	if err != nil {
		return nil, fmt.Errorf("generator: %+w", err)
	}
	return &generator{p, m, ifindex, room + len(f.bytes)}, nil
}

// generating makes the frame anew, whoever changed it meanwhile: pages come back.
func generating(f frame, fd, numbers int) (program asm.Instructions) {
	program = asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, room),
		asm.FnXdpAdjustHead.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, int32(len(f.bytes))),
		asm.JGT.Reg(asm.R4, asm.R3, "drop"),
		asm.LoadMapValue(asm.R7, fd, 0),
	}
	for at := 0; at < len(f.bytes); {
		size, step := asm.DWord, 8
		switch left := len(f.bytes) - at; {
		case left < 2:
			size, step = asm.Byte, 1
		case left < 4:
			size, step = asm.Half, 2
		case left < 8:
			size, step = asm.Word, 4
		}
		program = append(program, asm.LoadMem(asm.R0, asm.R7, int16(8+at), size), asm.StoreMem(asm.R2, int16(at), asm.R0, size))
		at += step
	}
	program = append(program,
		asm.LoadMem(asm.R0, asm.R7, 0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R7, 0, asm.R1, asm.DWord),
		asm.And.Imm(asm.R0, int32(numbers-1)),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.RSh.Imm(asm.R1, 16),
		asm.And.Imm(asm.R0, 0xffff),
		asm.Mov.Reg(asm.R4, asm.R0),
		asm.Add.Reg(asm.R4, asm.R1), // the sum of both, whose carry comes back
		asm.Mov.Reg(asm.R5, asm.R4),
		asm.RSh.Imm(asm.R5, 16),
		asm.Add.Reg(asm.R4, asm.R5),
		asm.HostTo(asm.BE, asm.R0, asm.Half),
		asm.StoreMem(asm.R2, int16(f.number), asm.R0, asm.Half),
		asm.LoadMem(asm.R0, asm.R2, int16(f.number-1), asm.Byte),
		asm.Or.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.R2, int16(f.number-1), asm.R0, asm.Byte),
		asm.Mov.Reg(asm.R0, asm.R4),
		asm.HostTo(asm.BE, asm.R0, asm.Half),
		asm.Xor.Imm(asm.R0, 0xffff),
	)
	for _, at := range f.complements {
		program = append(program, asm.StoreMem(asm.R2, int16(at), asm.R0, asm.Half))
	}
	return append(program,
		asm.Mov.Imm(asm.R0, xdpTX), asm.Return(),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"), asm.Return())
}

// errInterrupted says that a signal came between, after which all frames were sent once more.
var errInterrupted = errors.New("interrupted")

// send sends so many frames.
func (g *generator) send(count int) error {
	context := struct{ _, End, _, Ingress, _, _ uint32 }{End: uint32(g.length), Ingress: uint32(g.ifindex)}
	var interrupted error
	o := ebpf.RunOptions{Data: make([]byte, g.length), Context: context, Repeat: uint32(count), Flags: liveFrames}
	o.Reset = func() { interrupted = errInterrupted } //lint:ignore SA1019 nothing else tells of it
	if _, err := g.program.Run(&o); err != nil {
		return fmt.Errorf("send frames: %w", err)
	}
	return interrupted
}

// sink counts the frames that come in at an interface, and drops them.
type sink struct {
	count *ebpf.Map
	link  link.Link
}

func newSink(ifindex int) (*sink, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("map of a sink: %w", err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "sink", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, m.FD(), 0),
		asm.LoadMem(asm.R0, asm.R1, 0, asm.DWord),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R1, 0, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R0, xdpDrop),
		asm.Return(),
	}})
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	defer p.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	return &sink{m, l}, nil
}

func (s *sink) got() (n uint64) {
	_ = s.count.Lookup(uint32(0), &n) // it is there
	return n
}

// sinks are several, of which nobody minds which one got a frame.
type sinks []*sink

func (all sinks) got() (n uint64) {
	for _, s := range all {
		n += s.got()
	}
	return n
}

// worked is the processor time of this thread and of ksoftirqd beside it, who may do a part.
func worked(softirqd string) time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()) + onProcessor(softirqd)
}
