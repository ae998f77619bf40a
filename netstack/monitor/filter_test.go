package monitor

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

func table(t testing.TB) *mapping.Table {
	t.Helper()
	table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.2/32")},
		{IPv6: netip.MustParsePrefix("2001:db8:9::2/128"), IPv4: netip.MustParsePrefix("198.51.100.9/32"), Ports: ports.MustParse("4096-5119"), Inside: true}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func head(proto uint8, src, dst string, length int) Head {
	h := Head{Valid: true, Proto: proto, Length: length}
	if a, err := netip.ParseAddrPort(src); err == nil {
		b := netip.MustParseAddrPort(dst)
		h.Ports, h.Src, h.SrcPort, h.Dst, h.DstPort = true, a.Addr(), a.Port(), b.Addr(), b.Port()
	} else {
		h.Src, h.Dst = netip.MustParseAddr(src), netip.MustParseAddr(dst)
	}
	h.v6 = h.Src.Is6()
	return h
}

// The packets that filters are tried on.
func examples(t testing.TB) map[string]*Packet {
	all := map[string]*Packet{
		"out": {In: head(6, "[2001:db8:6::2]:40000", "[64:ff9b::909:909]:443", 80), Out: head(6, "198.51.100.2:40000", "9.9.9.9:443", 60), Verdict: translator.Forward4},
		"in":  {In: head(17, "192.0.2.2:53", "198.51.100.2:5000", 1000), Out: head(17, "[64:ff9b::c000:202]:53", "[2001:db8:6::2]:5000", 1020), Verdict: translator.Forward6},
		"refused": {In: head(17, "[2001:db8:6::3]:22", "[64:ff9b::909:909]:22", 80), Out: head(58, "2001:db8::1", "2001:db8:6::3", 128),
			Verdict: translator.PortOutsideSet | translator.Replied},
		"lost":   {In: head(1, "192.0.2.2", "203.0.113.9", 84), Verdict: translator.UntranslatableDestination},
		"own":    {In: head(1, "192.0.2.2", "198.51.100.1", 84), Verdict: translator.Local},
		"held":   {In: head(17, "192.0.2.2", "203.0.113.0", 500), Verdict: translator.FragmentHeld},
		"later":  {Out: head(17, "64:ff9b::c000:202", "2001:db8:6::3", 540), Verdict: translator.Forward6},
		"passed": {In: head(132, "198.51.100.9:4096", "8.8.8.8:7", 70), Out: head(132, "198.51.100.9:4096", "8.8.8.8:7", 70), Verdict: translator.Pass4},
		"given":  {In: head(132, "8.8.8.8:7", "198.51.100.9:4096", 71), Out: head(132, "8.8.8.8:7", "198.51.100.9:4096", 71), Verdict: translator.Deliver4},
		"stuck": {In: head(132, "198.51.100.9:4097", "8.8.8.8:7", 72), Out: head(1, "192.0.0.8", "198.51.100.9", 100),
			Verdict: translator.HopLimitExceeded | translator.Replied},
		"junk": {In: Head{Length: 3, v6: true}, Verdict: translator.Malformed},
	}
	all["held"].In.Fragment, all["later"].Out.Fragment = true, true
	for _, p := range all {
		p.Done, p.Table = true, table(t)
	}
	return all
}

var order = []string{"out", "in", "refused", "lost", "own", "held", "later", "passed", "given", "stuck", "junk"}

func wanted(t testing.TB, f *Filter) string {
	var names []string
	all := examples(t)
	for _, name := range order {
		if f.Wants(all[name]) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func TestFilters(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "out in refused lost own held later passed given stuck junk",
		"tcp":                             "out",
		"udp":                             "in refused held later",
		"icmp":                            "refused lost own stuck",
		"proto 17 and not dir 6to4":       "in held later",
		"proto sctp or proto icmp":        "refused lost own passed given stuck",
		"dir 6to4":                        "out refused junk",
		"dir 4to6":                        "in lost own held later",
		"dir 4to4":                        "passed given stuck",
		"dir 4→4 and port 4096":           "passed given",
		"drop":                            "refused lost stuck junk",
		"forward":                         "out in later passed given",
		"local":                           "own",
		"replied":                         "refused stuck",
		"verdict forward4":                "out",
		"verdict fragment-held":           "held",
		"reason port-outside-set":         "refused",
		"reason port-outside-set/replied": "refused",
		"reason untranslatable-destination/replied": "",
		"host 9.9.9.9":                "out refused", // of what was dropped only the IPv6 side is there
		"9.9.9.9":                     "out refused",
		"src 9.9.9.9":                 "",
		"dst 9.9.9.9":                 "out refused",
		"src host 198.51.100.2":       "out",
		"net 198.51.100.0/24":         "out in own passed given stuck",
		"dst 2001:db8:6::/64":         "in refused later",
		"port 22":                     "refused",
		"src port 22 or dst port 443": "out refused",
		"port 5000-6000":              "in",
		"not port 22 and drop":        "lost stuck junk",
		"less 60":                     "out",
		"greater 1000":                "in",
		"fragment":                    "held later",
		"(tcp or udp) and not (drop or fragment)": "out in",
		"!tcp && !(udp || icmp)":                  "passed given junk",
		"tcp or udp and dir 4to6":                 "out in held later",
		"workload web":                            "refused later",
		"workload \"ns/a b\"":                     "lost",
		"workload nobody":                         "",
		"workload web and not port 22":            "later",
	} {
		f, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		f.Resolve(func(name string) []Workload {
			switch name {
			case "web":
				return []Workload{{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::3")}, IPv4: netip.MustParseAddr("203.0.113.0"), Ports: ports.MustParse("1024-2047")}}
			case "ns/a b":
				return []Workload{{IPv4: netip.MustParseAddr("203.0.113.9")}}
			}
			return nil
		})
		if got := wanted(t, f); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// TestMayWant: who wants drops only wants nothing of what is forwarded.
func TestMayWant(t *testing.T) {
	for text, want := range map[string]bool{"": true, "drop": false, "not drop": true, "verdict forward4": true, "tcp and drop": false, "tcp or drop": true,
		"not (drop or verdict forward4)": false, "port 53": true, "not port 53": true, "reason malformed": false, "(udp) and (drop)": false} {
		f, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.MayWant(translator.Forward4); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestWrongFilters(t *testing.T) {
	for text, want := range map[string]string{
		"host":                        "at the end: an address is missing",
		"host web":                    `column 6, "web": is neither an address nor ADDRESS/LEN`,
		"net 10.0.0.1/8":              `column 5, "10.0.0.1/8": has bits behind its length: write 10.0.0.0/8`,
		"host ::ffff:1.2.3.4":         `column 6, "::ffff:1.2.3.4": is neither an address nor ADDRESS/LEN`,
		"host fe80::1%eth0":           `column 6, "fe80::1%eth0": is neither an address nor ADDRESS/LEN`,
		"port http":                   `column 6, "http": is neither a port such as 443 nor a range such as 1024-2047`,
		"port 65536":                  `column 6, "65536": is neither a port such as 443 nor a range such as 1024-2047`,
		"port 20-10":                  `column 6, "20-10": is neither a port such as 443 nor a range such as 1024-2047`,
		"port 22 or 80":               `column 12, "80": a number alone says nothing: write port, proto, less or greater before it`,
		"tcp udp":                     `column 5, "udp": and, or or a parenthesis is missing before it`,
		"(tcp":                        "at the end: a parenthesis is not closed",
		"(tcp udp)":                   `column 6, "udp": and, or or ) is missing before it`,
		"tcp)":                        `column 4, ")": nothing is open that it closes`,
		"tcp and":                     "at the end: something to look for, such as host 192.0.2.2, is missing",
		"or tcp":                      `column 1, "or": not understood: there are host`,
		"()":                          `column 2, ")": not understood`,
		"workload":                    "at the end: the workload's name is missing",
		"workload (":                  `column 10, "(": is not a name`,
		`workload "a`:                 "column 10: the quote is not closed",
		`"web"`:                       `column 1, "web": a name alone says nothing: write workload before it`,
		"dir out":                     `column 5, "out": is none of 6to4, 4to6 and 4to4`,
		"reason forward4":             `column 8, "forward4": is not a reason: there are malformed, `,
		"verdict lost":                `column 9, "lost": is not a verdict: there are forward4, `,
		"proto 256":                   `column 7, "256": is not a number from 0 to 255`,
		"less x":                      `column 6, "x": is not a number from 0 to 131072`,
		"é or x":                      `column 1, "é": not understood`,
		strings.Repeat("not ", 60):    "more than 50 parentheses and nots in each other",
		strings.Repeat("tcp ", 2000):  "a filter has at most 4096 bytes",
		"tcp or \xff":                 "is not UTF-8",
		"tcp and not (udp or port x)": `column 26, "x": is neither a port such as 443`,
	} {
		if f, err := Parse(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.40s: %v, %v, want %s", text, f, err, want)
		}
	}
}

// What a filter says about a packet before its end is never taken back: no
// stays no.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"", "tcp or not (udp and dir 6to4)", "workload web and not port 22", "drop and host 9.9.9.9", `workload "a b" or reason too-big/replied`, "less 80 || !fragment"} {
		f.Add(seed)
	}
	all := examples(f)
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := Parse(text)
		if err != nil {
			if filter != nil || err.Error() == "" {
				t.Fatalf("%q: %v, %v", text, filter, err)
			}
			return
		}
		filter.Resolve(func(string) []Workload { return []Workload{{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::3")}}} })
		again, err := Parse(filter.String())
		if err != nil {
			t.Fatalf("%q parses, but not as it says itself, %q: %v", text, filter, err)
		}
		again.Resolve(func(string) []Workload { return []Workload{{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::3")}}} })
		for name, p := range all {
			early := Packet{In: p.In, Table: p.Table}
			if filter.Wants(p) && !filter.Wants(&early) {
				t.Errorf("%q wants %s at the end, and not before", text, name)
			}
			if filter.Wants(p) != again.Wants(p) {
				t.Errorf("%q and %q do not agree about %s", text, filter, name)
			}
		}
	})
}

// echo is a head of an echo message, as MakeHead reads it.
func echo(typ byte, src, dst string, ident uint16) Head {
	b := make([]byte, 28)
	b[0], b[9], b[20], b[24], b[25] = 0x45, protoICMP4, typ, byte(ident>>8), byte(ident)
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], netip.MustParseAddr(dst).AsSlice())
	return MakeHead(b, 84)
}

// TestEchoes: a ping of a workload that shares its address is its own by the identifier
// outside, and not the one's whose identifier it happens to have within.
func TestEchoes(t *testing.T) {
	const shared, other = "198.51.100.9", "9.9.9.9"
	parse := func(text string, set string) *Filter {
		f, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		f.Resolve(func(string) []Workload {
			return []Workload{{IPv4: netip.MustParseAddr(shared), Ports: ports.MustParse(set)}}
		})
		return f
	}
	own, neighbour := parse("workload own", "4096-5119"), parse("workload neighbour", "8192-9215")
	for name, p := range map[string]*Packet{
		"request":    {In: echo(8, shared, other, 8200), Out: echo(8, shared, other, 4100), Verdict: translator.Pass4},
		"reply":      {In: echo(0, other, shared, 4100), Out: echo(0, other, shared, 8200), Verdict: translator.Deliver4},
		"from there": {In: echo(8, other, shared, 4100), Out: echo(8, other, shared, 4100), Verdict: translator.Deliver4},
	} {
		p.Done, p.Table = true, table(t)
		e := p.Mapping(p.Table)
		if !own.Wants(p) || neighbour.Wants(p) || e == nil || e.Mapping().IPv4.Addr().String() != shared || p.Direction() != Across {
			t.Errorf("%s: own %v, neighbour %v, mapping %v, direction %v", name, own.Wants(p), neighbour.Wants(p), e, p.Direction())
		}
	}
}
