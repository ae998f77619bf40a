package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
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

// sender is a line that says from which port a workload was heard.
var sender = regexp.MustCompile(`demo/(\w+) .*the server saw 198\.51\.100\.7:(\d+)\n`)

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
		`demo/shop  16 MB in \S+ s, the right sha256; the server saw 198\.51\.100\.7:(\d+)\n`,
		`demo/blog  16 MB in \S+ s, the right sha256; the server saw 198\.51\.100\.7:(\d+)\n`,
		`\[2001:db8:6::a\]:(\d+) > \[2001:db8:64::c000:250\]:80  ->  198.51.100.7:\d+ > 192.0.2.80:80 +64/63  SYN\n`,
		`\[2001:db8:64::c000:250\]:80 > \[2001:db8:6::a\]:\d+  <-  192.0.2.80:80 > 198.51.100.7:\d+ +63/64  SYN ACK\n`,
		`FIN`,
		`2001:db8:6::a > 2001:db8:64::c000:250  id 9 +->  198.51.100.7 > 192.0.2.80  id (?:443|[12]\d{3}) +64/63  echo\n`,
		`2001:db8:64::c000:250 > 2001:db8:6::a  id 9 +<-  192.0.2.80 > 198.51.100.7  id (?:443|[12]\d{3}) +63/64  reply\n`,
		`demo/shop heard "hello" from \[2001:db8:64::c000:250\]:\d+\n`,
		`198.51.100.7:60000 belongs to nobody: connection was refused`,
		`it is demo/shop`, `it is demo/blog`, `it is demo/till`,
		`demo/till sent from its own address, .*; the server saw 198\.51\.100\.7:\d+\n`, `verdict  pass4`,
		`verdict  forward4`, `verdict  port-outside-set`,
	} {
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("nothing like %s", want)
		}
	}
	sets := map[string][][2]int{"shop": {{443, 443}, {1024, 2047}}, "blog": {{2048, 3071}}, "till": {{3072, 4095}}}
	for _, seen := range sender.FindAllSubmatch(out.Bytes(), -1) {
		port, _ := strconv.Atoi(string(seen[2]))
		if !slices.ContainsFunc(sets[string(seen[1])], func(r [2]int) bool { return r[0] <= port && port <= r[1] }) {
			t.Errorf("port %d is not one of %s's", port, seen[1])
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
