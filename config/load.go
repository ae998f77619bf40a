package config

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Error is one thing wrong with a configuration.
type Error struct {
	File string
	Line int    // 0: none in particular
	Key  string // as in mappings[3].ipv6; "" is the whole file
	Err  error
}

func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap is what is wrong, without the place.
func (e Error) Unwrap() error { return e.Err }

// Errors is everything that was found wrong, in the order of the file.
type Errors []Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single errors.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i := range e {
		all[i] = e[i]
	}
	return all
}

// Load reads and validates a file, and the files that it names. An error that is about its content is of
// type Errors.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return parse(path, data)
}

// Parse validates the content of a file. The error is of type Errors.
func Parse(data []byte) (*Config, error) { return parse("config", data) }

func parse(file string, data []byte) (*Config, error) {
	c, d := Default(), decoder{file: file}
	root := d.parse(data)
	if root != nil {
		d.value(root, "", reflect.ValueOf(&c).Elem())
	}
	for _, paths := range []Paths{c.MappingsFile, c.PoliciesFile} {
		for i, p := range paths {
			if !filepath.IsAbs(p) {
				paths[i] = filepath.Join(filepath.Dir(file), p)
			}
		}
	}
	if d.errs == nil { // half a configuration would only give errors about what is missing
		validate(&c, func(e Error) {
			if e.File == "" {
				e.File = file
				if root != nil && e.Key != "" {
					e.Line = line(locate(root, e.Key))
				}
			}
			d.errs = append(d.errs, e)
		})
	}
	if d.errs != nil {
		slices.SortStableFunc(d.errs, func(a, b Error) int {
			if a.File != b.File { // the configuration first, then its files
				files := slices.Concat(c.MappingsFile, c.PoliciesFile)
				return cmp.Compare(slices.Index(files, a.File), slices.Index(files, b.File))
			}
			return a.Line - b.Line
		})
		return nil, d.errs
	}
	c.renamed = d.renamed
	return &c, nil
}

// Renamed is a key that a file calls by the name of an earlier release. It goes
// on working until the release after next.
type Renamed struct {
	File     string
	Line     int
	Old, New string
}

func (r Renamed) String() string {
	return fmt.Sprintf("%s:%d: %s is called %s now: the old name works until the release after next", r.File, r.Line, r.Old, r.New)
}

// Renamed are the keys of earlier releases that the file uses.
func (c *Config) Renamed() []Renamed { return c.renamed }
