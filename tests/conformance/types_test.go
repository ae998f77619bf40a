package conformance

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// typeCode is a type and code, and what they become; drop is the zero value's
// opposite of a translation.
type typeCode struct{ typ, code int }

// errorsTo6 is the table "Errors 4→6" of section 6, row by row.
var errorsTo6 = map[string]map[typeCode]typeCode{
	"6.to6.3-unreachable": {{3, 0}: {1, 0}, {3, 1}: {1, 0}, {3, 5}: {1, 0}, {3, 6}: {1, 0}, {3, 7}: {1, 0},
		{3, 8}: {1, 0}, {3, 11}: {1, 0}, {3, 12}: {1, 0}},
	"6.to6.3-protocol":      {{3, 2}: {4, 1}},
	"6.to6.3-port":          {{3, 3}: {1, 4}},
	"6.to6.3-fragmentation": {{3, 4}: {2, 0}},
	"6.to6.3-prohibited":    {{3, 9}: {1, 1}, {3, 10}: {1, 1}, {3, 13}: {1, 1}, {3, 15}: {1, 1}},
	"6.to6.11":              {{11, 0}: {3, 0}, {11, 1}: {3, 1}, {11, 7}: {3, 7}, {11, 255}: {3, 255}},
	"6.to6.12":              {{12, 0}: {4, 0}, {12, 2}: {4, 0}},
}

// errorsTo4 is the table "Errors 6→4".
var errorsTo4 = map[string]map[typeCode]typeCode{
	"6.to4.1-unreachable": {{1, 0}: {3, 1}, {1, 2}: {3, 1}, {1, 3}: {3, 1}},
	"6.to4.1-prohibited":  {{1, 1}: {3, 10}},
	"6.to4.1-port":        {{1, 4}: {3, 3}},
	"6.to4.2":             {{2, 0}: {3, 4}, {2, 1}: {3, 4}, {2, 255}: {3, 4}},
	"6.to4.3":             {{3, 0}: {11, 0}, {3, 1}: {11, 1}, {3, 9}: {11, 9}, {3, 255}: {11, 255}},
	"6.to4.4-0":           {{4, 0}: {12, 0}},
	"6.to4.4-1":           {{4, 1}: {3, 2}},
}

func (tc typeCode) String() string { return fmt.Sprintf("%d-%d", tc.typ, tc.code) }

func TestErrorsTo6(t *testing.T) {
	p := lab(t, nil)
	quote := udp4(t, workload4, peer4, 20, nil)
	listed := map[typeCode]bool{}
	for rule, row := range errorsTo6 {
		t.Run(rule, func(t *testing.T) {
			for in, want := range row {
				listed[in] = true
				rest := [4]byte{}
				if in == (typeCode{3, 4}) {
					binary.BigEndian.PutUint16(rest[2:], 1400)
				}
				b := out(t, p, icmpError4(t, peer4, workload4, byte(in.typ), byte(in.code), rest, quote), translator.Forward6)
				if b[40] != byte(want.typ) || b[41] != byte(want.code) {
					t.Errorf("%v became %d-%d, want %v", in, b[40], b[41], want)
				}
				if in == (typeCode{3, 2}) && binary.BigEndian.Uint32(b[44:]) != 6 {
					t.Errorf("pointer %d, want the next-header field", binary.BigEndian.Uint32(b[44:]))
				}
			}
		})
	}
	// Everything else is dropped: no other type is an error that translates,
	// and echo is for another test.
	for typ := range 256 {
		for code := range 20 {
			in := typeCode{typ, code}
			if listed[in] || typ == 11 || typ == 0 || typ == 8 {
				continue
			}
			b := icmpError4(t, peer4, workload4, byte(typ), byte(code), [4]byte{}, quote)
			if r := p.translate(reference.Packet{Bytes: b}); r.verdict != translator.ICMPUntranslatable {
				t.Errorf("%v: %v, want it dropped", in, r.verdict)
			}
		}
	}
}

func TestErrorsTo4(t *testing.T) {
	p := lab(t, nil)
	quote := udp6(t, peer6, workload6, 20, nil)
	listed := map[typeCode]bool{}
	for rule, row := range errorsTo4 {
		t.Run(rule, func(t *testing.T) {
			for in, want := range row {
				listed[in] = true
				rest := [4]byte{}
				if in.typ == 2 {
					binary.BigEndian.PutUint32(rest[:], 1400)
				}
				b := out(t, p, icmpError6(t, workload6, peer6, byte(in.typ), byte(in.code), rest, quote), translator.Forward4)
				if b[20] != byte(want.typ) || b[21] != byte(want.code) {
					t.Errorf("%v became %d-%d, want %v", in, b[20], b[21], want)
				}
			}
		})
	}
	for typ := range 256 {
		for code := range 20 {
			in := typeCode{typ, code}
			if listed[in] || typ == 2 || typ == 3 || typ == 128 || typ == 129 {
				continue
			}
			b := icmpError6(t, workload6, peer6, byte(typ), byte(code), [4]byte{}, quote)
			if r := p.translate(reference.Packet{Bytes: b}); r.verdict != translator.ICMPUntranslatable {
				t.Errorf("%v: %v, want it dropped", in, r.verdict)
			}
		}
	}
}

func TestPointersTo6(t *testing.T) {
	want := map[int]int{0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 13: 8, 14: 8, 15: 8, 16: 24, 17: 24, 18: 24, 19: 24}
	p := lab(t, nil)
	quote := udp4(t, workload4, peer4, 20, nil)
	for pointer := range 256 {
		for _, code := range []byte{0, 2} {
			r := p.translate(reference.Packet{Bytes: icmpError4(t, peer4, workload4, 12, code, [4]byte{byte(pointer)}, quote)})
			to, has := want[pointer]
			if !has {
				if r.verdict != translator.ICMPUntranslatable {
					t.Errorf("pointer %d: %v", pointer, r.verdict)
				}
				continue
			}
			if r.verdict != translator.Forward6 {
				t.Errorf("pointer %d: %v", pointer, r.verdict)
				continue
			}
			if got := binary.BigEndian.Uint32(r.packets[0].Bytes[44:]); got != uint32(to) {
				t.Errorf("pointer %d → %d, want %d", pointer, got, to)
			}
		}
	}
}

func TestPointersTo4(t *testing.T) {
	want := map[int]int{0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
	for i := 8; i < 24; i++ {
		want[i] = 12
	}
	for i := 24; i < 40; i++ {
		want[i] = 16
	}
	p := lab(t, nil)
	quote := udp6(t, peer6, workload6, 20, nil)
	for _, pointer := range append(upTo(300), 1<<16, 1<<24, 1<<32-1) {
		var rest [4]byte
		binary.BigEndian.PutUint32(rest[:], uint32(pointer))
		r := p.translate(reference.Packet{Bytes: icmpError6(t, workload6, peer6, 4, 0, rest, quote)})
		to, has := want[pointer]
		if !has {
			if r.verdict != translator.ICMPUntranslatable {
				t.Errorf("pointer %d: %v", pointer, r.verdict)
			}
			continue
		}
		if r.verdict != translator.Forward4 {
			t.Errorf("pointer %d: %v", pointer, r.verdict)
			continue
		}
		if got := r.packets[0].Bytes[24]; got != byte(to) {
			t.Errorf("pointer %d → %d, want %d", pointer, got, to)
		}
	}
}

func upTo(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

func TestMTUTo6(t *testing.T) {
	for _, x := range []struct{ reported, mtu4, mtu6, quoted, want int }{
		{1400, 1500, 1500, 1500, 1420},
		{1480, 1500, 1500, 1500, 1500},
		{1500, 1500, 1500, 1500, 1500},
		{9000, 1500, 9000, 9000, 1520},
		{9000, 9000, 1500, 9000, 1500},
		{576, 1500, 1500, 1500, 1280},
		{68, 1500, 1500, 1500, 1280},
		{0, 1500, 1500, 1500, 1512}, // plateau 1492, then bounded below
		{0, 9000, 9000, 1493, 1512},
		{0, 9000, 9000, 1492, 1280}, // 1006
		{0, 9000, 9000, 4353, 4372},
		{0, 9000, 9000, 4352, 2022},
		{0, 9000, 9000, 2002, 1512},
		{0, 9000, 9000, 60, 1280},
		{0, 65535, 65535, 65535, 32020},
		{0, 65535, 65535, 32000, 17934},
		{0, 65535, 65535, 17914, 8186},
		{0, 65535, 65535, 8166, 4372},
	} {
		p := lab(t, func(w *generate.World) { w.MTU4, w.MTU6 = x.mtu4, x.mtu6 })
		quote := udp4(t, workload4, peer4, 20, nil)
		put(quote[2:], uint16(x.quoted))
		b := out(t, p, icmpError4(t, peer4, workload4, 3, 4, [4]byte{0, 0, byte(x.reported >> 8), byte(x.reported)}, quote), translator.Forward6)
		want := max(1280, min(x.want, x.mtu6, x.mtu4+20))
		if got := int(binary.BigEndian.Uint32(b[44:])); got != want {
			t.Errorf("%+v: %d, want %d", x, got, want)
		}
	}
}

func TestMTUTo4(t *testing.T) {
	for _, x := range []struct{ reported, mtu4, mtu6, want int }{
		{1400, 1500, 1500, 1380},
		{1280, 1500, 1500, 1260},
		{9000, 1500, 1500, 1480},
		{9000, 1400, 9000, 1400},
		{1 << 20, 9000, 9000, 8980},
	} {
		p := lab(t, func(w *generate.World) { w.MTU4, w.MTU6 = x.mtu4, x.mtu6 })
		var rest [4]byte
		binary.BigEndian.PutUint32(rest[:], uint32(x.reported))
		b := out(t, p, icmpError6(t, workload6, peer6, 2, 0, rest, udp6(t, peer6, workload6, 20, nil)), translator.Forward4)
		if got := get(b[26:]); got != x.want {
			t.Errorf("%+v: %d", x, got)
		}
	}
}

func TestEcho(t *testing.T) {
	p := lab(t, nil)
	for _, x := range []struct{ v4, v6 byte }{{8, 128}, {0, 129}} {
		b := out(t, p, icmpError4(t, peer4, workload4, x.v4, 0, [4]byte{1, 2, 3, 4}, data(40)), translator.Forward6)
		if b[40] != x.v6 || b[41] != 0 || string(b[44:]) != "\x01\x02\x03\x04"+string(data(40)) || b[6] != 58 {
			t.Errorf("% x", b)
		}
		b = out(t, p, icmpError6(t, workload6, peer6, x.v6, 0, [4]byte{1, 2, 3, 4}, data(40)), translator.Forward4)
		if b[20] != x.v4 || b[21] != 0 || string(b[24:]) != "\x01\x02\x03\x04"+string(data(40)) || b[9] != 1 {
			t.Errorf("% x", b)
		}
	}
}
