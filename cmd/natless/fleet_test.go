package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestFleet: natless fleet becomes natless-fleet, with the flags as they are given, or says
// where to get it.
func TestFleet(t *testing.T) {
	if os.Getenv("NATLESS_BECOMES_FLEET") != "" {
		root := newRoot(&options{})
		root.SetArgs([]string{"fleet", "whois", "198.51.100.7", "--etcd", "https://x", "--help"})
		t.Error(root.ExecuteContext(t.Context())) // it returns only if it does not become another
		return
	}
	run := func(path string) (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFleet$")
		cmd.Env = append(os.Environ(), "NATLESS_BECOMES_FLEET=1", "PATH="+path)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "natless-fleet"), []byte("#!/bin/sh\necho \"became $*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := run(dir); err != nil || out != "became whois 198.51.100.7 --etcd https://x --help\n" {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run(t.TempDir()); err == nil || !strings.Contains(out, "in the package natless-fleet") {
		t.Errorf("%v: %s", err, out)
	}
}
