//go:build linux

package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The child gives all up but one directory, and says what it still can.
func TestMain(m *testing.M) {
	dir := os.Getenv("CONFINE_TEST")
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := Confine(Needs{Write: []string{filepath.Join(dir, "own"), "/nowhere"}, Set: []string{filepath.Join(dir, "set")}}); err != nil {
		fmt.Println("confine:", err)
		os.Exit(1)
	}
	say := func(what string, err error) { fmt.Println(what, errors.Is(err, fs.ErrPermission)) }
	done := make(chan bool)
	go func() { // on some other thread
		defer close(done)
		say("own", os.WriteFile(filepath.Join(dir, "own", "new"), nil, 0o600))
		say("rename", os.Rename(filepath.Join(dir, "own", "new"), filepath.Join(dir, "own", "newer")))
		say("set", os.WriteFile(filepath.Join(dir, "set", "old"), []byte("x"), 0o600))
		say("set-new", os.WriteFile(filepath.Join(dir, "set", "new"), nil, 0o600))
		say("other", os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))
		_, err := os.ReadFile("/etc/passwd")
		say("read", err)
		say("execute", exec.Command("/bin/true").Run())
	}()
	<-done
	os.Exit(0)
}

func TestConfine(t *testing.T) {
	// landlock_create_ruleset with LANDLOCK_CREATE_RULESET_VERSION gives the version.
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1); errno != 0 {
		t.Skipf("this kernel has no Landlock (%v): boot one with lsm=landlock", errno)
	}
	dir := t.TempDir()
	for _, d := range []string{"own", "set"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "set", "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "CONFINE_TEST="+dir)
	out, err := child.CombinedOutput()
	const want = "own false\nrename false\nset false\nset-new true\nother true\nread false\nexecute true\n"
	if err != nil || strings.TrimSpace(string(out)) != strings.TrimSpace(want) {
		t.Errorf("%v\n%s\nwant (what, refused)\n%s", err, out, want)
	}
}
