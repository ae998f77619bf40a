package dns64

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/natless/natless/tests/netns"
)

// startBIND runs a real named with the zone natless.test, and with faults that
// are its own for such tests.
func startBIND(t testing.TB, faults string) netip.AddrPort {
	t.Helper()
	dir, at := t.TempDir(), freePort(t)
	zone, err := filepath.Abs("testdata/natless.test.zone")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`options {
 directory %q;
 pid-file none;
 session-keyfile none;
 listen-on port %d { 127.0.0.1; };
 listen-on-v6 { none; };
 recursion yes;
 dnssec-validation no;
 minimal-responses no;
 empty-zones-enable no;
 max-records-per-type 0;
 max-udp-size 4096;
};
controls { };
zone "natless.test" { type primary; file %q; check-names ignore; };
`, dir, at.Port(), zone)
	file := filepath.Join(dir, "named.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-g", "-c", file, "-n", "1"}
	for f := range strings.FieldsSeq(faults) {
		args = append(args, "-T", f)
	}
	cmd := exec.Command("named", args...)
	log := &strings.Builder{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("named %s:\n%s", faults, log)
		}
	})
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if _, _, err := (&dns.Client{Timeout: time.Second}).Exchange(query("natless.test.", dns.TypeSOA), at.String()); err == nil {
			return at
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("named does not answer")
	return at
}

// TestBIND asks a real named that does wrong what servers and middleboxes were
// seen to: the answers are those of one that does right.
func TestBIND(t *testing.T) {
	netns.Require(t, "named")
	var all sync.WaitGroup
	defer all.Wait()
	for _, faults := range []string{"", "noedns", "ednsformerr", "ednsnotimp", "ednsrefused", "dropedns", "maxudp512", "notcp", "noaa"} {
		all.Go(func() {
			t.Run("faults "+faults, func(t *testing.T) { askBIND(t, faults) })
		})
	}
}

func askBIND(t *testing.T, faults string) {
	s := New(Config{Upstreams: []netip.AddrPort{startBIND(t, faults)}}, wellKnown, Options{Patience: 20 * time.Second})
	defer s.Close()
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"v4only.natless.test.", dns.TypeAAAA, "64:ff9b::c000:221"},
		{"dual.natless.test.", dns.TypeAAAA, "2001:db8:1::35"},
		{"alias3.natless.test.", dns.TypeAAAA, "64:ff9b::c000:221"},
		{"v4short.natless.test.", dns.TypeA, "192.0.2.34"},
		{"nothing.natless.test.", dns.TypeAAAA, "NXDOMAIN"},
		{"textonly.natless.test.", dns.TypeAAAA, "NOERROR"},
		{"textonly.natless.test.", dns.TypeTXT, "neither"},
		{"big.natless.test.", dns.TypeAAAA, "64:ff9b::c633:6478"},
	} {
		got := lines(ask(t, s, query(c.name, c.qtype), "tcp"))
		if !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %.200s, want %s", c.name, dns.Type(c.qtype), got, c.want)
		}
	}
}
