package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/natless/natless/tests/reference"
)

var ruleLine = regexp.MustCompile(`(?m)^- \*\*([0-9][0-9a-z.-]*)\*\* `)

func ruleNames(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile("rules.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ruleLine.FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	if len(names) < 100 {
		t.Fatalf("rules.md has %d rules: its format has changed", len(names))
	}
	return names
}

// TestEveryRuleHasATest compares rules.md with the table.
func TestEveryRuleHasATest(t *testing.T) {
	known := map[string]bool{}
	for _, name := range ruleNames(t) {
		if known[name] {
			t.Errorf("rule %s stands twice in rules.md", name)
		}
		known[name] = true
		if len(Proofs[name]) == 0 {
			t.Errorf("rule %s has no test", name)
		}
	}
	for name := range Proofs {
		if !known[name] {
			t.Errorf("table.go has a rule %s that rules.md has not", name)
		}
	}
}

// TestNamedTestsExist looks every test of the table up in the sources.
func TestNamedTestsExist(t *testing.T) {
	cache := map[string]map[string]string{}
	for rule, proofs := range Proofs {
		for _, p := range proofs {
			if err := exists(cache, p); err != nil {
				t.Errorf("rule %s: %v", rule, err)
			}
		}
	}
}

// exists finds "folder.Test" or "folder.Test/subtest": a function of that name,
// and for a subtest its name as a string in the function or its file.
func exists(cache map[string]map[string]string, proof string) error {
	at := strings.LastIndex(proof, ".Test")
	if f := strings.LastIndex(proof, ".Fuzz"); f > at {
		at = f
	}
	if at < 0 {
		return fmt.Errorf("%q names no test", proof)
	}
	folder, test := proof[:at], proof[at+1:]
	test, sub, has := strings.Cut(test, "/")
	funcs := cache[folder]
	if funcs == nil {
		var err error
		if funcs, err = testFuncs(filepath.Join("..", "..", folder)); err != nil {
			return err
		}
		cache[folder] = funcs
	}
	source, found := funcs[test]
	if !found {
		return fmt.Errorf("%s has no %s", folder, test)
	}
	if has && !strings.Contains(source, `"`+sub+`"`) {
		return fmt.Errorf("%s.%s has no subtest %q", folder, test, sub)
	}
	return nil
}

// testFuncs gives the text of the file around every test function of a folder.
func testFuncs(folder string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, d := range parsed.Decls {
			if f, isFunc := d.(*ast.FuncDecl); isFunc && f.Recv == nil {
				out[f.Name.Name] = string(text)
			}
		}
	}
	return out, nil
}

// TestReferenceKnowsItsRules: the reference translator counts the rules that it
// follows by these names.
func TestReferenceKnowsItsRules(t *testing.T) {
	known := map[string]bool{}
	for _, name := range ruleNames(t) {
		known[name] = true
	}
	files, err := filepath.Glob("../reference/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources of the reference translator: %v", err)
	}
	counted := map[string]bool{}
	for _, name := range reference.RuleNames() {
		counted[name] = true
	}
	used := map[string]bool{}
	quoted := regexp.MustCompile(`"([1-7]\.[0-9a-z.-]+)"`)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") || strings.HasSuffix(f, "names.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range quoted.FindAllStringSubmatch(string(text), -1) {
			if strings.Count(m[1], ".") == 3 {
				continue // an address
			}
			used[m[1]] = true
			if !known[m[1]] {
				t.Errorf("%s: rule %s is not in rules.md", f, m[1])
			}
		}
	}
	if !maps.Equal(used, counted) {
		t.Error("reference.RuleNames is not the list of rules that its sources count")
	}
}
