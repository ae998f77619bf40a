package version

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// semantic is the pattern that semver.org gives.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$`)

func TestVersion(t *testing.T) {
	if !semantic.MatchString(Next()) || strings.Contains(Next(), "-") {
		t.Errorf("version.txt: %q is not the version of a release", Next())
	}
	for known, want := range map[string]string{
		"": Next() + "-development", "(devel)": Next() + "-development", "v1.2.3": "1.2.3", "v1.3.0-rc.1": "1.3.0-rc.1",
		"v0.0.0-20261129190438-29da08e0e0e0+dirty": Next() + "-development",
	} {
		if got := module(known); got != want || !semantic.MatchString(got) {
			t.Errorf("built as module version %q: %s, want %s", known, got, want)
		}
	}
	if linked = "1.2.3-alpha.4+gabcdef0"; String() != linked {
		t.Error("what the linker was told is not the version")
	}
	linked = ""
}

// TestChangelog: a version that is released stands in the changelog, and what is to be
// released next does not stand below one that was.
func TestChangelog(t *testing.T) {
	text, err := os.ReadFile("../../../.github/CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(string(text), -1)
	if len(headings) == 0 {
		t.Fatal("no heading")
	}
	if first := headings[0][1]; first != "Unreleased" && !strings.HasPrefix(first, Next()+" ") {
		t.Errorf("the changelog begins with %q: that is neither Unreleased nor %s", first, Next())
	}
}
