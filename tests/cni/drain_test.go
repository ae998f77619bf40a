//go:build linux

package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// status asks the plugin itself, as an engine does: cnitool has no such command.
func (p *pod) status(socket string) (string, error) {
	cmd := p.node.Command(filepath.Join(p.cniPath, "natless-cni"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND=STATUS", "CNI_PATH="+p.cniPath)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "pods", "type": "natless-cni", "socket": %q}`, socket))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestDrainedHost: no new container starts where the host is drained, and the engine
// learns why and what to do; the node stays ready, those that are there go on, and give
// back what they have, also over a restart of the daemon.
func TestDrainedHost(t *testing.T) {
	daemon.OnePath(t, "it is about the registry and the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, sharedPool)
	conf := ptp(t, d, "")
	there := n.pods(t, 1, conf, bin)[0]
	if _, err := d.Client().Drain(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"drained", "drained, after a restart"} {
		late := &pod{NS: netns.New(t, "late"), node: n, conf: conf, cniPath: bin}
		_, err := late.cnitool("add")
		if err == nil || !strings.Contains(err.Error(), "this host is drained since") || !strings.Contains(err.Error(), "natless undrain") {
			t.Errorf("%s: a new container: %v", when, err)
		}
		if out, err := there.status(d.Socket); err != nil {
			t.Errorf("%s: STATUS: %v: %s", when, err, out)
		}
		there.must(t, "check")
		if err := n.download(there.NS, when[:7]); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		d.Stop()
		d.Start()
	}
	there.must(t, "del")
	if drains, err := d.Client().Drains(t.Context()); err != nil || len(drains) != 1 || drains[0].Left != 0 {
		t.Errorf("nobody is left: %+v, %v", drains, err)
	}
	if err := d.Client().Undrain(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	there.must(t, "add")
	if err := n.download(there.NS, "again"); err != nil {
		t.Error(err)
	}
}
