package packets

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/natless/natless/config/api"
)

var (
	six  = &api.Side{Src: netip.MustParseAddr("2001:db8:6::2"), Dst: netip.MustParseAddr("64:ff9b::909:909"), Proto: "tcp", SrcPort: 40000, DstPort: 443, TCPFlags: "S", Length: 60}
	four = &api.Side{Src: netip.MustParseAddr("198.51.100.2"), Dst: netip.MustParseAddr("9.9.9.9"), Proto: "tcp", SrcPort: 40000, DstPort: 443, TCPFlags: "S", Length: 40}
	echo = &api.Side{Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("198.51.100.2"), Proto: "icmp", Length: 84, Words: "ipv4 src 192.0.2.2 dst 198.51.100.2 icmp echo ident 7 seq 1 ttl 1 len 84"}
	back = &api.Side{Src: netip.MustParseAddr("198.51.100.1"), Dst: netip.MustParseAddr("192.0.2.2"), Proto: "icmp", Length: 112, Words: "ipv4 src 198.51.100.1 dst 192.0.2.2 icmp time-exceeded ttl 64 len 112 quoting ipv4"}
	at   = time.Date(2026, 1, 2, 12, 0, 1, 123e6, time.Local)
)

func TestLine(t *testing.T) {
	prefix := netip.MustParsePrefix("64:ff9b::/96")
	for _, c := range []struct {
		style Style
		event api.Event
		want  string
	}{
		{Style{Prefix: prefix}, api.Event{Direction: "6to4", Verdict: "forward4", In: six, Out: four},
			"12:00:01.123 6→4 forward4  tcp 2001:db8:6::2.40000 → 64:ff9b::9.9.9.9.443  ⇒  198.51.100.2.40000 → 9.9.9.9.443  len 60 S\n"},
		{Style{ASCII: true, Color: true}, api.Event{Direction: "6to4", Verdict: "forward4", GSOSize: 1400, Workload: "web", In: six, Out: four},
			"\x1b[2m12:00:01.123\x1b[0m 6>4 \x1b[32mforward4\x1b[0m  tcp 2001:db8:6::2.40000 -> 64:ff9b::909:909.443  =>  198.51.100.2.40000 -> 9.9.9.9.443  len 60 gso 1400 S  \x1b[2m(web)\x1b[0m\n"},
		{Style{}, api.Event{Direction: "4to6", Verdict: "hop-limit-exceeded/replied", In: echo, Out: back},
			"12:00:01.123 4→6 hop-limit-exceeded/replied  icmp 192.0.2.2 → 198.51.100.2  ⇒  198.51.100.1 → 192.0.2.2  len 84 echo ident 7 seq 1, answered time-exceeded\n"},
		{Style{}, api.Event{Direction: "4to6", Verdict: "local", In: echo},
			"12:00:01.123 4→6 local     icmp 192.0.2.2 → 198.51.100.2  len 84 echo ident 7 seq 1\n"},
		{Style{}, api.Event{Direction: "6to4", Verdict: "malformed", In: &api.Side{Length: 3}},
			"12:00:01.123 6→4 malformed  3 bytes that are not an IP packet  len 3  lengths or headers that disagree\n"},
		{Style{}, api.Event{Direction: "6to4", Verdict: "forward4", Out: four},
			"12:00:01.123 6→4 forward4  (held)  ⇒  tcp 198.51.100.2.40000 → 9.9.9.9.443  len 40 S\n"},
		{Style{Words: true}, api.Event{Direction: "4to6", Verdict: "hop-limit-exceeded/replied", Mapping: "M", In: echo, Out: back},
			"12:00:01.123 4→6 hop-limit-exceeded/replied  dropped: its TTL or hop limit ran out here (RFC 7915 4.1, 5.1)\n    mapping  M\n    in       " + echo.Words + "\n    answer   " + back.Words + "\n"},
		{Style{}, api.Event{Direction: "6to4", Verdict: "denied", Policy: "web egress rest", Workload: "web", In: six},
			"12:00:01.123 6→4 denied    tcp 2001:db8:6::2.40000 → 64:ff9b::909:909.443  len 60 S  a policy denies it, by web egress rest  (web)\n"},
		{Style{}, api.Event{Direction: "6to4", Verdict: "forward4", Policy: "web egress rest", Out: four},
			"12:00:01.123 6→4 forward4  (held)  ⇒  tcp 198.51.100.2.40000 → 9.9.9.9.443  len 40 S, web egress rest would deny it\n"},
		{Style{Words: true}, api.Event{Direction: "4to6", Verdict: "denied/replied", Policy: "web ingress in", Mapping: "M", In: echo, Out: back},
			"12:00:01.123 4→6 denied/replied  dropped: a policy denies it (RFC 4443 3.1, RFC 1812 5.2.7.1)\n    mapping  M\n    policy   by web ingress in\n    in       " +
				echo.Words + "\n    answer   " + back.Words + "\n"},
	} {
		c.event.Time = at
		if d := cmp.Diff(c.want, c.style.Line(&c.event)); d != "" {
			t.Error(d)
		}
	}
	s := Style{}
	if got := s.Gap(12345, 0) + s.Gap(0, 1) + s.Gap(0, 0) + s.Gap(1234567, 2); got != "… 12,345 more\n… 1 lost, this reader is too slow\n… 1,234,567 more, 2 lost, this reader is too slow\n" {
		t.Error(got)
	}
}

// A file that its room limits never grows beyond it, and is whole.
func TestFileSize(t *testing.T) {
	for _, limit := range []int64{600, 1000, 1001, 1002, 1003, 1004, 5000} {
		var b bytes.Buffer
		f, err := NewFile(&b, api.Hello{Device: "natless0", Version: "1", Notes: []string{"note"}}, "tcp", 100)
		if err != nil {
			t.Fatal(err)
		}
		e := api.Event{Time: at, Direction: "6to4", Verdict: "forward4", Workload: "web", In: six, Out: four}
		n := 0
		for ; f.Room(&e, make([]byte, 60-n%5), make([]byte, 40), limit); n++ {
			if err := f.Write(&e, make([]byte, 60-n%5), make([]byte, 40)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(api.Counts{Lost: 3}); err != nil {
			t.Fatal(err)
		}
		size := int64(b.Len())
		r, err := pcapgo.NewNgReader(&b, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			t.Fatal(err)
		}
		read := 0
		for ; ; read++ {
			if _, _, err = r.ReadPacketData(); err != nil {
				break
			}
		}
		if size > limit && n > 0 || err != io.EOF || read != 2*n || limit >= 1000 && n == 0 || limit-size > 400 {
			t.Errorf("limit %d: %d bytes, %d packets, %d read, %v", limit, size, n, read, err)
		}
	}
}
