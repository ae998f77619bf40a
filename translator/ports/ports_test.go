package ports

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		" \n":                 "",
		"443":                 "443",
		"1024-2047,8080":      "1024-2047,8080",
		" 8080 , 1024 - 2047": "1024-2047,8080",
		"1-2,3,4-9":           "1-9",
		"0-65535":             "0-65535",
		"65535,0":             "0,65535",
		"32768-65535,0-32767": "0-65535",
	} {
		set, err := Parse(in)
		if err != nil || set.String() != want {
			t.Errorf("%q: %q %v, want %q", in, set, err, want)
		}
		if back, err := Parse(set.String()); err != nil || !back.Equal(set) {
			t.Errorf("%q does not come back: %v %v", in, back, err)
		}
	}
	for in, want := range map[string]string{
		"70000":   `ports "70000": "70000" is no port`,
		"http":    `"http" is no port`,
		"1-":      `"" is no port`,
		"1,,2":    `"" is no port`,
		"9-1":     "9-1: the range runs backwards",
		"1-5,5-9": "1-5 and 5-9: ranges must not overlap",
		"1-5,2":   "1-5 and 2: ranges must not overlap",
		"-1":      `"" is no port`,
		"1-2-3":   `"2-3" is no port`,
	} {
		if set, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) || !set.IsZero() {
			t.Errorf("%q: %v, error %v, want %q in it", in, set, err, want)
		}
	}
}

// TestEncodings: a list of ranges in JSON, where an empty set can be left out,
// and a string in YAML. Both are read by other programs, byte for byte.
func TestEncodings(t *testing.T) {
	type both struct {
		Ports Set `json:"ports,omitzero" yaml:"ports"`
	}
	for text, want := range map[string][2]string{
		"":               {`{}`, "ports: \"\"\n"},
		"443":            {`{"ports":[{"first":443,"last":443}]}`, "ports: \"443\"\n"},
		"8080,1024-2047": {`{"ports":[{"first":1024,"last":2047},{"first":8080,"last":8080}]}`, "ports: 1024-2047,8080\n"},
	} {
		in := both{MustParse(text)}
		asJSON, err := json.Marshal(in)
		if err != nil || string(asJSON) != want[0] {
			t.Errorf("%q in JSON: %s %v", text, asJSON, err)
		}
		asYAML, err := yaml.Marshal(in)
		if err != nil || string(asYAML) != want[1] {
			t.Errorf("%q in YAML: %q %v", text, asYAML, err)
		}
		var out both
		if err := json.Unmarshal(asJSON, &out); err != nil || !out.Ports.Equal(in.Ports) {
			t.Errorf("%s: %v %v", asJSON, out, err)
		}
		if err := yaml.Unmarshal(asYAML, &out); err != nil || !out.Ports.Equal(in.Ports) {
			t.Errorf("%q: %v %v", asYAML, out, err)
		}
	}
	if b, err := json.Marshal(Set{}); err != nil || string(b) != "[]" {
		t.Errorf("an empty list is %s, %v", b, err)
	}
	for text, want := range map[string]string{
		`null`: "", `[]`: "",
		`[{"first":9,"last":9},{"first":1,"last":8}]`: "1-9",
	} {
		var s Set
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.String() != want {
			t.Errorf("%s: %v %v", text, s, err)
		}
	}
	for _, text := range []string{`"1-9"`, `[{"first":9,"last":1}]`, `[{"first":1,"last":9},{"first":9,"last":9}]`, `[{"first":65536,"last":65536}]`} {
		if s := MustParse("5"); json.Unmarshal([]byte(text), &s) == nil || s.String() != "5" {
			t.Errorf("%s is accepted: %v", text, s)
		}
	}
}

// TestPSID compares with RFC 7597 5.1 said in bits: a port is in the set when its
// PSID field is the PSID and, with offset bits, those are not zero.
func TestPSID(t *testing.T) {
	t.Parallel()
	for a := range 17 {
		for k := 0; a+k <= 16; k += 1 + a/4 {
			psid := uint16(rand.IntN(1 << k))
			set, err := PSID(a, k, psid)
			if err != nil {
				t.Fatal(err)
			}
			var want model
			for port := range Count {
				want[port] = port>>(16-a-k)&(1<<k-1) == int(psid) && (a == 0 || port>>(16-a) != 0)
			}
			want.check(t, set, "a=%d k=%d PSID %d", a, k, psid)
		}
	}
	// The example of RFC 7597 appendix A: a=6, k=8, PSID 0x34.
	set, err := PSID(6, 8, 0x34)
	if err != nil || set.Len() != 63 || set.Run(0) != (Range{1232, 1235}) || set.Run(1) != (Range{2256, 2259}) || set.Run(62) != (Range{64720, 64723}) {
		t.Errorf("%v %v", set, err)
	}
	for _, bad := range [][3]int{{9, 8, 0}, {-1, 8, 0}, {6, -1, 0}, {0, 4, 16}} {
		if _, err := PSID(bad[0], bad[1], uint16(bad[2])); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

func TestLongest(t *testing.T) {
	for in, want := range map[string]Range{
		"": {}, "443": {443, 443}, "1024-2047": {1024, 2047}, "0-65535": {0, 65535},
		"80,443,1024-2047,8080": {1024, 2047}, "1-9,11-19": {1, 9},
	} {
		if got := MustParse(in).Longest(); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
	if s := MustParse("80,443"); s.Min() != 80 || (Set{}).Min() != 0 {
		t.Errorf("the lowest port of %v is %d", s, s.Min())
	}
}

// TestNoAllocations: what is asked for packets costs none.
func TestNoAllocations(t *testing.T) {
	s, o, yes := MustParse("80,443,1024-2047,8080"), MustParse("8000-9000"), false
	if n := testing.AllocsPerRun(100, func() {
		yes = s.Contains(1500) && s.ContainsRange(Range{1024, 1100}) && s.OverlapsRange(Range{444, 1024}) &&
			s.Overlaps(o) && s.Longest().Contains(1024) && s.Size() > 0 && s.Equal(s)
		for r := range s.Runs() {
			yes = yes && r.Size() > 0
		}
	}); n != 0 || !yes {
		t.Errorf("%v allocations, %v", n, yes)
	}
}

func TestMustParse(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	MustParse("x")
}

func TestIterationEnds(t *testing.T) {
	s := MustParse("1-9,20-29")
	var first []uint16
	for p := range s.Ports() {
		if first = append(first, p); len(first) == 10 {
			break
		}
	}
	if want := []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9, 20}; !slices.Equal(first, want) {
		t.Errorf("%v", first)
	}
}
