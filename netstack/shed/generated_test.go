//go:build linux

package shed

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// TestGenerated generates the Go code and the objects again, and wants them to be those
// that are checked in.
func TestGenerated(t *testing.T) {
	netns.Require(t, "go", "clang-14", "llvm-strip-14")
	root := filepath.Join(t.TempDir(), "another")
	dir := filepath.Join(root, "shed")
	for _, from := range []string{"shed", "fastpath"} {
		if err := os.CopyFS(filepath.Join(root, from, "bpf"), os.DirFS("../"+from+"/bpf")); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("filter_linux.go")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^//go:generate go tool -modfile=\S+ bpf2go (.*)$`).FindSubmatch(text)
	if line == nil {
		t.Fatal("filter_linux.go does not say how to generate")
	}
	bpf2go := filepath.Join(daemon.Tools(t, "github.com/cilium/ebpf/cmd/bpf2go"), "bpf2go")
	cmd := exec.Command("bash", "-c", `exec "$0" `+string(line[1]), bpf2go)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPACKAGE=shed")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bpf2go: %v\n%s", err, out)
	}
	for _, name := range []string{"filter_bpfel.go", "filter_bpfel.o", "filter_bpfeb.go", "filter_bpfeb.o"} {
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
	}
}
