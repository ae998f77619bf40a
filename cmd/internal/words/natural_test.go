package words

import (
	"cmp"
	"math/rand/v2"
	"strings"
	"testing"
)

// plain is Natural as one would say it.
func plain(a, b string) int {
	digits := func(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
	full := cmp.Compare(len(a), len(b))
	for a != "" && b != "" {
		i, j := digits(a), digits(b)
		if i > 0 && j > 0 {
			x, y := strings.TrimLeft(a[:i], "0"), strings.TrimLeft(b[:j], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[i:], b[j:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), full)
}

func TestNatural(t *testing.T) {
	for _, ordered := range [][]string{{"", "1", "a"}, {"web-9", "web-10", "web-010"}, {"a1b", "a1c", "a2", "a10", "ab"}, {"1a", "12", "a"}, {"x01y2", "x1y10"}} {
		for i := range ordered[1:] {
			if a, b := ordered[i], ordered[i+1]; Natural(a, b) >= 0 || Natural(b, a) <= 0 {
				t.Errorf("%q does not come before %q", a, b)
			}
		}
	}
	letters := "0019ab-"
	word := func() string {
		b := make([]byte, rand.IntN(7))
		for i := range b {
			b[i] = letters[rand.IntN(len(letters))]
		}
		return string(b)
	}
	for range 50_000 {
		if a, b := word(), word(); Natural(a, b) != plain(a, b) {
			t.Fatalf("Natural(%q, %q) = %d, want %d", a, b, Natural(a, b), plain(a, b))
		}
	}
}
