//go:build linux

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// installerKilled: the installer's container is killed while it writes the program, while it
// writes the list, and at any moment. The list is whole whenever it is looked at, and so
// is the program; what is half lies under another name, and goes; and pods have IPv4.
func installerKilled(t *testing.T, l *lab) {
	const program = "/opt/cni/bin/natless-cni"
	whole, err := os.Stat(filepath.Join(l.work, "programs/1/natless-cni"))
	if err != nil {
		t.Fatal(err)
	}
	sound := func() {
		t.Helper()
		if out, err := l.node(second, "cat", "/etc/cni/net.d/10-pods.conflist"); err != nil || !json.Valid([]byte(out)) {
			t.Errorf("the list is %q: %v", out, err)
		}
		if out, err := l.node(second, "sh", "-c", "stat -c '%s %a' "+program+" || true"); err != nil || out != "" && out != fmt.Sprint(whole.Size(), " 755") {
			t.Errorf("the program has the size and mode %q, not %d: %v", out, whole.Size(), err)
		}
	}
	halves := func(dir string) string {
		out, _ := l.node(second, "sh", "-c", "ls -A "+dir+" | grep '^.natless-' || true")
		return out
	}
	for _, dir := range []string{"/opt/cni/bin", "/etc/cni/net.d", ""} {
		// A shell waits for a half file, and kills who writes it, the moment that there is one.
		kill := "for i in $(seq 500000); do set -- " + dir + "/.natless-*; [ ! -e \"$1\" ] || break; done; kill -9 $pid"
		if dir == "" {
			kill = "kill -9 $pid"
		}
		out, err := l.node(second, "sh", "-c", "pid=$(pgrep -xf '/usr/bin/natless cni install .*') && rm -f "+program+
			" && cd /etc/cni/net.d && sed 's/\"type\": \"natless-cni\"/\"type\": \"loopback\"/' 10-pods.conflist >.other && mv .other 10-pods.conflist; "+kill)
		if err != nil {
			t.Fatal(out, err)
		}
		t.Logf("killed in %q: half files %q and %q", dir, halves("/opt/cni/bin"), halves("/etc/cni/net.d"))
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			sound()
		}
		l.script(t, "network", second) // as the network's own installer does
		within(t, patience, "it is chained again", func() error {
			sound()
			if _, err := l.node(second, "test", "-x", program); err != nil {
				return err
			}
			return l.chained(second)
		})
	}
	l.create(t, pod{name: "after-kills", node: second})
	l.runs(t, "after-kills")
	if seen, err := l.asks("after-kills"); err != nil || seen.Addr().String() != address4[second] {
		t.Errorf("it is seen as %s: %v", seen, err)
	}
	within(t, patience, "no half file is left", func() error {
		if left := halves("/opt/cni/bin") + halves("/etc/cni/net.d"); left != "" {
			return errors.New(left)
		}
		return nil
	})
}

// directoryRemoved: somebody removes the directory of network configurations and makes it
// anew, with the network's own. The plugin is chained into that one. (containerd ends when
// that directory goes, and is started again by whoever keeps it.)
func directoryRemoved(t *testing.T, l *lab) {
	if out, err := l.node(second, "sh", "-c", "rm -r /etc/cni/net.d && mkdir /etc/cni/net.d"); err != nil {
		t.Fatal(out, err)
	}
	l.script(t, "network", second)
	within(t, patience, "the plugin is chained into the list of the new directory", func() error { return l.chained(second) })
	l.create(t, pod{name: "new-directory", node: second})
	l.runs(t, "new-directory")
	if seen, err := l.asks("new-directory"); err != nil || seen.Addr().String() != address4[second] {
		t.Errorf("it is seen as %s: %v", seen, err)
	}
	l.nodeReady(t, second)
	if logs, err := l.try("-n", "natless-system", "logs", "--previous", l.agent(t, second), "-c", "cni-install"); err != nil || !strings.Contains(logs, "somebody has removed this directory") {
		t.Errorf("the installer ended, and said %s %v", logs, err)
	}
}
