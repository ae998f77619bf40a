package pages

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	dual       = "GPL-2.0-only OR BSD-2-Clause"
	identifier = "SPDX-License-Identifier: "
)

// TestFastPathLicence: the kernel reads the licence in the object, people read
// that of the source, and both are one.
func TestFastPathLicence(t *testing.T) {
	t.Parallel()
	const fastpath = "../../netstack/fastpath/"
	sources, err := filepath.Glob("../../netstack/*/bpf/*.[ch]")
	if err != nil || len(sources) == 0 {
		t.Fatalf("%v, %v", sources, err)
	}
	for _, name := range sources {
		first, _, _ := strings.Cut(text(t, name), "\n")
		if first != "// "+identifier+"("+dual+")" {
			t.Errorf("%s begins with %q", name, first)
		}
	}
	for _, licence := range strings.Split(dual, " OR ") {
		if _, err := os.Stat(fastpath + "bpf/LICENSE." + licence); err != nil {
			t.Error(err)
		}
	}
	objects, err := filepath.Glob("../../netstack/*/*.o")
	if err != nil || len(objects) == 0 {
		t.Fatalf("%v, %v", objects, err)
	}
	for _, name := range objects {
		if !strings.Contains(text(t, name+".license"), identifier+dual+"\n") {
			t.Errorf("%s.license does not name %s", name, dual)
		}
		object, err := elf.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer object.Close()
		section := object.Section("license")
		if section == nil {
			t.Errorf("%s names no licence to the kernel", name)
			continue
		}
		if data, err := section.Data(); err != nil || string(bytes.TrimRight(data, "\x00")) != "Dual BSD/GPL" {
			t.Errorf("%s names the licence %q to the kernel: %v", name, data, err)
		}
	}
}

// known are the licences that a linked library may have, each with words of its
// text, in lower case, that no other has. The first that matches is
// meant; those without a name are refused.
var known = []struct{ licence, words string }{
	{"Apache-2.0", "apache license version 2.0, january 2004"},
	{"BSD-3-Clause OR GPL-2.0-only", "spdx-license-identifier: bsd-3-clause or gpl-2.0-only"}, // libcap
	{"", "mozilla public license"},
	{"", "gnu lesser general public license"},
	{"", "gnu affero general public license"},
	{"BSD-3-Clause", "may be used to endorse or promote products derived"},
	{"BSD-2-Clause", "redistribution and use in source and binary forms"},
	{"MIT", "permission is hereby granted, free of charge"},
}

var space = regexp.MustCompile(`\s+`)

// licence is what a text is, or nothing.
func licence(text string) string {
	text = strings.ToLower(space.ReplaceAllString(text, " "))
	for _, k := range known {
		if strings.Contains(text, k.words) {
			return k.licence
		}
	}
	return ""
}

// TestLibraries wants every library that is linked into a program to be under a
// licence that LICENSING.md names.
func TestLibraries(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Dir}}{{end}}", "./cmd/...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	modules := strings.Fields(string(out))
	var done []string
	for i := 0; i+1 < len(modules); i += 2 {
		module, dir := modules[i], modules[i+1]
		if strings.HasPrefix(module, "github.com/natless/") || slices.Contains(done, module) {
			continue
		}
		done = append(done, module)
		found := licence(ofModule(t, dir))
		if found == "" {
			t.Errorf("%s is under a licence that LICENSING.md does not name: see %s", module, dir)
		}
		t.Logf("%-60s %s", module, found)
	}
	if len(done) < 10 {
		t.Errorf("only %d libraries were found", len(done))
	}
}

// TestLicence: texts that must not pass do not.
func TestLicence(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"Mozilla Public License Version 2.0":                                         "",
		"GNU LESSER GENERAL PUBLIC LICENSE":                                          "",
		"GNU GENERAL PUBLIC LICENSE Version 3":                                       "",
		"All rights reserved.":                                                       "",
		"Apache License\n  Version 2.0, January 2004":                                "Apache-2.0",
		"Redistribution and use in source and\nbinary forms":                         "BSD-2-Clause",
		"Redistribution and use; may be used to endorse or promote products derived": "BSD-3-Clause",
	} {
		if got := licence(words); got != want {
			t.Errorf("%q is taken for %q, want %q", words, got, want)
		}
	}
}

// ofModule is the licence's text in a module's directory.
func ofModule(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if !e.IsDir() && (strings.HasPrefix(name, "LICENSE") || strings.HasPrefix(name, "LICENCE") || strings.HasPrefix(name, "COPYING")) {
			return text(t, filepath.Join(dir, e.Name()))
		}
	}
	return ""
}

func text(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
