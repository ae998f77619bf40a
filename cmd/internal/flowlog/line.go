//go:build linux

package flowlog

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/flows"
)

// appendLine is the JSON of Of(r), which a test holds it against: where 100,000 flows
// end in a second, encoding/json would be most of what they cost.
func appendLine(b []byte, r *flows.Record) []byte {
	b = appendTime(append(b, `{"start":`...), r.Start)
	b = appendTime(append(b, `,"end":`...), r.End)
	b = append(append(append(b, `,"reason":"`...), r.Reason.String()...), `","verdict":"`...)
	b = append(append(b, r.Verdict.String()...), '"')
	b = append(appendText(b, `,"policy":`, r.Rule), `,"proto":"`...)
	b = append(append(b, proto(r.Proto)...), `","local":"`...)
	local, remote := r.LocalAddr(), r.RemoteAddr()
	b = appendEnd(b, local, `"local_port":`, r.Proto)
	b = appendEnd(append(b, `,"remote":"`...), remote, `"remote_port":`, r.Proto)
	if r.Proto == 1 {
		typ, code, id := r.ICMP()
		b = appendNumber(b, `,"icmp_type":`, uint64(typ))
		b = appendNumber(b, `,"icmp_code":`, uint64(code))
		if id != 0 {
			b = appendNumber(b, `,"icmp_id":`, uint64(id))
		}
	}
	if r.Began == flows.Received {
		b = append(b, `,"initiator":"remote"`...)
	} else {
		b = append(b, `,"initiator":"local"`...)
	}
	b = appendCount(append(b, `,"sent":`...), r, flows.Sent)
	b = appendCount(append(b, `,"received":`...), r, flows.Received)
	if r.Sample > 1 {
		b = appendNumber(b, `,"sample":`, uint64(r.Sample))
	}
	if a, ok := r.Owner.(*registry.Assignment); ok && a != nil {
		if a.Serial != 0 {
			b = appendNumber(b, `,"serial":`, a.Serial)
		}
		b = appendText(b, `,"workload":`, a.Request.Name)
		b = appendText(b, `,"container_id":`, a.Key.ContainerID)
		b = appendText(b, `,"interface":`, a.Key.Interface)
		b = appendText(b, `,"network":`, a.Request.Network)
	}
	return append(b, "}\n"...)
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

func appendNumber(b []byte, name string, n uint64) []byte {
	return strconv.AppendUint(append(b, name...), n, 10)
}

// appendEnd is an address, whose quote is open, and its port, if it has one.
func appendEnd(b []byte, a netip.AddrPort, name string, proto uint8) []byte {
	b = append(a.Addr().AppendTo(b), '"')
	if proto == 1 || a.Port() == 0 {
		return b
	}
	return appendNumber(append(b, ','), name, uint64(a.Port()))
}

func appendCount(b []byte, r *flows.Record, d flows.Direction) []byte {
	b = appendNumber(b, `{"packets":`, r.Packets[d])
	b = appendNumber(b, `,"bytes":`, r.Bytes[d])
	if r.Proto == 6 && uint8(r.Flags[d]) != 0 {
		b = append(append(append(b, `,"tcp_flags":"`...), flags(uint8(r.Flags[d]))...), '"')
	}
	return append(b, '}')
}

// appendText leaves out what is empty. Most names need no escape.
func appendText(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	b = append(b, name...)
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(text) // which is always possible for a string
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}
