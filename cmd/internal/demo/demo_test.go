package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"testing"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/refs"

	"github.com/natless/natless/config/api"
)

// No packet and no goroutine may be left.
func TestMain(m *testing.M) {
	refs.SetLeakMode(refs.LeaksPanic)
	code := m.Run()
	if code == 0 {
		refs.DoLeakCheck()
		if err := goleak.Find(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

// TestDemo looks for what each act must show.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	err := Run(t.Context(), &out, func(w io.Writer, o api.Owner) error {
		_, err := fmt.Fprintln(w, "it is", o.Name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`www.example.test  AAAA  2001:db8:64::c000:250`,
		`demo/shop  16 MB in \S+ s, the right sha256; the server saw 198\.51\.100\.7:(1[0-9]{3}|20[0-4][0-9])\n`,
		`demo/blog  16 MB in \S+ s, the right sha256; the server saw 198\.51\.100\.7:(20[4-9][0-9]|2[1-9][0-9]{2}|30[0-7][0-9])\n`,
		`\[2001:db8:6::a\]:(\d+) > \[2001:db8:64::c000:250\]:80  ->  198.51.100.7:\d+ > 192.0.2.80:80 +64/63  SYN\n`,
		`\[2001:db8:64::c000:250\]:80 > \[2001:db8:6::a\]:\d+  <-  192.0.2.80:80 > 198.51.100.7:\d+ +63/64  SYN ACK\n`,
		`FIN`,
		`2001:db8:6::a > 2001:db8:64::c000:250  id 9 +->  198.51.100.7 > 192.0.2.80  id [12]\d{3} +64/63  echo\n`,
		`2001:db8:64::c000:250 > 2001:db8:6::a  id 9 +<-  192.0.2.80 > 198.51.100.7  id [12]\d{3} +63/64  reply\n`,
		`demo/shop heard "hello" from \[2001:db8:64::c000:250\]:\d+\n`,
		`198.51.100.7:60000 belongs to nobody: connection was refused`,
		`it is demo/shop`, `it is demo/blog`, `it is demo/till`,
		`demo/till sent from its own address, .*; the server saw 198\.51\.100\.7:3[0-9]{3}\n`, `verdict  pass4`,
		`verdict  forward4`, `verdict  port-outside-set`,
	} {
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("nothing like %s", want)
		}
	}
	for _, line := range bytes.Split(out.Bytes(), []byte("\n")) {
		if len(line) > 120 && !bytes.Contains(line, []byte("quoting")) {
			t.Errorf("a line of %d characters: %s", len(line), line)
		}
	}
	if t.Failed() {
		t.Logf("%s", &out)
	}
}
