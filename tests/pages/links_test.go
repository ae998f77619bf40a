package pages

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"
	"unicode/utf8"
)

// built are directories that hold what was built, and no page of ours.
var built = []string{".git", ".test-output", "bin", "dist", "vagrant/build", "vagrant/.vagrant"}

// width is the longest line of prose, in characters.
const width = 120

func TestLinks(t *testing.T) {
	t.Parallel()
	faults, err := check(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

// TestFaults holds the checker against pages that have every fault.
func TestFaults(t *testing.T) {
	t.Parallel()
	pages := fstest.MapFS{
		"Makefile": {Data: []byte("build: ## all\n")},
		"README.md": {Data: []byte(strings.Join([]string{
			"# Top", "", "[good](sub/page.md#a-heading-with-code), [self](#top), [number][1], [folder](sub), `make build`.",
			"", "[file](sub/none.md) [anchor](sub/page.md#none) [own](#none) ![image](none.svg) [two][2]. [out](../x) `make none`",
			"", "    [in code](none)", "", "`[in code](none)`", "", "```", "[in code](none)", "```", "",
			strings.Repeat("word ", 25), "", "[1]: sub/page.md", "[3]: sub/none"}, "\n"))},
		"sub/page.md":    {Data: []byte("# A heading, with `code`\n\n## Same\n\n## Same\n\n[second](#same-1) [third](#same-2)\n")},
		"sub/orphan.md":  {Data: []byte("# Orphan\n")},
		"bin/ignored.md": {Data: []byte("[none](none)\n")},
	}
	got, err := check(pages)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"README.md:5: link to sub/none.md: no such file",
		"README.md:5: link to sub/page.md#none: no such heading",
		"README.md:5: link to #none: no such heading",
		"README.md:5: link to none.svg: no such file",
		"README.md:5: link to ../x: outside of the tree",
		"README.md:5: [2] is not defined",
		"README.md:5: make none: no such target",
		"README.md:15: 125 characters, more than 120",
		"README.md:18: link to sub/none: no such file",
		"sub/page.md:7: link to #same-2: no such heading",
		"sub/orphan.md: no page links to it",
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// page is a page as a reader sees it: lines of code are empty.
type page struct {
	lines    []string
	headings map[string]bool
	leads    []string // the pages that it links to
}

var (
	inline     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	reference  = regexp.MustCompile(`\[(\d+)\]`)
	definition = regexp.MustCompile(`^\[(\d+)\]: (\S+)$`)
	code       = regexp.MustCompile("`[^`]*`")
	makes      = regexp.MustCompile("`(?:sudo )?make ([a-z-]+)[^`]*`")
	target     = regexp.MustCompile(`(?m)^([a-z-]+):.*## `)
	external   = regexp.MustCompile(`^[a-z]+:`)
)

// check says what is wrong with the pages of a tree.
func check(tree fs.FS) (faults []string, err error) {
	pages := map[string]*page{}
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(built, name):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".md":
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		pages[name] = read(string(text))
		return err
	})
	if err != nil {
		return nil, err
	}
	makefile, err := fs.ReadFile(tree, "Makefile")
	if err != nil {
		return nil, err
	}
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	for name, p := range pages {
		faults = append(faults, p.check(tree, name, pages, targets)...)
	}
	return append(faults, orphans(pages)...), nil
}

func read(text string) *page {
	p := &page{headings: map[string]bool{}}
	fenced, blank := false, true
	for line := range strings.SplitSeq(text, "\n") {
		fence := strings.HasPrefix(line, "```")
		indented := blank && strings.HasPrefix(line, "    ")
		blank = line == "" || indented
		if fence {
			fenced = !fenced
		}
		if fence || fenced || indented {
			line = ""
		}
		if hashes, title, is := strings.Cut(line, " "); is && hashes != "" && strings.Trim(hashes, "#") == "" {
			p.heading(title)
		}
		p.lines = append(p.lines, line)
	}
	return p
}

// heading adds the anchor that GitHub gives a heading; a second one of the same
// name has a number.
func (p *page) heading(title string) {
	slug := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, title)
	anchor := slug
	for n := 1; p.headings[anchor]; n++ {
		anchor = fmt.Sprintf("%s-%d", slug, n)
	}
	p.headings[anchor] = true
}

func (p *page) check(tree fs.FS, name string, pages map[string]*page, targets map[string]bool) (faults []string) {
	fault := func(line int, format string, a ...any) {
		faults = append(faults, fmt.Sprintf("%s:%d: %s", name, line+1, fmt.Sprintf(format, a...)))
	}
	link := func(line int, to string) {
		if what := p.follow(tree, name, to, pages); what != "" {
			fault(line, "link to %s: %s", to, what)
		}
	}
	defined := map[string]bool{}
	for i, line := range p.lines {
		if m := definition.FindStringSubmatch(line); m != nil {
			defined[m[1]] = true
			link(i, m[2])
		}
	}
	for i, line := range p.lines {
		for _, m := range makes.FindAllStringSubmatch(line, -1) {
			if !targets[m[1]] {
				fault(i, "make %s: no such target", m[1])
			}
		}
		prose := code.ReplaceAllString(line, "``")
		for _, m := range inline.FindAllStringSubmatch(prose, -1) {
			link(i, m[1])
		}
		for _, m := range reference.FindAllStringSubmatch(prose, -1) {
			if !defined[m[1]] {
				fault(i, "[%s] is not defined", m[1])
			}
		}
		if n := utf8.RuneCountInString(line); n > width && !strings.HasPrefix(strings.TrimSpace(line), "|") && !definition.MatchString(line) {
			fault(i, "%d characters, more than %d", n, width)
		}
	}
	return faults
}

// follow says why a link leads nowhere, or nothing.
func (p *page) follow(tree fs.FS, from, to string, pages map[string]*page) string {
	if external.MatchString(to) {
		return "" // the network is not asked
	}
	file, anchor, _ := strings.Cut(to, "#")
	at := from
	if file != "" {
		at = path.Join(path.Dir(from), file)
	}
	if !fs.ValidPath(at) {
		return "outside of the tree"
	}
	info, err := fs.Stat(tree, at)
	if err != nil {
		return "no such file"
	}
	if info.IsDir() {
		at = path.Join(at, "README.md")
	}
	p.leads = append(p.leads, at)
	if anchor != "" && (pages[at] == nil || !pages[at].headings[anchor]) {
		return "no such heading"
	}
	return ""
}

// orphans are pages that nobody finds who begins with README.md. Templates are
// shown by the forge.
func orphans(pages map[string]*page) (faults []string) {
	seen, next := map[string]bool{}, []string{"README.md"}
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		if seen[name] || pages[name] == nil {
			continue
		}
		seen[name] = true
		next = append(next, pages[name].leads...)
	}
	for name := range pages {
		if !seen[name] && !strings.Contains(strings.ToUpper(name), "_TEMPLATE") {
			faults = append(faults, name+": no page links to it")
		}
	}
	return faults
}
