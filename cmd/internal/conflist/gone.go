package conflist

import (
	"os"
	"strings"
)

// Gone reports whether a directory is mounted here, and has been removed where it lies:
// whoever makes it anew there makes another one, which is not seen here (a hostPath of a
// container). Nothing but a new mount shows that.
func Gone(dir string) bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && goneIn(string(mounts), dir)
}

// goneIn reads mountinfo (proc_pid_mountinfo(5)): the fourth field is the root of the
// mount, the fifth where it is mounted. The last mount of a place is the one that is seen.
func goneIn(mounts, dir string) (gone bool) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`)
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) > 4 && unescape.Replace(f[4]) == dir {
			gone = strings.HasSuffix(f[3], "//deleted")
		}
	}
	return gone
}
