//go:build linux

// Package procedures runs what config/deploy/procedures.md tells an operator to do, word
// by word, with the real programs on hosts of their own: only apt and systemctl are
// stand-ins, of which tests/packaging and vagrant prove the real ones.
package procedures

import (
	"os"
	"strings"
	"testing"
)

// block is commands of a page.
type block struct {
	host string // which of several, where the page says so
	text string
}

// section is what stands under a heading.
type section struct {
	name   string
	blocks []block
}

// read takes a page's sections apart, in their order. Each line of a fenced block of sh is
// a command, or a part of one.
func read(t *testing.T, path string) (all []section) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		name, heading := strings.CutPrefix(line, "## ")
		kind, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case heading:
			all = append(all, section{name: strings.TrimSpace(name)})
		case fence && inside:
			inside = false
		case fence:
			shell, host, _ := strings.Cut(kind, " ")
			if shell != "sh" || len(all) == 0 {
				t.Fatalf("a block of %q: only sh is run", kind)
			}
			inside = true
			s := &all[len(all)-1]
			s.blocks = append(s.blocks, block{host: host})
		case inside:
			s := &all[len(all)-1]
			s.blocks[len(s.blocks)-1].text += line
		}
	}
	return all
}
