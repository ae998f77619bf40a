//go:build linux

package packaging

import (
	"debug/buildinfo"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/tests/daemon"
)

// notLinked are modules that go.mod has for tests and for who makes a package.
var notLinked = []string{
	"github.com/chromedp/", "github.com/quic-go/", "github.com/getkin/kin-openapi", "github.com/oasdiff/", "github.com/santhosh-tekuri/jsonschema/",
	"github.com/google/go-cmp", "go.uber.org/goleak", "github.com/kylelemons/godebug", "go.opentelemetry.io/",
	"github.com/cpuguy83/go-md2man/", "github.com/russross/blackfriday/", "go.yaml.in/yaml/",
}

// Nothing is linked into the programs that only a test or a manual page needs.
func TestLinked(t *testing.T) {
	bin := daemon.Build(t)
	for _, program := range []string{"natless", "natlessd", "natless-cni"} {
		info, err := buildinfo.ReadFile(filepath.Join(bin, program))
		if err != nil {
			t.Fatal(err)
		}
		if len(info.Deps) < 3 {
			t.Errorf("%s is made of %d modules: that proves nothing", program, len(info.Deps))
		}
		for _, m := range info.Deps {
			for _, prefix := range notLinked {
				if strings.HasPrefix(m.Path, prefix) {
					t.Errorf("%s has %s %s", program, m.Path, m.Version)
				}
			}
		}
	}
}
