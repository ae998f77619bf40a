//go:build linux

package page

import (
	"testing"

	"github.com/natless/natless/netstack/fastpath"
)

// TestReasons: every reason of the fast path has its own words, and there are no others.
func TestReasons(t *testing.T) {
	left, said := len(passedOn), map[string]string{}
	for r := range fastpath.NumReasons {
		if r == fastpath.Translated || r == fastpath.Lost {
			continue
		}
		words := passedOn[r.String()]
		if words == "" || said[words] != "" {
			t.Errorf("%s: %q, as of %q", r, words, said[words])
		}
		said[words] = r.String()
		left--
	}
	if left != 0 {
		t.Errorf("%d reasons that there are not", left)
	}
}
