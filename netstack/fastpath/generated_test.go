//go:build linux

package fastpath

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/regenerate"
)

// TestGenerated generates the Go code and the objects again.
func TestGenerated(t *testing.T) {
	t.Cleanup(daemon.Remove)
	regenerate.Compare(t, "fastpath.go")
}

// TestLayout holds what Go says twice against the C header.
func TestLayout(t *testing.T) {
	text, err := os.ReadFile("bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]int{
		"LAYOUT": Layout, "MAX_LENGTHS": maxLengths, "NEAR_WORDS": nearWords, "MAX_UPLINKS": maxUplinks, "FABRIC": Fabric, "PORT_SIZES": portSizes,
		"ENABLED": flagEnabled, "GLOBAL_ONLY": flagGlobalOnly, "ZERO_CLASS": flagZeroClass,
		"MAPPED_IN_PREFIX": flagMappedInPrefix, "COUNT_SHARED": flagCountShared, "STRICT_SOURCE": flagStrictSource, "ALONE": flagAlone, "SHARED": flagShared, "HOLES": flagHoles,
		"CLIENT": flagClient4, "LINE_WORDS": lineWords,
	} {
		found := regexp.MustCompile(`(?m)^\t` + name + ` = (\d+),`).FindSubmatch(text)
		if found == nil || string(found[1]) != strconv.Itoa(value) {
			t.Errorf("%s is %d here, and %q in C", name, value, found)
		}
	}
}

// Each reason has a name of its own, which is the program's, and its line in the
// README.
func TestReasons(t *testing.T) {
	text, err := os.ReadFile("bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	enum := regexp.MustCompile(`(?s)enum reason \{(.*?)\}`).FindSubmatch(text)
	if enum == nil {
		t.Fatal("the program has no reasons")
	}
	names := regexp.MustCompile(`(?m)^\t([A-Z_0-9]+),`).FindAllSubmatch(enum[1], -1)
	if len(names) != int(NumReasons)+1 {
		t.Fatalf("%d reasons, want %d", len(names)-1, NumReasons)
	}
	seen := map[string]bool{}
	for r := range NumReasons {
		name := strings.ReplaceAll(strings.ToLower(string(names[r][1])), "_", "-")
		if r.String() != name || seen[name] {
			t.Errorf("reason %d is called %q, want %q, once", r, r, name)
		}
		seen[name] = true
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("reason %s is not explained", name)
		}
	}
}
