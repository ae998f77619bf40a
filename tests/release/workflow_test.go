//go:build linux

package release

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"

	"github.com/natless/natless/tests/netns"
)

const workflow = root + "/.github/workflows/release.yaml"

// TestWorkflow: what CI runs to release is what stands in the Makefile, and nothing else
// makes anything.
func TestWorkflow(t *testing.T) {
	text, err := os.ReadFile(workflow)
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`make ([a-z-]+)`).FindAllStringSubmatch(regexp.MustCompile(`(?m)^ *#.*$`).ReplaceAllString(string(text), ""), -1) {
		targets = append(targets, m[1])
		if !strings.Contains(string(makefile), "\n"+m[1]+": ") {
			t.Errorf("the workflow runs make %s, which there is not", m[1])
		}
	}
	if !slices.Equal(targets, []string{"test", "test-release", "release"}) {
		t.Errorf("the workflow runs make %v", targets)
	}
	for _, other := range []string{"go build", "docker build", "nfpm", "helm package", "podman"} {
		if strings.Contains(string(text), other) {
			t.Errorf("the workflow has %s of its own", other)
		}
	}
}

// TestWorkflowIsSound: actionlint, and shellcheck in its scripts, have nothing to say of
// the workflow. No runner has run it here.
func TestWorkflowIsSound(t *testing.T) {
	netns.Require(t, "shellcheck")
	linter, err := actionlint.NewLinter(os.Stderr, &actionlint.LinterOptions{Shellcheck: "shellcheck", Color: actionlint.ColorOptionKindNever})
	if err != nil {
		t.Fatal(err)
	}
	found, err := linter.LintFile(workflow, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found {
		t.Error(e)
	}
}
