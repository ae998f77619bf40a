//go:build linux

// Package release holds what make release has made against those who use it: Helm,
// Kubernetes' types, package managers, another processor, and the version before. It is
// a module of its own, whose libraries make test does not compile: make test-release
// runs it. What is in the programs may not enter.
package release

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

const root = "../.."

// dist is the folder of the release.
func dist(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("NATLESS_DIST")
	if dir == "" {
		t.Skip("NATLESS_DIST names no release: make test-release makes one")
	}
	return dir
}

// file is the one file of the release that a pattern fits.
func file(t testing.TB, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dist(t), pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

// version is the release's.
func version(t testing.TB) string {
	t.Helper()
	name := filepath.Base(file(t, "natless-*-image.tar"))
	return strings.TrimSuffix(strings.TrimPrefix(name, "natless-"), "-image.tar")
}

// unpack unpacks an archive into a folder of its own.
func unpack(t testing.TB, archive string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", archive, err, out)
	}
	return dir
}

func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		sum, name, _ := strings.Cut(lines.Text(), "  ")
		all[name] = sum
	}
	return all
}

// TestChecksums: each file is listed, and is what the list says.
func TestChecksums(t *testing.T) {
	want := sums(t, dist(t))
	list, err := os.ReadDir(dist(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() == "SHA256SUMS" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dist(t), e.Name()))
		if err != nil {
			t.Error(err)
			continue
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want[e.Name()] {
			t.Errorf("%s has another checksum than SHA256SUMS says", e.Name())
		}
		delete(want, e.Name())
	}
	if len(want) > 0 || len(list) < 15 {
		t.Errorf("%d files; listed and not there: %v", len(list), want)
	}
}

// nobody is another user than the one who made the release.
const nobody = 65534

// TestReproducible: the same commit, cloned to another place and built there by somebody
// else, who has nothing compiled yet and another umask, locale and time zone, gives the
// same bytes.
func TestReproducible(t *testing.T) {
	netns.Require(t, netns.Root)
	if out, err := exec.Command("git", "-C", root, "status", "--porcelain").Output(); err != nil || len(out) > 0 {
		t.Skipf("the checkout has changes, which a clone has not (%v):\n%s", err, out)
	}
	base := t.TempDir()
	mount(t, "tmpfs", base, "tmpfs", "mode=755")
	if err := os.Chmod(filepath.Dir(base), 0o711); err != nil { // it is the test's user's alone
		t.Fatal(err)
	}
	modules, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := base + "/modules" // where nobody may look
	script := `set -e
git clone -q "$1" "$0/elsewhere"
mkdir "$0/modules" "$0/again" "$0/home"
chown -R "$3:$3" "$0/elsewhere" "$0/again" "$0/home"
mount --bind "$2" "$0/modules"`
	if out, err := exec.Command("bash", "-c", script, base, root, strings.TrimSpace(string(modules)), fmt.Sprint(nobody)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { syscall.Unmount(seen, syscall.MNT_DETACH) })
	cmd := exec.Command("bash", "-c", `umask 077; exec make release DIST="$0" VERSION="$1"`, base+"/again", version(t))
	cmd.Dir, cmd.SysProcAttr = base+"/elsewhere", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.Env = append(os.Environ(), "HOME="+base+"/home", "GOCACHE="+base+"/home/cache", "GOMODCACHE="+seen, "GOTMPDIR="+base+"/home", "TMPDIR="+base+"/home",
		"USER=nobody", "TZ=Asia/Kathmandu", "LC_ALL=C", "GOFLAGS=", "GOAMD64=v1", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	one, two := sums(t, dist(t)), sums(t, base+"/again")
	if len(one) != len(two) {
		t.Errorf("%d files, and %d", len(one), len(two))
	}
	for name, sum := range one {
		if two[name] != sum {
			t.Errorf("%s: other bytes", name)
		}
	}
}

// TestPrograms are static, stripped, for their processor, and say the version.
func TestPrograms(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		dir := filepath.Join(unpack(t, file(t, "natless-*-linux-"+arch+".tar.gz")), "natless-"+version(t)+"-linux-"+arch)
		for _, program := range []string{"natless", "natlessd", "natless-cni", "natless-fleet"} {
			f, err := elf.Open(filepath.Join(dir, program))
			if err != nil {
				t.Error(err)
				continue
			}
			libraries, _ := f.ImportedLibraries()
			if f.Machine != machine || len(libraries) > 0 || f.Section(".interp") != nil || f.Section(".debug_info") != nil || f.Section(".symtab") != nil {
				t.Errorf("%s for %s: %s, needs %v, or is not stripped", program, arch, f.Machine, libraries)
			}
			f.Close()
			if arch != "amd64" {
				continue
			}
			if out, err := exec.Command(filepath.Join(dir, program), "--version").CombinedOutput(); err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), " "+version(t)) {
				t.Errorf("%s --version: %v, %s, want %s", program, err, out, version(t))
			}
		}
	}
}

// TestSBOM: each program's has what the linker linked, with versions and checksums.
func TestSBOM(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		for _, program := range []string{"natless", "natlessd", "natless-cni", "natless-fleet"} {
			data, err := os.ReadFile(file(t, program+"-[0-9]*-linux-"+arch+".cdx.json"))
			if err != nil {
				t.Fatal(err)
			}
			var bom struct {
				Format   string `json:"bomFormat"`
				Metadata struct {
					Component struct{ Name, Version string }
				}
				Components []struct{ Name, Version, PURL string }
			}
			if err := json.Unmarshal(data, &bom); err != nil {
				t.Fatal(err)
			}
			if m := bom.Metadata.Component; bom.Format != "CycloneDX" || !strings.HasPrefix(m.Name, "github.com/natless/natless") || m.Version != version(t) {
				t.Errorf("%s: %s of %+v", program, bom.Format, m)
			}
			std := false
			for _, c := range bom.Components {
				std = std || c.Name == "std"
				if c.Version == "" || !strings.HasPrefix(c.PURL, "pkg:golang/") {
					t.Errorf("%s: %+v", program, c)
				}
			}
			if !std || len(bom.Components) < 4 {
				t.Errorf("%s: %d components, Go's own among them: %v", program, len(bom.Components), std)
			}
		}
	}
}

// TestArchives: nothing in an archive tells who made it, or when.
func TestArchives(t *testing.T) {
	for _, pattern := range []string{"natless-*.tar.gz", "natless-*-chart.tgz", "natless-*-image.tar"} {
		found, _ := filepath.Glob(filepath.Join(dist(t), pattern))
		if len(found) == 0 {
			t.Errorf("no %s", pattern)
		}
		times := map[int64]bool{}
		for _, path := range found {
			for _, h := range headers(t, path) {
				times[h.ModTime.Unix()] = true
				if h.Uid != 0 || h.Gid != 0 || h.Uname != "" && h.Uname != "root" || h.Mode&0o022 != 0 {
					t.Errorf("%s: %s belongs to %d:%d %s, mode %o", path, h.Name, h.Uid, h.Gid, h.Uname, h.Mode)
				}
			}
		}
		if len(times) > 1 {
			t.Errorf("%s: %d times", pattern, len(times))
		}
	}
}

func headers(t *testing.T, path string) (all []*tar.Header) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var in io.Reader = f
	if !strings.HasSuffix(path, ".tar") {
		if in, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}
