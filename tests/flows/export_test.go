//go:build linux

package flows

import (
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

// udpListens waits until somebody in a namespace listens.
func (n *topology) udpListens(ns *netns.NS, port string) {
	n.t.Helper()
	within(n.t, 20*time.Second, "somebody at port "+port, func() bool {
		return strings.Contains(ns.Run("ss", "-lunH", "sport", "=", port), ":"+port)
	})
}

// heardAll waits until who listens has read what is in his socket.
func (n *topology) heardAll(ports ...string) {
	n.t.Helper()
	for _, port := range ports {
		within(n.t, 20*time.Second, "all read at port "+port, func() bool {
			f := strings.Fields(n.server.Run("ss", "-lunH", "sport", "=", port))
			return len(f) > 1 && f[1] == "0"
		})
	}
	time.Sleep(200 * time.Millisecond) // and done with it
}

// collector runs a program in a namespace until stop, which ends it as its
// operator would.
func collector(t testing.TB, ns *netns.NS, name string, args ...string) (stop func()) {
	t.Helper()
	cmd := ns.Command(name, args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Signal(syscall.SIGINT)
			ended := make(chan struct{})
			go func() { cmd.Wait(); close(ended) }()
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				cmd.Process.Kill()
				<-ended
			}
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%.4000s", name, b)
		}
	})
	return stop
}

// sums has, of records, what any collector can tell: by protocol and ports.
func sums(all []api.Flow) map[string]count {
	by := map[string]count{}
	for _, f := range all {
		key := fmt.Sprintf("%s %d %d", f.Proto, f.LocalPort, f.RemotePort)
		n := by[key]
		n.packets[0], n.bytes[0] = n.packets[0]+f.Sent.Packets, n.bytes[0]+f.Sent.Bytes
		n.packets[1], n.bytes[1] = n.packets[1]+f.Received.Packets, n.bytes[1]+f.Received.Bytes
		by[key] = n
	}
	return by
}

// same holds what a collector has, of TCP and UDP, against the file of records.
func (n *topology) same(who string, got map[string]count) {
	n.t.Helper()
	seen := 0
	for key, want := range sums(records(n.t, n.file)) {
		if strings.HasPrefix(key, "icmp") || strings.HasSuffix(key, " 0 0") {
			continue
		}
		seen++
		if g := got[key]; g != want {
			n.t.Errorf("%s, %s: %+v, records have %+v", who, key, g, want)
		}
	}
	if seen < 15 {
		n.t.Errorf("%d flows", seen)
	}
}

// TestNfdump: nfcapd takes what is sent by UDP; nfdump shows the same flows, and who
// was given ports.
func TestNfdump(t *testing.T) {
	netns.Require(t, netns.Root, "nfcapd", "nfdump", "ethtool", "ping", "ss")
	n := newTopology(t, "flows: {json: {path: FILE}, ipfix: {collectors: [\"udp://192.0.2.2:4739\"]}}\n")
	dir := t.TempDir()
	stop := collector(t, n.server, "nfcapd", "-w", dir, "-p", "4739", "-b", server, "-t", "3600", "-P", filepath.Join(t.TempDir(), "pid"))
	n.udpListens(n.server, "4739")
	n.daemon.Stop()
	n.daemon.Start() // with somebody who hears the templates
	w := n.put()
	tcp, udp := n.serve()
	n.talk(tcp, udp, 10)
	if err := n.daemon.Client().Delete(t.Context(), w.Key); err != nil {
		t.Fatal(err)
	}
	n.natless("flows") // which has all collected
	n.daemon.Stop()
	n.heardAll("4739")
	stop()
	out, err := exec.Command("nfdump", "-R", dir, "-q", "-N", "-o", "fmt:%pr,%sap,%dap,%ipkt,%ibyt,%opkt,%obyt").CombinedOutput()
	if err != nil {
		t.Fatalf("nfdump: %v\n%s", err, out)
	}
	got := map[string]count{}
	rows, _ := csv.NewReader(strings.NewReader(strings.ReplaceAll(string(out), " ", ""))).ReadAll()
	for _, r := range rows {
		if len(r) == 7 {
			_, sport, _ := strings.Cut(r[1], ":")
			_, dport, _ := strings.Cut(r[2], ":")
			got[map[string]string{"6": "tcp", "17": "udp"}[r[0]]+" "+sport+" "+dport] = countOf(r[3:])
		}
	}
	n.same("nfdump", got)
	if t.Failed() {
		t.Logf("%s", out)
	}
	raw, err := exec.Command("nfdump", "-R", dir, "-q", "-o", "raw").CombinedOutput()
	text := strings.Join(strings.Fields(string(raw)), " ")
	for what, min := range map[string]int{"nat event = 16:": 1, "nat event = 17:": 1, "src xlt ip = 198.51.100.8": 2, fmt.Sprintf("obs pointID = 0x%010x", w.Serial): 18,
		"proto = 1 ICMP": 1} {
		if strings.Count(text, what) < min {
			t.Errorf("%d times %q, %v in\n%.3000s", strings.Count(text, what), what, err, raw)
		}
	}
	if strings.Contains(text, "obs pointID = 0x0000000000") {
		t.Error("a flow without a workload")
	}
}

func countOf(fields []string) (n count) {
	var all [4]uint64
	for i := range all {
		all[i], _ = strconv.ParseUint(fields[i], 10, 64)
	}
	n.packets, n.bytes = [2]uint64{all[0], all[2]}, [2]uint64{all[1], all[3]}
	return n
}

// TestPmacct: nfacctd adds up what is sent to it as the records do. What goes the other
// way in a biflow it does not look at.
func TestPmacct(t *testing.T) {
	netns.Require(t, netns.Root, "nfacctd", "ethtool", "ping", "ss")
	n := newTopology(t, "flows: {json: {path: FILE}, ipfix: {collectors: [\"udp://192.0.2.2:4739\"]}}\n")
	dir := t.TempDir()
	printed, config := filepath.Join(dir, "printed"), filepath.Join(dir, "nfacctd.conf")
	if err := os.WriteFile(config, []byte("daemonize: false\nnfacctd_ip: "+server+"\nnfacctd_port: 4739\nplugins: print[a]\n"+
		"aggregate[a]: src_port, dst_port, proto\nprint_output[a]: csv\nprint_output_file[a]: "+printed+"\nprint_refresh_time[a]: 3600\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := collector(t, n.server, "nfacctd", "-f", config)
	n.udpListens(n.server, "4739")
	n.daemon.Stop()
	n.daemon.Start()
	n.put()
	tcp, udp := n.serve()
	n.talk(tcp, udp, 10)
	n.daemon.Stop()
	time.Sleep(500 * time.Millisecond)
	stop()
	got := map[string]count{}
	within(t, 10*time.Second, "what nfacctd prints at its end", func() bool { _, err := os.Stat(printed); return err == nil })
	time.Sleep(200 * time.Millisecond)
	b, err := os.ReadFile(printed)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) { // SRC_PORT,DST_PORT,PROTOCOL,PACKETS,BYTES
		f := strings.Split(strings.TrimSpace(line), ",")
		if len(f) != 5 {
			continue
		}
		packets, _ := strconv.ParseUint(f[3], 10, 64)
		bytes, _ := strconv.ParseUint(f[4], 10, 64)
		got[f[2]+" "+f[0]+" "+f[1]] = count{packets: [2]uint64{packets}, bytes: [2]uint64{bytes}}
	}
	t.Logf("%.3000s", b)
	for key, want := range sums(records(t, n.file)) {
		if strings.HasPrefix(key, "icmp") || strings.HasSuffix(key, " 0 0") {
			continue
		}
		if g := got[key]; g.packets[0] != want.packets[0] || g.bytes[0] != want.bytes[0] {
			t.Errorf("%s: nfacctd has %+v, records %+v", key, g, want)
		}
	}
}

// TestSoftflowd: of what tcpdump has seen on the server's wire, softflowd counts the packets
// and bytes of the same TCP and UDP as the records have, each way, by both paths; what has no
// ports, such as fragments, together. By itself it may see nothing of a quiet wire: it does
// not ask libpcap for packets as they come (irino/softflowd, pull request 71).
func TestSoftflowd(t *testing.T) {
	netns.Require(t, netns.Root, "softflowd", "nfcapd", "nfdump", "tcpdump", "tshark", "ethtool", "ping", "ss")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			t.Parallel()
			n := newTopology(t, "flows: {json: {path: FILE}}\nfast_path: "+path+"\n")
			n.put()
			n.server.IP("link set lo up")
			dir, run := t.TempDir(), t.TempDir()
			stop := collector(t, n.server, "nfcapd", "-w", dir, "-p", "9995", "-b", "127.0.0.1", "-t", "3600", "-P", filepath.Join(run, "pid"))
			n.udpListens(n.server, "9995")
			tcp, udp := n.serve()
			c := startCapture(t, n.server)
			n.talk(tcp, udp, 20)
			c.stop()
			n.daemon.Stop()
			n.server.Run("softflowd", "-d", "-r", c.file, "-v", "9", "-n", "127.0.0.1:9995", "-p", filepath.Join(run, "soft"), "-c", "none",
				"tcp or udp")
			n.heardAll("9995")
			stop()
			got, want := n.softflowd(dir), wireSums(records(t, n.file))
			for key, c := range want {
				if got[key] != c {
					t.Errorf("%s: softflowd has %+v, records %+v", key, got[key], c)
				}
			}
			if len(got) != len(want) || len(want) < 15 {
				t.Errorf("softflowd has %d flows, records %d:\n%v\n%v", len(got), len(want), got, want)
			}
		})
	}
}

// wireSums are sums of TCP and UDP.
func wireSums(all []api.Flow) map[string]count {
	by := sums(all)
	for key := range by {
		if !strings.HasPrefix(key, "tcp") && !strings.HasPrefix(key, "udp") {
			delete(by, key)
		}
	}
	return by
}

// softflowd is what nfcapd has got from it, in the keys of sums.
func (n *topology) softflowd(dir string) map[string]count {
	n.t.Helper()
	out, err := exec.Command("nfdump", "-R", dir, "-q", "-N", "-o", "fmt:%pr,%sa,%sp,%da,%dp,%ipkt,%ibyt").CombinedOutput()
	if err != nil {
		n.t.Fatalf("nfdump: %v\n%s", err, out)
	}
	got := map[string]count{}
	rows, _ := csv.NewReader(strings.NewReader(strings.ReplaceAll(string(out), " ", ""))).ReadAll()
	for _, r := range rows {
		if len(r) != 7 {
			continue
		}
		d, local, remote := 0, r[2], r[4]
		if r[1] == server {
			d, local, remote = 1, r[4], r[2]
		}
		key := map[string]string{"6": "tcp", "17": "udp"}[r[0]] + " " + local + " " + remote
		packets, _ := strconv.ParseUint(r[5], 10, 64)
		bytes, _ := strconv.ParseUint(r[6], 10, 64)
		c := got[key]
		c.packets[d], c.bytes[d] = c.packets[d]+packets, c.bytes[d]+bytes
		got[key] = c
	}
	return got
}
