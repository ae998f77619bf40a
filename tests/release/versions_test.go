//go:build linux

package release

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	apk "github.com/knqyf263/go-apk-version"

	"github.com/natless/natless/tests/netns"
)

// ascending are versions as they may come one after the other.
var ascending = []string{"0.9.0-alpha.9+gfedcba9", "0.9.0-alpha.581+gabcdef0", "0.9.0-beta.1", "0.9.0-rc.1", "0.9.0-rc.2", "0.9.0-rc.10", "0.9.0", "0.9.1-alpha.582", "0.10.0"}

// TestVersionsSort: a later version is greater by the rules of each package format.
func TestVersionsSort(t *testing.T) {
	netns.Require(t, "rpm", "dpkg")
	less := map[string]func(a, b string) bool{
		"deb": func(a, b string) bool { return exec.Command("dpkg", "--compare-versions", a, "lt", b).Run() == nil },
		"rpm": func(a, b string) bool {
			out, err := exec.Command("rpm", "--eval", fmt.Sprintf(`%%{lua: print(rpm.vercmp("%s", "%s"))}`, a, b)).Output()
			return err == nil && strings.TrimSpace(string(out)) == "-1"
		},
		"apk": func(a, b string) bool { return apk.Valid(a) && apk.Valid(b) && apk.Version(a).LessThan(apk.Version(b)) },
	}
	for format, less := range less {
		for i, semantic := range ascending[1:] {
			if a, b := written(format)(t, ascending[i]), written(format)(t, semantic); !less(a, b) || less(b, a) {
				t.Errorf("%s: %s is not before %s", format, a, b)
			}
		}
	}
}

// TestVersionsRefused: what one of the formats has no word for is not written for any:
// apk would take the package for damaged.
func TestVersionsRefused(t *testing.T) {
	t.Parallel()
	for _, semantic := range []string{"1.2", "1.2.3-rc1", "1.2.3-preview.1", "1.2.3-rc.1.2", "v", "1.2.3-"} {
		for _, format := range []string{"deb", "rpm", "apk"} {
			cmd := exec.Command("config/deploy/release/version", format, semantic)
			cmd.Dir = root
			if out, err := cmd.Output(); err == nil {
				t.Errorf("%s as %s is %s", semantic, format, out)
			}
		}
	}
}
