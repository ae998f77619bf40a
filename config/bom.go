package config

import "bytes"

// byteOrderMark is what some editors put at the beginning of UTF-8 (RFC 3629 6).
// It says nothing here, and is left out.
var byteOrderMark = []byte("\xef\xbb\xbf")

// wideText says what is wrong with a file that is not UTF-8, or "".
func wideText(data []byte) string {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return "is UTF-16: save it as UTF-8"
	}
	return ""
}
