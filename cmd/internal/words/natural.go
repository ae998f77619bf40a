package words

import "cmp"

// Natural compares texts as people do: web-9 comes before web-10. It is asked half a
// million times for a list, so it looks at nothing but where they differ.
func Natural(a, b string) int {
	full, at := cmp.Compare(len(a), len(b)), 0
	for {
		for at+8 <= len(a) && at+8 <= len(b) && a[at:at+8] == b[at:at+8] {
			at += 8
		}
		for at < len(a) && at < len(b) && a[at] == b[at] {
			at++
		}
		begin := at
		for begin > 0 && digit(a, begin-1) {
			begin--
		}
		i, j := number(a, begin), number(b, begin)
		if i == begin || j == begin { // not a number in both
			break
		}
		x, y := significant(a[begin:i]), significant(b[begin:j])
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
		if i == j && at >= i { // the same digits: they differ behind them
			break
		}
		a, b, at = a[i:], b[j:], 0
	}
	if at < len(a) && at < len(b) {
		return cmp.Compare(a[at], b[at])
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), full)
}

func digit(s string, i int) bool { return i < len(s) && s[i]-'0' < 10 }

// number is where digits end that begin somewhere.
func number(s string, begin int) (end int) {
	for end = begin; digit(s, end); end++ {
	}
	return end
}

// significant is a number without the zeros before it.
func significant(s string) string {
	for len(s) > 0 && s[0] == '0' {
		s = s[1:]
	}
	return s
}
