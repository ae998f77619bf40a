//go:build linux

package fastpath

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// pair is the fast path and the translator, in one world.
type pair struct {
	world generate.World
	table *mapping.Table
	slow  *translator.Translator
	fast  *FastPath
	rig   *rig
}

func newPair(t testing.TB, r *rig, w generate.World, f *FastPath) *pair {
	t.Helper()
	p := &pair{world: w, fast: f, rig: r}
	f.crowded = len(w.Name)%2 == 0 // half of the worlds
	var err error
	if p.table, err = mapping.New(w.Prefix, w.Mappings); err == nil {
		p.slow, err = translator.New(w.Config, p.table)
	}
	if err == nil {
		err = f.Replace(Tables{Table: p.table, Config: p.slow.Config(), Interface: func(mapping.Mapping) int { return r.work }, Inside: p.at,
			Host: Host{Inside: r.up}})
	}
	if err != nil {
		t.Fatalf("world %s: %v", w.Name, err)
	}
	return p
}

// at is where the IPv4 of a workload comes in.
func (p *pair) at(m mapping.Mapping) int {
	for i, w := range p.world.Mappings {
		if w.IPv6 == m.IPv6 {
			return p.rig.insides[i%len(p.rig.insides)]
		}
	}
	return 0
}

func loaded(t testing.TB) *FastPath {
	t.Helper()
	f, err := Load("natless0")
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// judge translates packets both ways. It belongs to one goroutine.
type judge struct {
	*pair
	worker           *translator.Worker
	uplink, workload *runner
	sent             map[netip.Prefix]*runner // IPv4 of workloads that have it inside
	buffer           []byte
}

func (p *pair) judge() *judge {
	sent := map[netip.Prefix]*runner{}
	for _, m := range p.world.Mappings {
		if m.Inside {
			sent[m.IPv6] = newRunner(p.fast.Sent4.FD(), p.at(m), p.rig.workMAC)
		}
	}
	return &judge{pair: p, worker: p.slow.NewWorker(), sent: sent,
		uplink:   newRunner(p.fast.Uplink.FD(), p.rig.up, p.rig.upMAC),
		workload: newRunner(p.fast.Workload.FD(), p.rig.work, p.rig.workMAC),
		buffer:   make([]byte, translator.Headroom+4096+translator.Tailroom)}
}

// outcome is what became of a packet.
type outcome struct {
	translated bool // by the program
	verdict    translator.Verdict
	refused    bool // by the kernel: too short to be run
	must       bool // the packet is plain in every way
}

// check says where the program did anything else than either leave the packet
// as it was or give it the translator's bytes. BPF_PROG_TEST_RUN knows no partial
// checksums, so both take the checksum for a whole one; TestDevices has those.
func (j *judge) check(in reference.Packet, segments int) (o outcome, err error) {
	in.Offload.Flags = 0
	if in.From.IsValid() {
		return j.checkInside(in, segments)
	}
	run := j.uplink
	if in.Bytes[0]>>4 == 6 && j.blockOf(in) == nil {
		run = j.workload
	}
	action, frame, err := run.run(in, segments)
	if err != nil {
		if len(in.Bytes) < 40 {
			return outcome{refused: true}, nil
		}
		return o, err
	}
	o.translated = action == actRedirect
	want := &translator.Packet{Buf: j.buffer, Start: translator.Headroom, Offload: in.Offload}
	want.End = want.Start + copy(j.buffer[want.Start:], in.Bytes)
	o.verdict = j.translate(want)
	forward := (o.verdict == translator.Forward4 || o.verdict == translator.Forward6 || o.verdict == translator.Deliver4 && in.Bytes[0]>>4 == 4) &&
		!j.worker.Fragments()
	o.must = forward && j.plain(in, want, segments) && j.plainlyAllowed(in)
	switch {
	case !o.translated && action != actNext:
		return o, fmt.Errorf("action %d", int32(action))
	case !o.translated && !bytes.Equal(frame, run.frame()):
		return o, fmt.Errorf("passed on, but changed:\n%x", frame)
	case !o.translated && o.must:
		return o, fmt.Errorf("is plain, and was passed on")
	case !o.translated:
		return o, nil
	case !forward:
		return o, fmt.Errorf("translated, but for the translator it is %v:\n%x", o.verdict, frame)
	}
	return o, j.same(frame, want.Bytes())
}

// checkInside is check for IPv4 of a workload that has it inside: it is forwarded as
// the translator would have it, or comes to the daemon as it is, by its name.
func (j *judge) checkInside(in reference.Packet, segments int) (o outcome, err error) {
	run := j.sent[in.From]
	action, frame, err := run.run(in, segments)
	if err != nil {
		if len(in.Bytes) < 40 {
			return outcome{refused: true}, nil
		}
		return o, err
	}
	tag := j.table.Get(in.From).Tag()
	steered := action == actRedirect && mapping.TagOf(frame[mapping.TagLen:]) == tag
	o.translated = action == actRedirect && !steered
	want := &translator.Packet{Buf: j.buffer, Start: translator.Headroom, Offload: in.Offload}
	want.End = want.Start + copy(j.buffer[want.Start:], in.Bytes)
	o.verdict = j.worker.Pass4(want, tag)
	forward := (o.verdict == translator.Pass4 || o.verdict == translator.Deliver4) && !j.worker.Fragments()
	o.must = forward && j.plainInside(in, want, segments) && j.plainlyAllowed(in)
	switch {
	case in.Bytes[0]>>4 != 4:
		return o, nil // it says to be something else, and is none of the program's business
	case action != actRedirect:
		return o, fmt.Errorf("action %d, for the translator it is %v", int32(action), o.verdict)
	case steered && o.must:
		return o, fmt.Errorf("is plain, and came to the daemon")
	case steered && !bytes.Equal(frame[sizeEthernet-2:], run.frame()[sizeEthernet-2:]):
		return o, fmt.Errorf("came to the daemon, but changed:\n%x", frame)
	case steered:
		return o, nil
	case !forward:
		return o, fmt.Errorf("forwarded, but for the translator it is %v:\n%x", o.verdict, frame)
	}
	if o.verdict == translator.Pass4 {
		want.Bytes()[8]-- // the host counts its hop
		generate.Repair(want.Bytes())
	}
	if got := frame[sizeEthernet:]; !bytes.Equal(got, want.Bytes()) {
		return o, fmt.Errorf("differs:\ngot  %x\nwant %x", got, want.Bytes())
	}
	return o, nil
}

// plainInside is plain for what a workload with IPv4 inside sends.
func (j *judge) plainInside(in reference.Packet, out *translator.Packet, segments int) bool {
	b := in.Bytes
	length := int(binary.BigEndian.Uint16(b[2:]))
	dst, c := binary.BigEndian.Uint32(b[16:]), &j.world.Config
	if b[0] != 0x45 || binary.BigEndian.Uint16(b[6:])&0xbfff != 0 || out.End-out.Start != length || b[8] <= 1 ||
		dst == mapping.Addr4From(c.IPv4) {
		return false
	}
	if e := j.table.Lookup4(dst); c.Host4.IsValid() && dst == mapping.Addr4From(c.Host4) &&
		(b[9] == 1 || e == nil || j.table.Port(e, dst, binary.BigEndian.Uint16(b[22:])) == nil) {
		return false
	}
	segment := length
	if size := int(in.Offload.GSOSize); size > 0 && b[9] == 6 {
		segment = min(length, 20+int(b[32]>>4)*4+size)
	} else if size > 0 {
		segment = min(length, 28+size)
	}
	if segment > j.slow.Config().MTU4 && j.table.Lookup4(dst) == nil {
		return false // the host cuts it up
	}
	switch b[9] {
	case 6:
	case 17:
		if b[26]|b[27] == 0 {
			return false
		}
	case 1:
		if b[20] != 0 && b[20] != 8 || b[21] != 0 || b[20] == 0 && length >= 36 && b[length-8] == 0x6e && b[length-7] == 0x6c {
			return false
		}
	default:
		return false
	}
	if in.Offload.GSOSize > 0 && b[6]&0x40 == 0 && segment > j.slow.Config().LowestMTU6 && j.table.Lookup4(dst) != nil {
		return false // the daemon cuts it first
	}
	return plainSuper(in, b[9], 20, length-20, segments)
}

// same compares what the program made with what the translator made. The
// identification of an IPv4 packet with DF=0 comes from a counter on either side.
func (j *judge) same(frame, want []byte) error {
	got := frame[sizeEthernet:]
	ethertype := uint16(0x86dd)
	if want[0]>>4 == 4 {
		ethertype = 0x0800
	}
	if binary.BigEndian.Uint16(frame[12:]) != ethertype {
		return fmt.Errorf("Ethernet type %x", frame[12:14])
	}
	if want[0]>>4 == 4 && want[6]&0x40 == 0 && len(got) >= 20 && j.worker.Inside() == 0 {
		id := binary.BigEndian.Uint16(got[4:])
		if err := j.allowed(id, want); err != nil {
			return err
		}
		binary.BigEndian.PutUint16(want[4:], id)
		generate.Repair(want)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("differs:\ngot  %x\nwant %x", got, want)
	}
	return nil
}

// allowed says that an identification is one that a packet may have.
func (j *judge) allowed(id uint16, packet []byte) error {
	src := binary.BigEndian.Uint32(packet[12:])
	e := j.table.Lookup4(src)
	if _, ce, ok := j.world.Rules.To6(src, sourcePort(packet)); e == nil && ok && ce.Shared() {
		if base, mask := ce.IdentificationRange(); id&^mask != base && !(base|mask == 0 && id == 1) {
			return fmt.Errorf("identification %d is not the CE's: %d | %d", id, base, mask)
		}
	}
	if e != nil && e.Shared() {
		if e = j.table.Port(e, binary.BigEndian.Uint32(packet[12:]), sourcePort(packet)); e == nil {
			return fmt.Errorf("source is nobody's")
		}
		// A workload with port 0 alone has no identification of its own.
		if base, mask := e.IdentificationRange(); id&^mask != base && !(base|mask == 0 && id == 1) {
			return fmt.Errorf("identification %d is not the workload's: %d | %d", id, base, mask)
		}
	}
	if id == 0 {
		return fmt.Errorf("identification 0")
	}
	return nil
}

func sourcePort(packet []byte) uint16 {
	if packet[9] == 1 {
		return binary.BigEndian.Uint16(packet[24:])
	}
	return binary.BigEndian.Uint16(packet[20:])
}

// plain says, without the program's help, that a packet which the translator
// forwards is one of those that the program is there for.
func (j *judge) plain(in reference.Packet, out *translator.Packet, segments int) bool {
	b := in.Bytes
	if j.world.Edge.Enabled() && b[0]>>4 == 6 {
		return j.plainAtEdge(in, out, segments)
	}
	if b[0]>>4 == 6 {
		return j.plainTo4(b) && plainSuper(in, b[6], 40, int(binary.BigEndian.Uint16(b[4:])), segments) &&
			out.End-out.Start == 20+int(binary.BigEndian.Uint16(b[4:])) // no trailer
	}
	if b[0] != 0x45 || binary.BigEndian.Uint16(b[6:])&0xbfff != 0 || j.table.Lookup4(binary.BigEndian.Uint32(b[12:])) != nil ||
		j.table.Lookup4(binary.BigEndian.Uint32(b[16:])) == nil && !j.customer(in) {
		return false
	}
	dst, config := binary.BigEndian.Uint32(b[16:]), &j.world.Config
	if dst == mapping.Addr4From(config.IPv4) || b[9] == 1 && config.Host4.IsValid() && dst == mapping.Addr4From(config.Host4) {
		return false // which of them it is for, is up to the daemon
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	switch b[9] {
	case 6:
	case 17:
		if b[26]|b[27] == 0 {
			return false
		}
	case 1:
		if b[20] != 0 && b[20] != 8 || b[21] != 0 || b[22]|b[23] == 0 || b[20] == 0 && length >= 36 && b[length-8] == 0x6e && b[length-7] == 0x6c {
			return false // what might be without checksum, or with a trailer
		}
	default:
		return false
	}
	return plainSuper(in, b[9], 20, length-20, segments)
}

func (j *judge) plainTo4(b []byte) bool {
	src, dst := address(b[8:]), address(b[24:])
	v4, ok := j.table.Extract(dst)
	_, _, customer, _ := j.world.Rules.To4(src)
	if _, has := j.world.Rules.At(v4); has || !ok || j.table.Lookup6(src) == nil && !customer || j.table.Lookup6(dst) != nil || j.table.Lookup4(v4) != nil {
		return false
	}
	return plainUpper6(b)
}

// plainUpper6 says that the upper layer of an IPv6 packet is plain.
func plainUpper6(b []byte) bool {
	switch b[6] {
	case 6:
		return true
	case 17:
		return b[46]|b[47] != 0
	case 58:
		if b[40] != 128 && b[40] != 129 {
			return false
		}
		pseudo := onesSum(b[8:40], []byte{0, 0, b[4], b[5], 0, 0, 0, 58})
		field := binary.BigEndian.Uint16(b[42:])
		return field != pseudo && (field != 0 || pseudo != 0xffff) // else it might be partial
	}
	return false
}

// customer says that a packet is to a CE of MAP-T, or 6→4 from one.
func (j *judge) customer(in reference.Packet) bool {
	if b := in.Bytes; b[0]>>4 == 6 {
		src := address(b[8:])
		return j.table.Lookup6(src) == nil && j.world.Rules.Apart(src, mapping.Addr6{Hi: ^src.Hi})
	}
	dst := binary.BigEndian.Uint32(in.Bytes[16:])
	_, has := j.world.Rules.At(dst)
	return has && j.table.Lookup4(dst) == nil
}

// plainlyAllowed says that policies let a packet pass that is forwarded by the one
// question that the program asks, and would if what is audited were in force.
func (j *judge) plainlyAllowed(in reference.Packet) bool {
	if j.worker.Rule() != nil {
		return false
	}
	b, e, dst, proto, upper := in.Bytes, (*mapping.Entry)(nil), uint32(0), byte(0), 20
	switch {
	case b[0]>>4 == 6:
		dst, _ = j.table.Extract(address(b[24:]))
		e, proto, upper = j.table.Lookup6(address(b[8:])), b[6], 40
	case in.From.IsValid():
		e, dst, proto = j.table.Get(in.From), binary.BigEndian.Uint32(b[16:]), b[9]
	}
	if e == nil || e.Policy() == 0 || proto != 6 && proto != 17 {
		return true
	}
	if local := binary.BigEndian.Uint16(b[upper:]); !e.Client(local) && !(proto == 6 && b[upper+13]&0x12 == 2) {
		return j.world.Config.Policy.Plain(e.Policy(), policy.Ingress, dst, proto, local)
	}
	return j.world.Config.Policy.Plain(e.Policy(), policy.Egress, dst, proto, binary.BigEndian.Uint16(b[upper+2:]))
}

// plainSuper says that a packet is none of the superpackets that are passed on:
// those with something behind them, or of an uncertain number of datagrams.
func plainSuper(in reference.Packet, proto byte, header, payload, segments int) bool {
	size := int(in.Offload.GSOSize)
	if size != 0 && len(in.Bytes) > header+payload {
		return false
	}
	return size == 0 || proto == 6 || proto == 17 && segments > 0 && (payload-8+size-1)/size == segments
}

func address(b []byte) mapping.Addr6 {
	return mapping.Addr6{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
}

// onesSum is the ones' complement sum of parts of even length.
func onesSum(parts ...[]byte) uint16 {
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

func (j *judge) describe(in reference.Packet, segments int) string {
	return fmt.Sprintf("world %s, %d bytes, gso %d × %d\n%s", j.world.Name, len(in.Bytes), in.Offload.GSOSize, segments, hex.EncodeToString(in.Bytes))
}
