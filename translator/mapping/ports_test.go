package mapping

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func ports(t testing.TB, s string) PortSet {
	t.Helper()
	set, err := ParsePorts(s)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"443":                 "443",
		"1024-2047,8080":      "1024-2047,8080",
		" 8080 , 1024 - 2047": "1024-2047,8080",
		"1-2,3,4-9":           "1-9",
		"0-65535":             "0-65535",
		"65535,0":             "0,65535",
	} {
		set, err := ParsePorts(in)
		if err != nil || set.String() != want {
			t.Errorf("%q: %q %v, want %q", in, set, err, want)
		}
		var back PortSet
		if err := back.UnmarshalText([]byte(set.String())); err != nil || !back.Equal(set) {
			t.Errorf("%q does not come back: %v %v", in, back, err)
		}
	}
	for in, want := range map[string]string{
		"70000":   `"70000" is no port`,
		"http":    `"http" is no port`,
		"1-":      `"" is no port`,
		"1,,2":    `"" is no port`,
		"9-1":     "runs backwards",
		"1-5,5-9": "must not overlap",
		"1-5,2":   "must not overlap",
		"-1":      `"" is no port`,
		"1-2-3":   `"2-3" is no port`,
	} {
		if _, err := ParsePorts(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q in it", in, err, want)
		}
	}
}

// TestMAPPorts compares with RFC 7597 5.1 said in bits: a port is in the set
// when its PSID field is the PSID and, with offset bits, those are not zero.
func TestMAPPorts(t *testing.T) {
	for a := range 17 {
		for k := 0; a+k <= 16; k += 1 + a/4 {
			psid := uint16(rand.IntN(1 << k))
			set, err := MAPPorts(a, k, psid)
			if err != nil {
				t.Fatal(err)
			}
			in := 0
			for port := range 65536 {
				want := port>>(16-a-k)&(1<<k-1) == int(psid) && (a == 0 || port>>(16-a) != 0)
				if want != owns(set, uint16(port)) {
					t.Fatalf("a=%d k=%d PSID %d: port %d owned is %v", a, k, psid, port, !want)
				}
				if want {
					in++
				}
				if port%257 == 0 && set.Contains(uint16(port)) != want {
					t.Fatalf("Contains(%d) is %v", port, !want)
				}
			}
			if set.Len() != in {
				t.Fatalf("a=%d k=%d: Len %d, want %d", a, k, set.Len(), in)
			}
			if a == 16 {
				break // 65535 ranges of one port: once is enough
			}
		}
	}
	// The example of RFC 7597 appendix A: a=6, k=8, PSID 0x34.
	set, err := MAPPorts(6, 8, 0x34)
	if err != nil || set[0] != (PortRange{1232, 1235}) || set[1] != (PortRange{2256, 2259}) || set[62] != (PortRange{64720, 64723}) {
		t.Errorf("%v %v", set, err)
	}
	for _, bad := range [][3]int{{9, 8, 0}, {-1, 8, 0}, {6, -1, 0}, {0, 4, 16}} {
		if _, err := MAPPorts(bad[0], bad[1], uint16(bad[2])); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

// TestIdentificationRange: whatever the identification, base | (id & mask) is
// a number in the port set, so that workloads on one address never meet.
func TestIdentificationRange(t *testing.T) {
	mapt, _ := MAPPorts(6, 8, 0x34)
	for in, least := range map[string]int{
		"1024-2047": 1024, "0-65535": 65536, "443": 1, "1500-2523": 512,
		"1024-2047,8080": 1024, "443,1024-2047": 1024, "3-4": 1,
		"1024-1151,3072-3199": 256, mapt.String(): 128,
	} {
		set := ports(t, in)
		e := newEntry(Mapping{mustPrefix("2001:db8::1/128"), mustPrefix("192.0.2.1/32"), set}, 1)
		base, mask := e.IdentificationRange()
		got := map[uint16]bool{}
		for id := range 65536 {
			got[base|uint16(id)&mask] = true
		}
		for id := range got {
			if !owns(set, id) {
				t.Fatalf("%s: identification %d is outside the set (base %#x mask %#x)", in, id, base, mask)
			}
		}
		if len(got) < least {
			t.Errorf("%s: %d identifications, want %d", in, len(got), least)
		}
	}
	whole := newEntry(Mapping{mustPrefix("2001:db8::1/128"), mustPrefix("192.0.2.1/32"), nil}, 1)
	if base, mask := whole.IdentificationRange(); base != 0 || mask != 0xffff {
		t.Errorf("whole: %#x %#x", base, mask)
	}
}

func TestEchoRange(t *testing.T) {
	for in, want := range map[string]PortRange{
		"": {0, 65535}, "443": {443, 443}, "1024-2047": {1024, 2047},
		"80,443,1024-2047,8080": {1024, 2047}, "1-9,11-19": {1, 9},
	} {
		e := newEntry(Mapping{mustPrefix("2001:db8::1/128"), mustPrefix("192.0.2.1/32"), ports(t, in)}, 1)
		if got := e.EchoRange(); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
		for port := range 65536 {
			if want := in == "" || owns(ports(t, in), uint16(port)); port%7 == 0 && e.Owns(uint16(port)) != want {
				t.Fatalf("%q: Owns(%d) is %v", in, port, !want)
			}
		}
	}
}
