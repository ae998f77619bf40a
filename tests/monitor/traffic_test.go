//go:build linux

package monitor

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
)

// natless runs the program on the host, and gives what it writes.
func (n *topology) natless(words ...string) []byte {
	n.Helper()
	out, err := exec.Command(filepath.Join(daemon.Build(n), "natless"), append(words, "--socket", n.daemon.Socket)...).Output()
	if err != nil {
		n.Fatalf("natless %s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return out
}

// TestWorkloadTraffic: each packet of a workload counts once, with its bytes, whether
// daemon or kernel translated it, without a listener for Prometheus: half of them are
// of the one way, half of the other. top shows who does it.
func TestWorkloadTraffic(t *testing.T) {
	n := newTopology(t)
	n.daemon.Stop()
	n.daemon = daemon.Start(t, n.host, strings.Replace(configuration, seen, "fast_path: required\n", 1))
	again, err := n.daemon.Client().Put(t.Context(), n.web.Key, n.web.Request)
	if err != nil {
		t.Fatal(err)
	}
	n.web = again
	from := fmt.Sprintf("[%s]:%d", web6, n.web.Ports.Min())
	within(t, "the kernel translates", func() bool {
		n.send(from, closed, 100)
		s, err := n.daemon.Client().Status(t.Context())
		return err == nil && s.FastPath.Translated["forward4"].Packets > 0
	})
	count := func() api.Traffic {
		var found []api.Workload
		if err := json.Unmarshal(n.natless("workloads", "--name", "default/web", "-o", "json"), &found); err != nil || len(found) != 1 || found[0].Traffic == nil {
			t.Fatalf("%v, %+v", err, found)
		}
		return *found[0].Traffic
	}
	const packets, size = 20, 40 + 8 + 100
	send := func() {
		for range packets {
			n.send(from, closed, 100) // an answer for some: port unreachable is limited by the server
		}
	}
	before := count()
	send() // by the fast path
	v := n.watch("monitor", "--all", "--rate", "0")
	send() // by the daemon
	v.end()
	var after api.Traffic
	within(t, "all packets are counted", func() bool {
		after = count()
		return after.Sent.Packets >= before.Sent.Packets+2*packets
	})
	if got := after.Sent.Packets - before.Sent.Packets; got != 2*packets {
		t.Errorf("%d packets sent, want %d", got, 2*packets)
	}
	if got := after.Sent.Bytes - before.Sent.Bytes; got != 2*packets*size {
		t.Errorf("%d bytes sent, want %d", got, 2*packets*size)
	}
	if after.Received.Packets == before.Received.Packets {
		t.Error("no answer was counted")
	}

	top := n.start("top", "--once", "-d", "1s", "-o", "json")
	for range 200 { // as long as it looks
		n.send(from, closed, 100)
		if len(top.done) > 0 {
			break
		}
	}
	out, _ := top.wait()
	var look struct {
		Workloads []struct {
			Name string
			Sent struct {
				Packets float64 `json:"packets_per_second"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &look); err != nil || len(look.Workloads) != 1 || look.Workloads[0].Name != "default/web" || look.Workloads[0].Sent.Packets == 0 {
		t.Errorf("%v, %s", err, out)
	}
}
