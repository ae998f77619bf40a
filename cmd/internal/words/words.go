// Package words is how the programs say numbers and lists to people, and in which
// order. What is said may not enter.
package words

import (
	"fmt"
	"strings"
)

// Count is a number of things: 0 workloads, 1 workload, 2 workloads. Of a phrase the
// first word is what there is more of (1 packet from outside, 2 packets from outside).
func Count[N int | int64 | uint64 | uint32](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	head, rest, more := strings.Cut(thing, " ")
	if s, ok := strings.CutSuffix(head, "y"); ok && !strings.ContainsAny(s[max(len(s)-1, 0):], "aeiou") {
		head = s + "ies"
	} else if strings.HasSuffix(head, "s") || strings.HasSuffix(head, "x") {
		head += "es"
	} else {
		head += "s"
	}
	if more {
		head += " " + rest
	}
	return fmt.Sprintf("%d %s", n, head)
}

// Number is a number of things of which one and many have words of their own.
func Number[N int | int64 | uint64 | uint32](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Some is the first few of a list, and how many more there are.
func Some(all []string, most int) string {
	if n := len(all) - most; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), n)
	}
	return strings.Join(all, ", ")
}
