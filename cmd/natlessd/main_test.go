//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/cmd/internal/version"
)

func TestCommandLine(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.yaml")
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	write(t, good, "prefix: 2001:db8:64::/96\naddresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\n")
	write(t, bad, "prefix: 2001:db8:64::/95\naddresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nmtu: {ipv4: 1, ipv6: 1500}\n")
	for _, test := range []struct {
		args           string
		status         int
		stdout, stderr string // how they begin
	}{
		{"--help", 0, "", "natlessd translates"},
		{"--version", 0, "natlessd " + version.String() + "\n", ""},
		{"--config " + good + " --check", 0, good + ": nothing wrong\n", ""},
		{"--config " + bad + " --check", misconfigured, "", bad + ":1: prefix: "},
		{"--config " + bad, misconfigured, "", bad + ":1: prefix: "},
		{"--config /none", misconfigured, "", "configuration: open /none"},
		{"--unknown", 2, "", "flag provided but not defined"},
		{"reload", 2, "", `natlessd: "reload": there are flags only`},
	} {
		var stdout, stderr strings.Builder
		status := run(strings.Fields(test.args), &stdout, &stderr)
		if status != test.status || !strings.HasPrefix(stdout.String(), test.stdout) || !strings.HasPrefix(stderr.String(), test.stderr) {
			t.Errorf("natlessd %s: status %d\n%s%s", test.args, status, &stdout, &stderr)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCheckMappingsFile checks that --check reads the files of mappings, too.
func TestCheckMappingsFile(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "natless.yaml"), filepath.Join(dir, "m")
	write(t, path, "addresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nmappings_file: m\n")
	for text, want := range map[string]string{
		"2001:db8:6::1 198.51.100.1\n": path + ": nothing wrong\n",
		"2001:db8:6::1 198.51.100\n":   file + ":1: \"198.51.100\" is not an IP address\n",
	} {
		write(t, file, text)
		var out strings.Builder
		run([]string{"--config", path, "--check"}, &out, &out)
		if out.String() != want {
			t.Errorf("got %s, want %s", &out, want)
		}
	}
}
