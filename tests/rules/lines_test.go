package rules

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A comment names the rules that its line does as "rule 3.df", or as "rules 3.ttl,
// 3.addresses". "See rule 3.df" only speaks of one.
var (
	namesRule = regexp.MustCompile(`(?i)\b(see )?rules? ([1-7]\.[0-9a-z][0-9a-z.-]*(?:, [1-7]\.[0-9a-z][0-9a-z.-]*)*)`)
	cComment  = regexp.MustCompile(`//.*`)
)

// place is a line of code that a comment stands at.
type place struct {
	file string
	line int
}

// named adds the rules that a comment names.
func named(does, speaks map[string][]place, comment string, at place) {
	for _, m := range namesRule.FindAllStringSubmatch(comment, -1) {
		for _, rule := range strings.Split(m[2], ", ") {
			rule = strings.TrimRight(rule, ".-")
			if m[1] != "" {
				speaks[rule] = append(speaks[rule], at)
			} else {
				does[rule] = append(does[rule], at)
			}
		}
	}
}

// inGo finds what comments of a folder of Go name, tests aside.
func inGo(t *testing.T, folder string) (does, speaks map[string][]place) {
	t.Helper()
	does, speaks = map[string][]place{}, map[string][]place{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, group := range parsed.Comments {
			at := files.Position(group.Pos())
			named(does, speaks, strings.Join(strings.Fields(group.Text()), " "), place{path, at.Line})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return does, speaks
}

// inC is inGo for the kernel's program, where each line has its comment.
func inC(t *testing.T, folder string) (does, speaks map[string][]place) {
	t.Helper()
	does, speaks = map[string][]place{}, map[string][]place{}
	files, err := filepath.Glob(filepath.Join(folder, "*.[ch]"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no program: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			named(does, speaks, cComment.FindString(line), place{file, i + 1})
		}
	}
	return does, speaks
}

// TestEveryRuleHasALine: each rule is done by one line of the translator, whose
// comment says so, and where the kernel's program does it too, by one of its.
func TestEveryRuleHasALine(t *testing.T) {
	rules := ruleNames(t)
	does, speaks := inGo(t, "../../translator")
	kernelDoes, kernelSpeaks := inC(t, "../../netstack/fastpath/bpf")
	for _, rule := range rules {
		if n := len(does[rule]); n != 1 {
			t.Errorf("rule %s is done by %d lines of translator/, want one: %v", rule, n, does[rule])
		}
		want := 0
		if slices.Contains(inKernel, rule) {
			want = 1
		}
		if n := len(kernelDoes[rule]); n != want {
			t.Errorf("rule %s is done by %d lines of the kernel's program, want %d: %v", rule, n, want, kernelDoes[rule])
		}
	}
	for _, all := range []map[string][]place{does, speaks, kernelDoes, kernelSpeaks} {
		for rule, at := range all {
			if !slices.Contains(rules, rule) {
				t.Errorf("%v: there is no rule %s", at, rule)
			}
		}
	}
	for _, rule := range inKernel {
		if !slices.Contains(rules, rule) {
			t.Errorf("inKernel: there is no rule %s", rule)
		}
	}
}

// TestCommentsThatNameRules is about how they are read.
func TestCommentsThatNameRules(t *testing.T) {
	does, speaks := map[string][]place{}, map[string][]place{}
	for _, c := range []string{"rule 3.df", "what it is; rules 3.ttl, 6.to6.3-port", "Rule 1.1.32.", "see rule 2.too-big", "a rule of 3.5 percent", "the rules: 4.tcp"} {
		named(does, speaks, c, place{})
	}
	for rule, want := range map[string]int{"3.df": 1, "3.ttl": 1, "6.to6.3-port": 1, "1.1.32": 1, "2.too-big": 0, "3.5": 0, "4.tcp": 0} {
		if len(does[rule]) != want {
			t.Errorf("%s: %d lines, want %d", rule, len(does[rule]), want)
		}
	}
	if len(speaks) != 1 || len(speaks["2.too-big"]) != 1 {
		t.Errorf("spoken of: %v", speaks)
	}
}
