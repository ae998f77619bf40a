// Package bugtool puts what a bug report needs into one archive: what the daemon
// says, what the host says, and a list of what is in it and what could not be had,
// and why. Nothing stops it: not a daemon that is dead, not a tool that is missing.
// Keys and the registry may not enter; what looks like a secret is cut out of all else.
package bugtool

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	patience = 10 * time.Second // for one item that asks for no more
	most     = 8 << 20          // bytes of one item
)

// Item is one file of the archive.
type Item struct {
	Name string // of the file
	What string // it is, for people
	// Get gives the content. What it gave before an error is kept.
	Get func(context.Context) ([]byte, error)
	// Patience is how long it may take; 0: patience.
	Patience time.Duration
}

// Entry is what became of an item.
type Entry struct {
	Name  string `json:"name"`
	What  string `json:"what"`
	Bytes int    `json:"bytes"`
	// Lacking is why it is not there, or not all of it.
	Lacking string `json:"lacking,omitempty"`
	Cut     int    `json:"cut,omitempty"` // secrets that were cut out
}

// String is the entry as a line of the list.
func (e Entry) String() string {
	line := fmt.Sprintf("%-26s %9d  %s", e.Name, e.Bytes, e.What)
	if e.Cut > 0 {
		line += fmt.Sprintf("; %d cut out that looked secret", e.Cut)
	}
	if e.Lacking != "" {
		line += "; NOT THERE: " + strings.ReplaceAll(e.Lacking, "\n", " ")
	}
	return line
}

// Write makes the archive, a gzipped tar with all files in a directory of its own, the
// list LIST.txt last. It fails only when it cannot be written, or ctx is done.
func Write(ctx context.Context, w io.Writer, directory string, now time.Time, items []Item, each func(Entry)) error {
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	put := func(name string, content []byte) error {
		header := &tar.Header{Name: directory + "/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: now}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := archive.Write(content)
		return err
	}
	var list strings.Builder
	for _, item := range items {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		content, e := get(ctx, item)
		if e.Lacking != "" && len(content) == 0 {
			content = []byte("not there: " + e.Lacking + "\n")
		}
		if err := put(item.Name, content); err != nil {
			return err
		}
		fmt.Fprintln(&list, e)
		if each != nil {
			each(e)
		}
	}
	return errors.Join(put("LIST.txt", []byte(list.String())), archive.Close(), zipped.Close())
}

// get has an item's content without secrets, and no more than may be.
func get(ctx context.Context, item Item) ([]byte, Entry) {
	e := Entry{Name: item.Name, What: item.What}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(item.Patience, patience))
	defer cancel()
	content, err := item.Get(ctx)
	if len(content) > most {
		err = errors.Join(err, fmt.Errorf("only the last %d MB of %d are here", most>>20, len(content)>>20))
		content = content[len(content)-most:]
	}
	if err != nil {
		e.Lacking = err.Error()
	}
	content, e.Cut = WithoutSecrets(content)
	text, cut := WithoutSecrets([]byte(e.Lacking))
	e.Lacking, e.Cut, e.Bytes = string(text), e.Cut+cut, len(content)
	return content, e
}

var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----`),
	regexp.MustCompile(`(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`),
	regexp.MustCompile(`(?i)("?[\w.-]*(?:password|passwd|passphrase|secret|token|credential|api[-_]?key|private[-_]?key|preshared[-_]?key|psk)[\w.-]*"?\s*[:=]\s*)("[^"\n]*"|'[^'\n]*'|[^\s,;}]+)`),
	regexp.MustCompile(`([a-z][a-z0-9+.-]*://[^\s/:@]+:)[^\s/@]+@`), // the password of a URL
}

const cutOut = "[cut out]"

// hints are what a line has that a secret may be in: no expression need look at others.
var hints = [][]byte{[]byte("pass"), []byte("secret"), []byte("token"), []byte("credential"), []byte("key"), []byte("psk"), []byte("bearer"),
	[]byte("basic"), []byte("://")}

// WithoutSecrets cuts out what looks like a secret, and says how often. It is the belt
// to the braces that no item reads a key in the first place.
func WithoutSecrets(b []byte) ([]byte, int) {
	n := 0
	b = secrets[0].ReplaceAllFunc(b, func([]byte) []byte { n++; return []byte(cutOut) })
	out := make([]byte, 0, len(b))
	for line := range bytes.Lines(b) {
		low := bytes.ToLower(line)
		if slices.ContainsFunc(hints, func(h []byte) bool { return bytes.Contains(low, h) }) {
			var more int
			line, more = lineWithoutSecrets(line)
			n += more
		}
		out = append(out, line...)
	}
	return out, n
}

func lineWithoutSecrets(line []byte) (_ []byte, n int) {
	replace := func(r *regexp.Regexp, with string) {
		line = r.ReplaceAllFunc(line, func(found []byte) []byte {
			if bytes.Contains(found, []byte(cutOut)) {
				return found
			}
			n++
			return r.ReplaceAll(found, []byte(with))
		})
	}
	replace(secrets[1], cutOut)
	replace(secrets[2], "${1}"+cutOut)
	replace(secrets[3], "${1}"+cutOut+"@")
	return line, n
}
