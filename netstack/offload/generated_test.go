//go:build linux

package offload

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

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
	text, err := os.ReadFile("offload.go")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^//go:generate go tool -modfile=(\S+) (bpf2go .*)$`).FindSubmatch(text)
	if line == nil {
		t.Fatal("offload.go does not say how to generate")
	}
	tools, err := filepath.Abs(string(line[1]))
	if err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tool, err := exec.Command("go", "tool", "-n", "-modfile="+tools, "bpf2go").CombinedOutput()
	if err != nil {
		t.Fatalf("bpf2go: %v\n%s", err, tool)
	}
	cmd := exec.Command("bash", "-c", `exec "$0" `+string(line[2][len("bpf2go "):]), string(bytes.TrimSpace(tool)))
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPACKAGE=offload")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bpf2go: %v\n%s", err, out)
	}
	for _, name := range []string{"program_bpfel.go", "program_bpfel.o", "program_bpfeb.go", "program_bpfeb.o"} {
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
		"LAYOUT": Layout, "MAX_LENGTHS": maxLengths, "NEAR_WORDS": nearWords, "PORT_SIZES": portSizes,
		"ENABLED": flagEnabled, "GLOBAL_ONLY": flagGlobalOnly, "ZERO_CLASS": flagZeroClass,
		"MAPPED_IN_PREFIX": flagMappedInPrefix, "COUNT_SHARED": flagCountShared, "SHARED": flagShared, "HOLES": flagHoles,
	} {
		found := regexp.MustCompile(`(?m)^\t` + name + ` = (\d+),`).FindSubmatch(text)
		if found == nil || string(found[1]) != strconv.Itoa(value) {
			t.Errorf("%s is %d here, and %q in C", name, value, found)
		}
	}
	for r := range NumReasons {
		if reasonNames[r] == "" {
			t.Errorf("reason %d has no name", r)
		}
	}
}
