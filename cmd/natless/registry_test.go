package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/natless/natless/config/registry"
)

// TestRegistry: a backup of a running daemon, checked, restored in the place of
// a damaged registry, in words and in JSON; what fails has the exit status 1,
// which every error has.
func TestRegistry(t *testing.T) {
	socket := daemon(t)
	dir := t.TempDir()
	backup, file, conf := filepath.Join(dir, "b.db"), filepath.Join(dir, "r.db"), filepath.Join(dir, "natless.yaml")
	live := filepath.Join(filepath.Dir(socket), "r.db")
	plain := func(words string) string {
		t.Helper()
		words = strings.NewReplacer("BACKUP", backup, "FILE", file, "LIVE", live, "CONF", conf).Replace(words)
		got := strings.NewReplacer(backup, "BACKUP", file, "FILE", live, "LIVE").Replace(run(t, socket, strings.Fields("registry "+words)...))
		got = regexp.MustCompile(`\d+ bytes`).ReplaceAllString(got, "N bytes")
		got = regexp.MustCompile(`process \d+`).ReplaceAllString(got, "process N")
		return regexp.MustCompile(`FILE\.\d{8}T\d{6}Z(-\d+)?`).ReplaceAllString(got, "FILE.TIME")
	}
	held := "process N (natless.test) has it open: "
	os.WriteFile(conf, []byte("prefix: 64:ff9b::/96\naddresses: {ipv4: 192.0.0.8, ipv6: \"2001:db8::1\"}\nregistry: {path: "+file+"}\n"), 0o600)
	for _, c := range []struct{ words, want string }{
		{"backup BACKUP", "backed up BACKUP: 3 assignments, 0 port sets in cooldown, 0 past assignments, N bytes, layout 3\n"},
		{"check BACKUP", "nothing is wrong with BACKUP: 3 assignments, 0 port sets in cooldown, 0 past assignments, N bytes, layout 3\n"},
		{"check LIVE", "!registry LIVE: " + held + `make a backup with "natless registry backup", and check that`},
		{"restore BACKUP LIVE", "!registry LIVE: " + held + "stop natlessd first"},
		{"new LIVE", "!registry LIVE: " + held + "stop natlessd first"},
		{"salvage LIVE", "!registry LIVE: " + held + "stop natlessd first"},
		{"restore BACKUP FILE", "restored FILE: 3 assignments, 0 port sets in cooldown, 0 past assignments, N bytes, layout 3\n"},
		{"restore BACKUP --config CONF", "restored FILE: 3 assignments, 0 port sets in cooldown, 0 past assignments, N bytes, layout 3\nthe old registry is kept as FILE.TIME\n"},
		{"new FILE", "began with an empty registry FILE: 0 assignments, 0 port sets in cooldown, 0 past assignments, N bytes, layout 3\nthe old registry is kept as FILE.TIME\n"},
		{"restore FILE.none FILE", "!registry: stat FILE.none: no such file or directory"},
	} {
		if got := plain(c.words); got != c.want {
			t.Errorf("natless registry %s:\n%s\nwant\n%s", c.words, got, c.want)
		}
	}
	if got := plain("backup -"); len(got) < 4096 {
		t.Errorf("to standard output: %d bytes", len(got))
	} else if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := registry.Check(file); err != nil || r.Assignments != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	b, _ := os.ReadFile(file)
	clear(b[:os.Getpagesize()])
	os.WriteFile(file, b, 0o600)
	damaged := plain("check FILE")
	for _, want := range []string{"!registry FILE: page 0: is no beginning of a registry", `"natless registry restore BACKUP FILE"`, `"natless registry salvage FILE"`, `"natless registry new FILE"`} {
		if !strings.Contains(damaged, want) {
			t.Errorf("%q is not in %s", want, damaged)
		}
	}
	var salvaged struct {
		Faults      []string
		Assignments int
		Aside, Path string
	}
	if err := json.Unmarshal([]byte(plain("salvage FILE -o json")), &salvaged); err != nil || len(salvaged.Faults) != 1 || salvaged.Aside != "FILE.TIME" || salvaged.Path != "FILE" {
		t.Errorf("%+v, %v", salvaged, err)
	}
	for _, words := range []string{"check BACKUP", "backup BACKUP", "restore BACKUP FILE", "new FILE"} {
		var r registry.Report
		if got := plain(words + " -o json"); json.Unmarshal([]byte(got), &r) != nil || r.Layout != "3" {
			t.Errorf("%s: %s", words, got)
		}
	}
}
