package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// What editors make of a file, of the reference and of one with mappings: a byte
// order mark and other ends of lines mean nothing, and another encoding is named.
func TestEncodings(t *testing.T) {
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	yaml := read("reference.yaml")
	mappings := read("mappings.txt")
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "policies.yaml"), read("policies.yaml"), 0o600)
	load := func(yaml, mappings []byte) (*Config, error) {
		os.WriteFile(filepath.Join(dir, "mappings.txt"), mappings, 0o600)
		os.WriteFile(filepath.Join(dir, "natless.yaml"), yaml, 0o600)
		return Load(filepath.Join(dir, "natless.yaml"))
	}
	want, err := load(yaml, mappings)
	if err != nil {
		t.Fatal(err)
	}
	mark := func(b []byte) []byte { return slices.Concat([]byte("\xef\xbb\xbf"), b) }
	crlf := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }
	for name, edit := range map[string]func([]byte) []byte{
		"mark": mark, "CRLF": crlf, "both": func(b []byte) []byte { return mark(crlf(b)) },
	} {
		for what, files := range map[string][2][]byte{"configuration": {edit(yaml), mappings}, "mappings": {yaml, edit(mappings)}} {
			got, err := load(files[0], files[1])
			if err != nil {
				t.Errorf("%s in the %s: %v", name, what, err)
				continue
			}
			for i := range reflect.TypeFor[Config]().NumField() {
				f := reflect.TypeFor[Config]().Field(i)
				if f.IsExported() && !reflect.DeepEqual(reflect.ValueOf(*got).Field(i).Interface(), reflect.ValueOf(*want).Field(i).Interface()) {
					t.Errorf("%s in the %s: another %s", name, what, f.Name)
				}
			}
			a, errA := got.Table()
			b, errB := want.Table()
			if errA != nil || errB != nil || a.Len() != b.Len() || a.Len() < 3 {
				t.Errorf("%s in the %s: another table: %v, %v", name, what, errA, errB)
			}
		}
	}
	wide := func(b []byte) (out []byte) {
		for _, u := range utf16.Encode([]rune("\ufeff" + string(b))) {
			out = append(out, byte(u), byte(u>>8))
		}
		return out
	}
	for what, files := range map[string][2][]byte{"natless.yaml:1: ": {wide(yaml), mappings}, "mappings.txt:1: ": {yaml, wide(mappings)}} {
		if _, err := load(files[0], files[1]); err == nil || !strings.Contains(err.Error(), what+"is UTF-16: save it as UTF-8") {
			t.Errorf("%s: %.300v", what, err)
		}
	}
	for _, what := range []string{"mark", "empty"} {
		if _, err := Parse([]byte(map[string]string{"mark": "\xef\xbb\xbf"}[what])); err == nil || strings.Contains(err.Error(), "unknown key") {
			t.Errorf("nothing but a %s: %v", what, err)
		}
	}
}
