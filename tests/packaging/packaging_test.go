//go:build linux

// Package packaging holds the Debian package against Debian's own programs:
// dpkg, lintian, man and systemd-analyze. How the programs in it behave may not
// enter here.
package packaging

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	for _, path := range built {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// built are the packages that build made.
var built = map[[2]string]string{}

// shipped is the package as make deb makes it. Most of what that takes is compressing.
func shipped(t *testing.T) string { t.Helper(); return build(t, "0.0.1", "gzip") }

// build makes the package of a version, once, and gives its path.
func build(t *testing.T, version, compression string) string {
	t.Helper()
	is := [2]string{version, compression}
	if built[is] == "" {
		dist, err := os.MkdirTemp("", "natless-dist-")
		if err != nil {
			t.Fatal(err)
		}
		built[is] = buildIn(t, dist, version, compression)
	}
	return built[is]
}

func buildIn(t *testing.T, dist, version, compression string) string {
	t.Helper()
	cmd := exec.Command("config/deploy/packages/build", daemon.Build(t), dist, version, runtime.GOARCH, "deb")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "COMPRESSION="+compression)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	return strings.TrimSpace(string(out))
}

// root is this machine's system with a layer over it that takes all changes.
type root struct {
	t           *testing.T
	dir, writes string
}

func newRoot(t *testing.T) *root {
	t.Helper()
	base := t.TempDir()
	mount(t, "tmpfs", base, "tmpfs", "")
	r := &root{t: t, dir: filepath.Join(base, "root"), writes: filepath.Join(base, "writes")}
	work := filepath.Join(base, "work")
	for _, d := range []string{r.dir, r.writes, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, "overlay", r.dir, "overlay", "lowerdir=/,upperdir="+r.writes+",workdir="+work)
	mount(t, "proc", filepath.Join(r.dir, "proc"), "proc", "")
	mount(t, "tmpfs", filepath.Join(r.dir, "run"), "tmpfs", "") // no service manager is there
	mount(t, "tmpfs", filepath.Join(r.dir, "tmp"), "tmpfs", "")
	mount(t, "/dev", filepath.Join(r.dir, "dev"), "", "bind")
	// man-db would read every page of the machine again after each step.
	os.Remove(filepath.Join(r.dir, "var/lib/man-db/auto-update"))
	return r
}

func mount(t *testing.T, source, target, kind, options string) {
	t.Helper()
	flags := uintptr(0)
	if options == "bind" {
		flags, options = syscall.MS_BIND, ""
	}
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		t.Fatalf("mount %s on %s: %v", source, target, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	})
}

// run runs a program in the root, which must succeed.
func (r *root) run(name string, args ...string) string {
	r.t.Helper()
	out, err := exec.Command("chroot", append([]string{r.dir, name}, args...)...).CombinedOutput()
	if err != nil {
		r.t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// put copies a file into the root and gives its path there.
func (r *root) put(path string) string {
	r.t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, "tmp", filepath.Base(path)), data, 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return "/tmp/" + filepath.Base(path)
}

// own is what dpkg and its triggers keep for themselves.
var own = []string{"/var/lib/dpkg", "/var/lib/man-db", "/var/log", "/var/cache", "/var/lib/systemd/deb-systemd-helper-masked",
	"/etc/group-", "/etc/gshadow-", "/etc/.pwd.lock", "/dev", "/tmp", "/run", "/proc"}

// changed is what is there and was not, was there and is not, or is another.
func (r *root) changed() (paths []string) {
	r.t.Helper()
	err := filepath.WalkDir(r.writes, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, r.writes)
		if slices.ContainsFunc(own, func(o string) bool { return name == o || strings.HasPrefix(name, o+"/") }) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		before, err := os.Lstat("/" + name)
		switch {
		case err != nil && d.Type()&fs.ModeCharDevice == 0: // a whiteout of what was never below is none
			paths = append(paths, "+ "+name)
		case err == nil && before.Mode().Type() != d.Type():
			paths = append(paths, "- "+name)
		case err == nil && d.Type().IsRegular():
			was, _ := os.ReadFile("/" + name)
			if is, _ := os.ReadFile(path); string(is) != string(was) {
				paths = append(paths, "≠ "+name)
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return paths
}

// The package is installed, upgraded, removed and purged by dpkg, with all of
// its scripts, and nothing of it is left.
func TestInstallAndPurge(t *testing.T) {
	netns.Require(t, netns.Root, "dpkg", "chroot", "systemd-analyze", "man")
	if _, err := os.Stat("/etc/natless"); err == nil {
		t.Skip("natless is installed on this machine: purge it to run this test")
	}
	r := newRoot(t)
	old, next := shipped(t), build(t, "0.0.2-alpha.3+gabcdef0", "none")
	r.run("dpkg", "-i", r.put(old))
	for _, program := range []string{"natless", "natlessd"} {
		if out := r.run(program, "--version"); !strings.Contains(out, program) {
			t.Errorf("%s --version: %s", program, out)
		}
	}
	if !slices.Contains(r.changed(), "+ /etc/systemd/system/multi-user.target.wants/natlessd.service") {
		t.Error("the unit is not enabled")
	}
	// What a daemon would write.
	for _, path := range []string{"/etc/natless/natless.yaml", "/var/lib/natless/registry.db", "/run/natless/natless0.sysctls.json"} {
		path = filepath.Join(r.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.run("dpkg", "-i", r.put(next))
	if out := r.run("dpkg-query", "-W", "natless"); out != "natless\t0.0.2~alpha.3+gabcdef0\n" {
		t.Errorf("upgraded to %q", out)
	}
	r.units(t)
	r.manual(t)

	r.run("dpkg", "-r", "natless")
	kept := r.changed()
	for _, path := range []string{"/etc/natless/natless.yaml", "/var/lib/natless/registry.db"} {
		if _, err := os.Stat(filepath.Join(r.dir, path)); err != nil {
			t.Errorf("removed with the programs: %s", path)
		}
	}
	if slices.ContainsFunc(kept, func(p string) bool { return strings.HasPrefix(p, "+ /usr/") }) {
		t.Errorf("left by remove: %s", kept)
	}
	r.run("dpkg", "-P", "natless")
	left := slices.DeleteFunc(r.changed(), func(p string) bool { return p == "- /var/lib/natless" }) // of a daemon on this machine
	if len(left) > 0 {
		t.Errorf("left by purge:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Stat(filepath.Join(r.dir, "run/natless")); err == nil {
		t.Error("left by purge: /run/natless")
	}
}

// units has systemd judge the unit files where they were installed.
func (r *root) units(t *testing.T) {
	t.Helper()
	if out := r.run("systemd-analyze", "verify", "natlessd.service", "natlessd-cleanup.service"); strings.Contains(out, "natless") {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	// Tenths of what systemd calls exposure; a unit without any confinement has
	// 96. What is left to the daemon stands in its unit file, with the reason.
	for unit, most := range map[string]string{"natlessd.service": "34", "natlessd-cleanup.service": "23"} {
		out := r.run("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold="+most, unit)
		if i := strings.Index(out, "→"); i >= 0 {
			t.Log(strings.TrimSpace(out[i:]))
		}
	}
}

// manual has man format each page that was installed.
func (r *root) manual(t *testing.T) {
	t.Helper()
	pages := 0
	for path := range strings.Lines(r.run("dpkg", "-L", "natless")) {
		path = strings.TrimSpace(path)
		if !strings.HasPrefix(path, "/usr/share/man/") || !strings.HasSuffix(path, ".gz") {
			continue
		}
		pages++
		cmd := exec.Command("chroot", r.dir, "man", "--warnings", "-E", "UTF-8", "-l", path)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80")
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil || errs.Len() > 0 || !strings.Contains(out.String(), "NAME\n") {
			t.Errorf("man %s: %v\n%s%s", path, err, errs.String(), out.String())
		}
	}
	if pages < 10 {
		t.Errorf("%d manual pages", pages)
	}
}

// Debian's own critic finds nothing, and the same commit gives the same package.
func TestPackage(t *testing.T) {
	netns.Require(t, "dpkg", "lintian")
	one := build(t, "0.0.1", "none")
	two := buildIn(t, t.TempDir(), "0.0.1", "none")
	a, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(two); err != nil || string(a) != string(b) {
		t.Errorf("the same commit built twice gives two packages (%v)", err)
	}
	if testing.Short() {
		return
	}
	// The test's programs are built for speed; those of make deb are static and stripped.
	const built = "unstripped-binary-or-object,missing-dependency-on-libc,hardening-no-pie,hardening-no-relro,hardening-no-bindnow"
	cmd := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags", built, shipped(t))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// A later version is greater by dpkg's rules, too. Those of rpm and apk are asked by
// make test-release.
func TestVersions(t *testing.T) {
	netns.Require(t, "dpkg")
	last := "0~"
	for _, semantic := range []string{"0.9.0-alpha.9+gfedcba9", "0.9.0-alpha.581+gabcdef0", "0.9.0-beta.1", "v0.9.0-rc.1", "0.9.0-rc.2", "0.9.0", "0.9.1-alpha.582", "0.10.0"} {
		cmd := exec.Command("config/deploy/release/version", "deb", semantic)
		cmd.Dir = "../.."
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		version := strings.TrimSpace(string(out))
		if err := exec.Command("dpkg", "--compare-versions", last, "lt", version).Run(); err != nil {
			t.Errorf("%s gives %s, which is not after %s", semantic, version, last)
		}
		last = version
	}
}
