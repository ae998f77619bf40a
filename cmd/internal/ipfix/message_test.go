package ipfix

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/netstack/flows"
)

// read is a reader of IPFIX that knows as little as the RFC has: it goes by the
// templates that came.
func read(t *testing.T, b []byte, templates map[uint16][]field) (records map[uint16][]map[field][]byte, sequence uint32) {
	t.Helper()
	records = map[uint16][]map[field][]byte{}
	if binary.BigEndian.Uint16(b) != 10 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		t.Fatalf("header % x of %d bytes", b[:16], len(b))
	}
	sequence = binary.BigEndian.Uint32(b[8:])
	for b = b[16:]; len(b) > 0; {
		set, length := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if length < 4 || length > len(b) {
			t.Fatalf("set %d of %d bytes, there are %d", set, length, len(b))
		}
		body := b[4:length]
		b = b[length:]
		for len(body) > 0 {
			if set == 2 || set == 3 {
				id, n := binary.BigEndian.Uint16(body), int(binary.BigEndian.Uint16(body[2:]))
				body = body[4:]
				if set == 3 {
					body = body[2:]
				}
				templates[id] = nil
				for range n {
					f := field{id: binary.BigEndian.Uint16(body), length: binary.BigEndian.Uint16(body[2:])}
					body = body[4:]
					if f.id&0x8000 != 0 {
						f.id, f.enterprise = f.id&0x7fff, binary.BigEndian.Uint32(body)
						body = body[4:]
					}
					templates[id] = append(templates[id], f)
				}
				continue
			}
			r := map[field][]byte{}
			for _, f := range templates[set] {
				n := int(f.length)
				if f.length == 65535 {
					n, body = int(body[0]), body[1:]
				}
				r[f], body = body[:n], body[n:]
			}
			records[set] = append(records[set], r)
		}
	}
	return records, sequence
}

// Messages are no longer than they may be, their lengths are right, nothing is lost
// between them, and the sequence counts data records alone.
func TestMessages(t *testing.T) {
	t.Parallel()
	templatesRead, next, flowsRead, whoRead, drawnRead := map[uint16][]field{}, uint32(0), 0, 0, 0
	e := encoder{domain: 7, most: 1400, now: time.Now}
	e.send = func(m []byte) error {
		if len(m) > e.most {
			t.Errorf("%d bytes", len(m))
		}
		records, sequence := read(t, m, templatesRead)
		if sequence != next || binary.BigEndian.Uint32(m[12:]) != 7 {
			t.Errorf("sequence %d, want %d", sequence, next)
		}
		next += uint32(len(records[templateFlow]) + len(records[templateWho]) + len(records[templateDrawn]))
		for _, r := range records[templateFlow] {
			if got := binary.BigEndian.Uint64(r[field{id: 2, length: 8}]); got != uint64(flowsRead) {
				t.Errorf("record %d has %d packets", flowsRead, got)
			}
			if got := binary.BigEndian.Uint64(r[field{id: 1, length: 8, enterprise: reverse}]); got != 99 {
				t.Errorf("%d bytes the other way", got)
			}
			if got := binary.BigEndian.Uint32(r[field{id: 34, length: 4}]); got != 100 {
				t.Errorf("sample 1/%d", got)
			}
			if got := binary.BigEndian.Uint16(r[field{id: 7, length: 2}]); got != 443 {
				t.Errorf("began at port %d", got)
			}
			flowsRead++
		}
		for _, r := range records[templateDrawn] {
			if got := binary.BigEndian.Uint32(r[field{id: 34, length: 4}]); got != 100 || r[field{id: 35, length: 1}][0] != random {
				t.Errorf("sample 1/%d", got)
			}
			drawnRead++
		}
		for _, r := range records[templateWho] {
			if got := string(r[field{id: 350, length: variable}]); got != "ns/one" {
				t.Errorf("name %q", got)
			}
			whoRead++
		}
		return nil
	}
	if err := templates(100, e.put); err != nil {
		t.Fatal(err)
	}
	o := Owner{Serial: 3, IPv6: netip.MustParseAddr("2001:db8::1"), IPv4: netip.MustParseAddr("198.51.100.1"), First: 1024, Last: 2047, Name: "ns/one"}
	for i := range 100 {
		r := flows.Record{Sample: 100, Key: flows.Key{Proto: 6, LocalPort: 1024, RemotePort: 443}, Sum: flows.Sum{Began: flows.Received,
			Packets: [2]uint64{1, uint64(i)}, Bytes: [2]uint64{99, 1}}}
		if err := e.put(templateFlow, appendFlow(nil, &r, 3)); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := e.put(templateWho, appendWho(nil, &o)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := e.flush(); err != nil || flowsRead != 100 || whoRead != 10 || drawnRead != 1 {
		t.Errorf("%v, %d flows, %d owners", err, flowsRead, whoRead)
	}
}

// TestVerdicts: what was not just forwarded has another template, which says what became
// of it in the elements that collectors look for, and by which rule; all else is as in
// every other flow's.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		verdict       flows.Verdict
		rule, name    string
		to            uint16
		status, event byte
	}{
		{flows.Forwarded, "", "", templateFlow, 64, 0},
		{flows.Forwarded, "web egress rest", "web egress rest", templateOther, 64, 0}, // only audited
		{flows.Denied, "web egress rest", "web egress rest", templateOther, 129, 3},
		{flows.DeniedFragment, "", "", templateOther, 129, 3},
		{flows.Denied, long, long[:254], templateOther, 129, 3},
		{flows.Shed, "", "", templateOther, 138, 0},
	} {
		var m []byte
		e := encoder{domain: 7, most: 1400, now: time.Now, send: func(b []byte) error { m = append(m, b...); return nil }}
		if err := templates(1, e.put); err != nil {
			t.Fatal(err)
		}
		r := flows.Record{Key: flows.Key{Proto: 6, LocalPort: 1024, RemotePort: 443, Verdict: c.verdict}, Rule: c.rule, Sum: flows.Sum{Packets: [2]uint64{5, 0}}}
		b := appendFlow(nil, &r, 3)
		if to := templateOf(&r); to != c.to {
			t.Errorf("%v: template %d", c.verdict, to)
		} else if to == templateOther {
			b = appendOther(nil, &r, 3)
		}
		if err := e.put(c.to, b); err != nil {
			t.Fatal(err)
		}
		if err := e.flush(); err != nil {
			t.Fatal(err)
		}
		records, _ := read(t, m, map[uint16][]field{})
		if len(records[c.to]) != 1 {
			t.Fatalf("%v: %d records", c.verdict, len(records[c.to]))
		}
		one := records[c.to][0]
		if got := one[field{id: 89, length: 1}][0]; got != c.status {
			t.Errorf("%v: forwardingStatus %d", c.verdict, got)
		}
		if got := binary.BigEndian.Uint64(one[field{id: 2, length: 8}]); got != 5 {
			t.Errorf("%v: %d packets", c.verdict, got)
		}
		if c.to != templateOther {
			continue
		}
		if got := one[field{id: 233, length: 1}][0]; got != c.event {
			t.Errorf("%v: firewallEvent %d", c.verdict, got)
		}
		if got := string(one[field{id: 335, length: variable}]); got != c.name {
			t.Errorf("%v: rule %q", c.verdict, got)
		}
	}
}

// BenchmarkFlows is what a record takes until it is in a message.
func BenchmarkFlows(b *testing.B) {
	e := encoder{most: 1400, now: time.Now, send: func([]byte) error { return nil }}
	var one []byte
	r := flows.Record{Start: time.Now(), End: time.Now()}
	for b.Loop() {
		one = appendFlow(one[:0], &r, 1)
		e.put(templateFlow, one)
	}
}
