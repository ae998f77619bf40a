//go:build linux

package flows

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// TestSample: of a sample, records say of which one, and what they have stands for all
// packets; a collector has the same. By both paths.
func TestSample(t *testing.T) {
	netns.Require(t, netns.Root, "nfcapd", "nfdump", "ethtool", "ss")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			n := newTopology(t, "flows: {json: {path: FILE}, sample: 1/4, ipfix: {collectors: [\"udp://192.0.2.2:4739\"]}}\nfast_path: "+path+"\n")
			dir := t.TempDir()
			stop := collector(t, n.server, "nfcapd", "-w", dir, "-p", "4739", "-b", server, "-t", "3600", "-P", filepath.Join(t.TempDir(), "pid"))
			n.udpListens(n.server, "4739")
			n.daemon.Stop()
			n.daemon.Start() // with somebody who hears the templates
			n.put()
			_, udp := n.serve()
			const sent = 800
			n.datagrams(udp, 8, sent/8)
			if out := n.natless("status"); !strings.Contains(out, "of a sample: 1/4 of all packets") {
				t.Error(out)
			}
			n.daemon.Stop()
			time.Sleep(500 * time.Millisecond) // what is in the socket
			stop()

			all, counted := records(t, n.file), uint64(0)
			for _, f := range all {
				if f.Sample != 4 {
					t.Errorf("a record of 1/%d: %+v", f.Sample, f)
				}
				if f.Proto == "udp" {
					counted += f.Sent.Packets + f.Received.Packets
				}
			}
			if counted < 2*sent/4-140 || counted > 2*sent/4+140 { // eight standard deviations
				t.Errorf("%d packets are counted of %d, want some %d", counted, 2*sent, 2*sent/4)
			}
			out, err := exec.Command("nfdump", "-R", dir, "-q", "-N", "-o", "fmt:%pr,%ipkt,%opkt", "proto udp").CombinedOutput()
			if err != nil {
				t.Fatalf("nfdump: %v\n%s", err, out)
			}
			var told uint64
			for _, line := range strings.Fields(strings.ReplaceAll(strings.ReplaceAll(string(out), " ", ""), "\n", " ")) {
				for _, field := range strings.Split(line, ",")[1:] {
					packets, _ := strconv.ParseUint(field, 10, 64)
					told += packets
				}
			}
			if told != counted {
				t.Errorf("nfdump has %d packets, records have %d:\n%.2000s", told, counted, out)
			}
		})
	}
}
