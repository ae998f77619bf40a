//go:build linux

package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// folder holds programs that are built for the tests of a package, or that an
// environment variable says are there already: make test builds them once for
// all packages.
type folder struct {
	variable string
	mu       sync.Mutex
	dir      string
	built    map[string]bool // by what go build was asked
}

var programs = folder{variable: "NATLESS_BIN", built: map[string]bool{}}
var tools = folder{variable: "NATLESS_TOOLS", built: map[string]bool{}}

// Build builds natlessd, natless and natless-cni and returns the folder that
// holds them.
func Build(t testing.TB) string {
	t.Helper()
	return programs.build(t, beside(".."), "-trimpath", "-ldflags", "-s -w", "github.com/natless/natless/cmd/...") // as make build does
}

// Tools builds packages that tests/tools names as tools (the CNI reference
// plugins, cnitool, bpf2go, …) and returns the folder that holds them.
func Tools(t testing.TB, packages ...string) string {
	t.Helper()
	return tools.build(t, beside("tools"), packages...)
}

// beside is a folder beside this one, also for tests of another module.
func beside(name string) string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", name)
}

// Remove removes what Build and Tools built. Call it from TestMain.
func Remove() {
	for _, f := range []*folder{&programs, &tools} {
		if f.dir != "" && f.dir != os.Getenv(f.variable) {
			os.RemoveAll(f.dir)
		}
	}
}

func (f *folder) build(t testing.TB, module string, args ...string) string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dir == "" {
		f.dir = os.Getenv(f.variable)
	}
	if f.dir != "" && f.dir == os.Getenv(f.variable) {
		return f.dir
	}
	if f.dir == "" {
		dir, err := os.MkdirTemp("", "natless-build-")
		if err != nil {
			t.Fatal(err)
		}
		f.dir = dir
	}
	asked := strings.Join(args, " ")
	if f.built[asked] {
		return f.dir
	}
	build := exec.Command("go", append([]string{"build", "-o", f.dir + "/"}, args...)...)
	build.Dir, build.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	f.built[asked] = true
	return f.dir
}
