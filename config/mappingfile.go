package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// maxLine bounds a line of a file of mappings, in bytes; maxWord what an error
// repeats of it.
const (
	maxLine = 64 << 10
	maxWord = 64
)

// mappingReader reads a file of mappings, one a line:
//
//	2001:db8:6::2     198.51.100.128
//	2001:db8:7::/120  203.0.113.0/24   # 256 of them
//	2001:db8:8::1     198.51.100.129   1024-2047,8080
//
// An IPv6 prefix, white space, an IPv4 prefix and, if the mapping has only some
// ports of one address, white space and these. A prefix without a length is an
// address. # begins a comment. Every line ends with a newline, the last one too:
// so a file of which a part is missing is seen to be cut short.
type mappingReader struct {
	mappingLine
	buf  *bufio.Reader
	read int64 // bytes so far
	err  error // why there are no more lines; nil at the end of the file
}

// mappingLine is a line of a file that says something.
type mappingLine struct {
	line int             // its number
	m    mapping.Mapping // what it says
	bad  error           // or what is wrong with it
}

func newMappingReader(r io.Reader) *mappingReader {
	return &mappingReader{buf: bufio.NewReaderSize(r, maxLine)}
}

// next goes to the next line that says something and reports whether there is
// one. Where bad is set, it can go on behind.
func (r *mappingReader) next() bool {
	for {
		line, err := r.buf.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return false
		}
		r.line++
		r.read += int64(len(line))
		switch {
		case err == bufio.ErrBufferFull:
			r.bad = fmt.Errorf("is longer than %d bytes", maxLine)
			if r.err = r.skip(); r.err != nil {
				return false
			}
			return true
		case err == io.EOF:
			r.bad = errors.New("has no newline at its end: is the file whole?")
			return true
		case err != nil:
			r.err = err
			return false
		}
		if r.line == 1 {
			line = bytes.TrimPrefix(line, byteOrderMark)
			if wide := wideText(line); wide != "" {
				r.bad = errors.New(wide)
				return true
			}
		}
		var some bool
		if r.m, some, r.bad = parseMapping(line); some || r.bad != nil {
			return true
		}
	}
}

// skip leaves out the rest of a line.
func (r *mappingReader) skip() error {
	for {
		_, err := r.buf.ReadSlice('\n')
		switch err {
		case nil, io.EOF:
			return nil
		case bufio.ErrBufferFull:
		default:
			return err
		}
	}
}

// parseMapping reads a line; some is false where it has only a comment. What
// the prefixes mean together is for the table to judge.
func parseMapping(line []byte) (m mapping.Mapping, some bool, err error) {
	if i := bytes.IndexByte(line, '#'); i >= 0 {
		line = line[:i]
	}
	rest := string(line)
	var words [3]string
	n := 0
	for ; ; n++ {
		begin := 0
		for begin < len(rest) && white(rest[begin]) {
			begin++
		}
		if rest = rest[begin:]; rest == "" {
			break
		}
		if n == len(words) {
			return m, false, fmt.Errorf("%s is too much: write an IPv6 prefix, an IPv4 prefix and perhaps ports, such as 1024-2047,8080", word(rest))
		}
		end := 0
		for end < len(rest) && !white(rest[end]) {
			end++
		}
		words[n], rest = rest[:end], rest[end:]
	}
	switch {
	case n == 0:
		return m, false, nil
	case n == 1:
		return m, false, fmt.Errorf("%s stands alone: write an IPv6 prefix, white space and an IPv4 prefix", word(words[0]))
	case len(words[0]) > maxWord || len(words[1]) > maxWord:
		return m, false, fmt.Errorf("%s %s: are not prefixes", word(words[0]), word(words[1]))
	}
	if m.IPv6, err = parsePrefix(words[0]); err != nil {
		return m, false, err
	}
	if m.IPv4, err = parsePrefix(words[1]); err != nil {
		return m, false, err
	}
	if n == 3 {
		if m.Ports, err = ports.Parse(words[2]); err != nil {
			return m, false, err
		}
	}
	return m, true, nil
}

func white(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// word quotes the first word of s, or its beginning.
func word(s string) string {
	if end := strings.IndexAny(s, " \t\r\n"); end >= 0 {
		s = s[:end]
	}
	if len(s) > maxWord {
		return fmt.Sprintf("%q…", s[:maxWord])
	}
	return fmt.Sprintf("%q", s)
}
