package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestScripts: a shell reads them, without a cluster; and they are programs, but for what
// the others read.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("lab/*")
	if err != nil || len(scripts) < 8 {
		t.Fatalf("%v %v", scripts, err)
	}
	for _, path := range scripts {
		if out, err := exec.Command("bash", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if program := info.Mode()&0o111 != 0; program == (filepath.Ext(path) == ".sh") {
			t.Errorf("%s: %v", path, info.Mode())
		}
	}
}
