//go:build linux

package fastpath

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// TestGenerated generates the Go code and the objects again and wants them to be
// those that are checked in. The compiler is of one version, since another one
// makes other code; nothing else of the machine goes into the objects.
func TestGenerated(t *testing.T) {
	netns.Require(t, "go", "clang-14", "llvm-strip-14")
	dir := filepath.Join(t.TempDir(), "another", "place")
	if err := os.CopyFS(filepath.Join(dir, "bpf"), os.DirFS("bpf")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("fastpath.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^//go:generate go tool -modfile=\S+ bpf2go (.*)$`).FindAllSubmatch(text, -1)
	if len(lines) != 2 {
		t.Fatal("fastpath.go does not say how to generate")
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// go tool -n names a file that may not be there yet, among what it says of downloads.
	bpf2go := filepath.Join(daemon.Tools(t, "github.com/cilium/ebpf/cmd/bpf2go"), "bpf2go")
	t.Cleanup(daemon.Remove)
	for _, line := range lines {
		cmd := exec.Command("bash", "-c", `exec "$0" `+string(line[1]), bpf2go)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPACKAGE=fastpath")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("bpf2go: %v\n%s", err, out)
		}
	}
	for _, name := range []string{"program_bpfel.go", "program_bpfel.o", "program_bpfeb.go", "program_bpfeb.o",
		"xdp_bpfel.go", "xdp_bpfel.o", "xdp_bpfeb.go", "xdp_bpfeb.o"} {
		fresh, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(fresh, kept) {
			t.Errorf("%s is not what bpf/ gives: make generate", name)
		}
		if bytes.Contains(kept, []byte(wd)) {
			t.Errorf("%s names the folder it was made in", name)
		}
	}
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
