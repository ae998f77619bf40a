package main

import (
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// TestAsk: whois asks who has the address, and all where that one knows nobody or it is about
// the past; who cannot be asked is named, and no name of a host becomes a flag of a command.
func TestAsk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := filepath.Join(dir, "ask")
	const text = `echo "$@" >>"$0.log"
case $1 in
one) [ "$4" = 10m ] && echo "ns/old had $2" && exit 0; echo "natless: nobody has $2" >&2; exit 1 ;;
two) echo "ns/web has $2" ;;
*) echo "cannot connect" >&2; exit 255 ;;
esac
`
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := world{}
	for _, name := range []string{"one", "two", "away", "-oProxyCommand=x"} {
		w.Hosts = append(w.Hosts, fleet.Host{Name: name})
	}
	by := []string{"sh", script, "{host}", "{address}"}
	for _, c := range []struct {
		name, holder, at string
		hosts            int
		want, wrong      string
	}{
		{"of who has it", "two", "", 4, "host two:\nns/web has 198.51.100.7:80\n", ""},
		{"of who has it, and knows nobody", "one", "", 4, "host two:\nns/web has 198.51.100.7:80\n", ""},
		{"of the past", "two", "10m", 4, "host one:\nns/old had 198.51.100.7:80\nhost two:\nns/web has 198.51.100.7:80\n", ""},
		{"of nobody", "one", "", 1, "", "no host knows of anybody who has 198.51.100.7:80"},
		{"of who does not answer", "away", "", 0, "", "away (cannot connect)"},
	} {
		q := question{asked: netip.MustParseAddr("198.51.100.7"), port: 80, at: c.at, by: by, patience: time.Minute, tell: io.Discard}
		all, err := q.ask(t.Context(), order(w.Hosts[:c.hosts], c.holder, c.at != ""))
		got := ""
		for _, a := range all {
			got += "host " + a.Host + ":\n" + a.text
		}
		if got != c.want || (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	log, err := os.ReadFile(script + ".log")
	if err != nil || strings.Contains(string(log), "ProxyCommand") {
		t.Errorf("%v: %s", err, log)
	}
}
