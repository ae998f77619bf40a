//go:build linux

// Package regenerate compiles BPF programs again and compares them with those that are
// checked in.
package regenerate

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// Compare generates what a Go file in the working directory, a folder of netstack, tells
// bpf2go to, in another place, and wants it to be what is checked in. The compiler is of
// one version, since another one makes other code; nothing else of the machine goes into
// the objects.
func Compare(t *testing.T, file string) {
	t.Helper()
	netns.Require(t, "go", "clang-14", "llvm-strip-14")
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root := copySources(t, filepath.Dir(wd))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^//go:generate go tool -modfile=\S+ bpf2go (.*)$`).FindAllSubmatch(text, -1)
	if lines == nil {
		t.Fatalf("%s does not say how to generate", file)
	}
	// go tool -n names a file that may not be there yet, among what it says of downloads.
	bpf2go := filepath.Join(daemon.Tools(t, "github.com/cilium/ebpf/cmd/bpf2go"), "bpf2go")
	dir := filepath.Join(root, filepath.Base(wd))
	for _, line := range lines {
		cmd := exec.Command("bash", "-c", `exec "$0" `+string(line[1]), bpf2go)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPACKAGE="+filepath.Base(wd))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("bpf2go: %v\n%s", err, out)
		}
		words := strings.Fields(string(line[1])) // name and source are the last ones
		for _, kind := range []string{"el.go", "el.o", "eb.go", "eb.o"} {
			same(t, dir, words[len(words)-2]+"_bpf"+kind, wd)
		}
	}
}

// copySources copies the C sources of all packages, which include each other's, to
// another place.
func copySources(t *testing.T, netstack string) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "another", "place")
	sources, err := filepath.Glob(netstack + "/*/bpf")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if err := os.CopyFS(filepath.Join(root, filepath.Base(filepath.Dir(source)), "bpf"), os.DirFS(source)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func same(t *testing.T, dir, name, wd string) {
	t.Helper()
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
