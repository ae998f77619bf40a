package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKey(t *testing.T) {
	dir := t.TempDir()
	registry := filepath.Join(dir, "new", "registry.db")
	first, err := Key(registry)
	if err != nil || first == [16]byte{} {
		t.Fatal(first, err)
	}
	if again, err := Key(registry); err != nil || again != first {
		t.Errorf("got %x, %v, want %x again", again, err, first)
	}
	if other, err := Key(filepath.Join(dir, "registry.db")); err != nil || other == first {
		t.Errorf("two keys are the same (%v)", err)
	}
	info, err := os.Stat(filepath.Join(dir, "new", "key"))
	if err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Key(filepath.Join(dir, "registry.db")); err == nil || !strings.Contains(err.Error(), "has 5 bytes instead of 16") {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", ".key-*")); left != nil {
		t.Error(left)
	}
}
