package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// slowMappings reads a file of mappings the obvious way: all of it, by words.
// A nil in the list is a line with something wrong in it.
func slowMappings(text string) (all []*mapping.Mapping) {
	lines := strings.SplitAfter(strings.TrimPrefix(text, "\ufeff"), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	prefix := func(s string) (p netip.Prefix, ok bool) {
		if !strings.Contains(s, "/") {
			a, err := netip.ParseAddr(s)
			return netip.PrefixFrom(a, a.BitLen()), err == nil && a.Zone() == ""
		}
		p, err := netip.ParsePrefix(s)
		return p, err == nil && p.Masked() == p
	}
	for _, line := range lines {
		whole := strings.HasSuffix(line, "\n") && len(line) <= maxLine
		line, _, _ = strings.Cut(line, "#")
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) })
		if len(words) == 0 && whole {
			continue
		}
		all = append(all, nil)
		if !whole || len(words) < 2 || len(words) > 3 {
			continue
		}
		six, ok6 := prefix(words[0])
		four, ok4 := prefix(words[1])
		var set ports.Set
		var err error
		if len(words) == 3 {
			set, err = ports.Parse(words[2])
		}
		if ok6 && ok4 && err == nil {
			all[len(all)-1] = &mapping.Mapping{IPv6: six, IPv4: four, Ports: set}
		}
	}
	return all
}

func FuzzMappingFile(f *testing.F) {
	for _, seed := range []string{
		"2001:db8::1 192.0.2.1\n", "\ufeff2001:db8::1 192.0.2.1\r\n", "\ufeff\ufeff# x\n", "\xff\xfe2\x00\n\x00", "2001:db8::1\t192.0.2.1 1-2,7 # x\r\n\n#\n", "::/0 0.0.0.0/0", "a\nb c\nd e f\ng h i j\n",
		"fe80::1%a 1.2.3.4\n2001:db8::/127 192.0.2.1/31\n1.2.3.4 ::\n", strings.Repeat("x", maxLine) + "\n::1 1.1.1.1\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want := slowMappings(text)
		r, n := newMappingReader(strings.NewReader(text)), 0
		for ; r.next(); n++ {
			if n >= len(want) {
				t.Fatalf("line %d is too much", r.line)
			}
			if (r.bad != nil) != (want[n] == nil) || r.bad == nil && !r.m.Equal(*want[n]) {
				t.Fatalf("line %d: %v, %v; want %v", r.line, r.m, r.bad, want[n])
			}
			if r.bad != nil && len(r.bad.Error()) > 10*maxWord && !strings.Contains(r.bad.Error(), "ports") {
				t.Fatalf("line %d: an error of %d bytes", r.line, len(r.bad.Error()))
			}
		}
		if n != len(want) || r.err != nil {
			t.Fatalf("%d lines that say something, want %d; %v", n, len(want), r.err)
		}
	})
}

// inFiles writes a configuration and files of mappings and loads it. The errors
// name the folder as DIR.
func inFiles(t *testing.T, config string, files map[string]string) (*Config, string) {
	t.Helper()
	dir := t.TempDir()
	files["natless.yaml"] = config
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(filepath.Join(dir, "natless.yaml"))
	if err == nil {
		return c, ""
	}
	var all Errors
	if !errors.As(err, &all) {
		t.Errorf("%v: is no list of errors", err)
	}
	return nil, strings.ReplaceAll(err.Error(), dir, "DIR")
}

func TestMappingsFile(t *testing.T) {
	c, errs := inFiles(t, least+"mappings: [{ipv6: 2001:db8:5::1, ipv4: 10.0.1.0, ports: 1-9}]\nmappings_file: [a, b]\n", map[string]string{
		"a": "# two\n2001:db8:6::1 10.0.0.1\n\n \t2001:db8:6::2\t10.0.0.0   # and\r\n",
		"b": "2001:db8:7::/127 10.0.0.2/31\n2001:db8:8::1 10.0.1.0 10-20,1024\n2001:db8:8::2 10.0.1.0 2000-2999\n2001:db8:8::3 10.0.1.2\n",
	})
	if errs != "" {
		t.Fatal(errs)
	}
	table, err := c.Table()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for m := range table.All() {
		got = append(got, m.String())
	}
	if want := []string{
		"2001:db8:5::1/128 ↔ 10.0.1.0/32 ports 1-9", "2001:db8:6::1/128 ↔ 10.0.0.1/32", "2001:db8:6::2/128 ↔ 10.0.0.0/32",
		"2001:db8:7::/127 ↔ 10.0.0.2/31", "2001:db8:8::1/128 ↔ 10.0.1.0/32 ports 10-20,1024",
		"2001:db8:8::2/128 ↔ 10.0.1.0/32 ports 2000-2999", "2001:db8:8::3/128 ↔ 10.0.1.2/32",
	}; !slices.Equal(got, want) || table.Prefix() != c.Prefix {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if got := fmt.Sprint(c.Mapped4()); got != "[10.0.0.0/30 10.0.1.0/32 10.0.1.2/32]" {
		t.Errorf("routes %s", got)
	}
	if !c.Shared() {
		t.Error("nothing is shared")
	}
}

// TestMappingsFileErrors has every error of a file as its reader sees it.
func TestMappingsFileErrors(t *testing.T) {
	scattered, eleven := "", ""
	for i := range maxRoutes + 1 {
		scattered += fmt.Sprintf("2001:db8:6::%x 10.0.%d.%d\n", i+1, i>>7, i&127*2)
	}
	for i := range 11 {
		eleven += fmt.Sprintf("a%d\n", i)
	}
	const one = "mappings_file: m\n"
	for name, test := range map[string]struct{ config, m, want string }{
		"missing":     {"mappings_file: none", "", "DIR/natless.yaml:3: mappings_file: stat DIR/none: no such file or directory"},
		"folder":      {"mappings_file: [m, .]", "", "DIR/natless.yaml:3: mappings_file[1]: DIR is not a regular file"},
		"twice":       {"mappings_file: [m, ./m]", "", "DIR/natless.yaml:3: mappings_file[1]: DIR/m is there twice"},
		"no path":     {"mappings_file: {a: b}", "", "DIR/natless.yaml:3: mappings_file: must be a single value"},
		"one word":    {one, "\n2001:db8::1\n", `DIR/m:2: "2001:db8::1" stands alone: write an IPv6 prefix, white space and an IPv4 prefix`},
		"four words":  {one, "2001:db8:6::1 10.0.0.1 1 2\n", `DIR/m:1: "2" is too much: write an IPv6 prefix, an IPv4 prefix and perhaps ports, such as 1024-2047,8080`},
		"no newline":  {one, "2001:db8:6::1 10.0.0.1\n2001:db8:6::2 10.0.0.1", "DIR/m:2: has no newline at its end: is the file whole?"},
		"no prefix":   {one, "2001:db8::g 10.0.0.1\n2001:db8:6::1 10.0.0.256\n", "DIR/m:1: \"2001:db8::g\" is not an IP address\nDIR/m:2: \"10.0.0.256\" is not an IP address"},
		"no ports":    {one, "2001:db8:6::1 10.0.0.1 70000\n", `DIR/m:1: ports "70000": "70000" is no port: give a number from 0 to 65535`},
		"long line":   {one, strings.Repeat("1", maxLine) + "\n2001:db8\n", "DIR/m:1: is longer than 65536 bytes\nDIR/m:2: \"2001:db8\" stands alone: write an IPv6 prefix, white space and an IPv4 prefix"},
		"host bits":   {one, "2001:db8:6::1/64 10.0.0.0/24\n", "DIR/m:1: 2001:db8:6::1/64 has bits beyond its length: write 2001:db8:6::/64"},
		"other way":   {one, "10.0.0.1 2001:db8:6::1\n", "DIR/m:1: ipv6 10.0.0.1/32: wrong address family"},
		"suffix":      {one, "2001:db8:6::/120 10.0.0.0/23\n", "DIR/m:1: ipv4 10.0.0.0/23 has 9 suffix bits, ipv6 2001:db8:6::/120 only 8: lengthen the ipv4 prefix to /24 (RFC 7757 3.3)"},
		"own":         {one, "2001:db8::/120 192.0.2.0/24\n", "DIR/m:1: 2001:db8::/120 covers addresses.ipv6 (2001:db8::1), which is the translator's own\nDIR/m:1: 192.0.2.0/24 covers addresses.ipv4 (192.0.2.1), which is the translator's own"},
		"pool":        {one + "pools: [{name: a, ipv4: 10.0.0.0/30}]", "2001:db8:6::1 10.0.0.1\n", "DIR/m:1: 10.0.0.1/32 overlaps pools[0] (10.0.0.0/30), from which workloads are served"},
		"same line":   {one, "#\n2001:db8:6::1 10.0.0.1\n2001:db8:6::1 10.0.0.1\n", "DIR/m:3: 2001:db8:6::1/128 ↔ 10.0.0.1/32: ipv6 2001:db8:6::1/128 already belongs to 2001:db8:6::1/128 ↔ 10.0.0.1/32, which is DIR/m:2"},
		"same ports":  {one, "2001:db8:6::1 10.0.0.1 1024-2047\n2001:db8:6::2 10.0.0.1 1-9,2047-3000\n", "DIR/m:2: 2001:db8:6::2/128 ↔ 10.0.0.1/32 ports 1-9,2047-3000: port 2047 of 10.0.0.1 already belongs to 2001:db8:6::1/128 ↔ 10.0.0.1/32 ports 1024-2047, which is DIR/m:1"},
		"other file":  {"mappings_file: [m, n]", "2001:db8:6::1 10.0.0.1\n", "DIR/n:1: 2001:db8:6::2/128 ↔ 10.0.0.1/32: ipv4 10.0.0.1/32 already belongs to 2001:db8:6::1/128 ↔ 10.0.0.1/32, which is DIR/m:1"},
		"the list":    {one + "mappings: [{ipv6: 2001:db8:7::1, ipv4: 10.0.0.1}]", "2001:db8:6::1 10.0.0.1\n", "DIR/m:1: 2001:db8:6::1/128 ↔ 10.0.0.1/32: ipv4 10.0.0.1/32 already belongs to 2001:db8:7::1/128 ↔ 10.0.0.1/32, which is mappings[0]"},
		"too many":    {one, eleven, "…\nDIR/m:10: here reading ended: more than 9 errors"},
		"scattered":   {one, scattered, "DIR/natless.yaml:3: mappings_file: the IPv4 addresses lie so scattered that 4097 routes would bring them here, and 4096 are the limit: name the blocks in which they lie under mapped_blocks, to have these brought here whole"},
		"bad block":   {"mapped_blocks: [224.0.0.0/8, '2001:db8::/32', 0.0.0.0/0]", "", "DIR/natless.yaml:3: mapped_blocks[0]: 224.0.0.0/8 is not an IPv4 prefix that hosts may have\nDIR/natless.yaml:3: mapped_blocks[1]: 2001:db8::/32 is not an IPv4 prefix that hosts may have\nDIR/natless.yaml:3: mapped_blocks[2]: 0.0.0.0/0 is not an IPv4 prefix that hosts may have"},
		"blocks help": {one + "mapped_blocks: [10.0.0.0/8]", scattered, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := inFiles(t, least+test.config, map[string]string{"m": test.m, "n": "2001:db8:6::2 10.0.0.1\n"})
			if tail, cut := strings.CutPrefix(test.want, "…"); cut && !strings.HasSuffix(got, tail) || !cut && got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestBlocks holds the aggregated prefixes against a list of all addresses.
func TestBlocks(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"none":      {"", "[]"},
		"all":       {"0.0.0.0/1 128.0.0.0/1", "[0.0.0.0/0]"},
		"order":     {"10.0.0.3 10.0.0.1 10.0.0.2 10.0.0.0", "[10.0.0.0/30]"},
		"unaligned": {"10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4", "[10.0.0.1/32 10.0.0.2/31 10.0.0.4/32]"},
		"inside":    {"10.0.0.0/24 10.0.0.7 10.0.1.0/24 10.0.0.0/30", "[10.0.0.0/23]"},
		"last":      {"255.255.255.255 255.255.255.254 0.0.0.0", "[0.0.0.0/32 255.255.255.254/31]"},
	} {
		var b blocks
		for s := range strings.FieldsSeq(test.in) {
			p, err := parsePrefix(s)
			if err != nil {
				t.Fatal(err)
			}
			b.add(p)
		}
		if got := fmt.Sprint(b.prefixes()); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

func FuzzBlocks(f *testing.F) {
	f.Add([]byte{0x00, 0x81, 0x42, 0xff, 7, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		var b blocks
		var want, got [256]bool
		for i := 0; i+1 < len(data); i += 2 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, data[i]}), 24+int(data[i+1]&7)+1).Masked()
			b.add(p)
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				want[a.As4()[3]] = true
			}
		}
		all := b.prefixes()
		for i, p := range all {
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				if n := a.As4()[3]; got[n] {
					t.Fatalf("%v is there twice in %v", a, all)
				} else {
					got[n] = true
				}
			}
			if i > 0 && p.Bits() == all[i-1].Bits() && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() == netip.PrefixFrom(all[i-1].Addr(), p.Bits()-1).Masked() {
				t.Fatalf("%v and %v are one", all[i-1], p)
			}
		}
		if got != want {
			t.Fatalf("%v hold other addresses", all)
		}
	})
}

// million is a file of a million mappings, as a program would write it.
func million(shared bool) []byte {
	var b bytes.Buffer
	for i := range 1_000_000 {
		if shared {
			fmt.Fprintf(&b, "2001:db8:6:%x::1:%x\t10.%d.%d.%d\t%d-%d\n", i>>16, i&0xffff, i>>22, i>>14&255, i>>6&255, i&63<<10, i&63<<10|1023)
		} else {
			fmt.Fprintf(&b, "2001:db8:6:%x::1:%x\t10.%d.%d.%d\n", i>>16, i&0xffff, i>>16, i>>8&255, i&255)
		}
	}
	return b.Bytes()
}

// BenchmarkLoadMillion reads a configuration with a million mappings in a file.
func BenchmarkLoadMillion(b *testing.B) {
	for name, shared := range map[string]bool{"hosts": false, "sharers": true} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			text := million(shared)
			config := filepath.Join(dir, "natless.yaml")
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "m"), text, 0o600),
				os.WriteFile(config, []byte(least+"mappings_file: m\n"), 0o600)); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				c, err := Load(config)
				if err != nil {
					b.Fatal(err)
				}
				if table, _ := c.Table(); table.Len() != 1_000_000 {
					b.Fatal(table.Len())
				}
			}
		})
	}
}
