package ports

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Parse reads "1024-2047,8080": ranges and single ports in any order, that must
// not overlap. The empty text is the empty set. It is also the form of the
// kernel's net.ipv4.ip_local_reserved_ports.
func Parse(s string) (Set, error) {
	if strings.TrimSpace(s) == "" {
		return Set{}, nil
	}
	var ranges []Range
	for part := range strings.SplitSeq(s, ",") {
		r, err := ParseRange(part)
		if err != nil {
			return Set{}, fmt.Errorf("ports %q: %w", s, err)
		}
		ranges = append(ranges, r)
	}
	set, err := Disjoint(ranges)
	if err != nil {
		return Set{}, fmt.Errorf("ports %q: %w", s, err)
	}
	return set, nil
}

// MustParse is Parse for constants. It panics on an error.
func MustParse(s string) Set {
	set, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return set
}

// ParseRange reads "1024-2047", or "8080" for a single port.
func ParseRange(s string) (r Range, err error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	if r.First, err = parsePort(first); err != nil {
		return r, err
	}
	if r.Last, err = parsePort(last); err == nil && r.First > r.Last {
		err = fmt.Errorf("%v: the range runs backwards", r)
	}
	return r, err
}

func parsePort(s string) (uint16, error) {
	s = strings.TrimSpace(s)
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is no port: give a number from 0 to 65535", s)
	}
	return uint16(n), nil
}

// String is what Parse reads: "1024-2047,8080".
func (s Set) String() string {
	var b []byte
	for i, r := range s.runs {
		if i > 0 {
			b = append(b, ',')
		}
		b = r.append(b)
	}
	return string(b)
}

// MarshalText and UnmarshalText make a set a string in YAML: what Parse reads.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is Parse.
func (s *Set) UnmarshalText(text []byte) (err error) {
	*s, err = Parse(string(text))
	return err
}

// MarshalJSON and UnmarshalJSON make a set a list of ranges in JSON, which
// programs read: [{"first":1024,"last":2047},{"first":8080,"last":8080}].
func (s Set) MarshalJSON() ([]byte, error) {
	b := []byte{'['}
	for i, r := range s.runs {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"first":%d,"last":%d}`, r.First, r.Last)
	}
	return append(b, ']'), nil
}

// UnmarshalJSON takes ranges in any order, that must not overlap.
func (s *Set) UnmarshalJSON(text []byte) error {
	var ranges []Range
	if err := json.Unmarshal(text, &ranges); err != nil {
		return err
	}
	set, err := Disjoint(ranges)
	if err != nil {
		return fmt.Errorf("ports: %w", err)
	}
	*s = set
	return nil
}
