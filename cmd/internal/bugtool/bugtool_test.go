package bugtool

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		text, _ := io.ReadAll(r)
		files[h.Name] = string(text)
	}
}

// TestWrite: what cannot be had is said, and the rest is there.
func TestWrite(t *testing.T) {
	text := func(s string, err error) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(s), err }
	}
	var out bytes.Buffer
	var told []Entry
	err := Write(t.Context(), &out, "natless-bugtool-h", time.Unix(1, 0), []Item{
		{Name: "a.txt", What: "whole", Get: text("all is well\n", nil)},
		{Name: "b.txt", What: "nothing", Get: text("", errors.New("natlessd does not answer"))},
		{Name: "c.txt", What: "half", Get: text("one half\n", errors.New("the other is missing"))},
		{Name: "d.txt", What: "secret", Get: text("token: abcdef\nuser: me\n", nil)},
		{Name: "e.txt", What: "long", Get: text(strings.Repeat("x", most+1), nil)},
		Run("f.txt", "a tool that is not there", "natless-no-such-tool --all", "natless-nor-this"),
		Run("g.txt", "the second of two", "natless-no-such-tool", "echo it is there"),
		Run("h.txt", "one that fails", "false"),
		Files("i.txt", "no file", "/natless/none/*"),
	}, func(e Entry) { told = append(told, e) })
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, out.Bytes())
	for name, want := range map[string]string{
		"a.txt": "all is well\n", "b.txt": "not there: natlessd does not answer\n", "c.txt": "one half\n", "d.txt": "token: [cut out]\nuser: me\n",
		"f.txt": "not there: natless-no-such-tool or natless-nor-this is not installed\n", "g.txt": "$ echo it is there\nit is there\n",
		"h.txt": "$ false\n", "i.txt": "not there: there is no /natless/none/*\n",
	} {
		if got := files["natless-bugtool-h/"+name]; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	list := files["natless-bugtool-h/LIST.txt"]
	for _, want := range []string{"a.txt                             12  whole\n", "nothing; NOT THERE: natlessd does not answer", "half; NOT THERE: the other",
		"1 cut out that looked secret", "only the last 8 MB of 8 are here", "NOT THERE: false: exit status 1"} {
		if !strings.Contains(list, want) {
			t.Errorf("want %q in\n%s", want, list)
		}
	}
	if len(told) != 9 {
		t.Errorf("told %d", len(told))
	}
}

func TestWithoutSecrets(t *testing.T) {
	for in, want := range map[string]string{
		`{"k8s_auth_token": "eyJhbGci.x.y", "mtu": 1500}`:                            `{"k8s_auth_token": [cut out], "mtu": 1500}`,
		"password=hunter2 user=me":                                                   "password=[cut out] user=me",
		"Authorization: Bearer abcdefghijkl":                                         "Authorization: [cut out]",
		"remote_write: https://me:hunter2@example.com/push":                          "remote_write: https://me:[cut out]@example.com/push",
		"a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----\nb": "a\n[cut out]\nb",
		"wireguard preshared-key: 0mE8Yk3=":                                          "wireguard preshared-key: [cut out]",
		"198.51.100.7 dev natless0 proto 110 metric 1024 pref medium":                "198.51.100.7 dev natless0 proto 110 metric 1024 pref medium",
		"keyboard: de, tokens are not mentioned here":                                "keyboard: de, tokens are not mentioned here",
		"ip6 saddr 64:ff9b::/96 counter packets 0 bytes 0 comment \"natless\"":       "ip6 saddr 64:ff9b::/96 counter packets 0 bytes 0 comment \"natless\"",
	} {
		if got, _ := WithoutSecrets([]byte(in)); string(got) != want {
			t.Errorf("%q\ngives %q\nwant  %q", in, got, want)
		}
	}
}
