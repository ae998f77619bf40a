//go:build linux

package flows

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

const heldConfig = `
fast_path: %s
flows: {json: {path: FILE}, ipfix: {collectors: ["udp://192.0.2.2:4739", "udp://192.0.2.2:4740"]}}
policies:
  - name: web
    tier: Admin
    priority: 1
    subject: {name: ns/one}
    egress:
      - {name: some, action: Accept, to: [{networks: [192.0.2.2/32]}], protocols: [{udp: {destinationPort: {number: 7001}}}]}
      - {name: rest, action: Deny, to: [{networks: [0.0.0.0/0]}]}
  - name: watched
    tier: Admin
    priority: 0
    audit: true
    subject: {name: ns/one}
    egress:
      - {name: udp, action: Deny, to: [{networks: [192.0.2.0/24]}], protocols: [{udp: {destinationPort: {number: 7001}}}]}
`

// TestDenied: what policies deny is in records, in the file and by IPFIX, with the rule and
// to the packet that the rule has counted, by both paths; and what is only audited, which
// passes, with the rule that would deny it. The other flows are as without policies.
func TestDenied(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool", "nfcapd", "nfdump", "nfacctd", "ss")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			t.Parallel()
			n := newTopology(t, fmt.Sprintf(heldConfig, path))
			dir := t.TempDir()
			stop := collector(t, n.server, "nfcapd", "-w", dir, "-p", "4739", "-b", server, "-t", "3600", "-P", filepath.Join(t.TempDir(), "pid"))
			printed, stopPmacct := n.pmacct("4740")
			n.udpListens(n.server, "4739")
			n.udpListens(n.server, "4740")
			n.daemon.Stop()
			n.daemon.Start() // with somebody who hears the templates
			w := n.put()
			n.deny(w.Run().First)
			out := n.natless("flows", "--verdict", "denied")
			if !strings.Contains(out, "denied by web egress rest") || strings.Contains(out, "watched") {
				t.Error(out)
			}
			if out := n.natless("flows", "--top", "rule"); !strings.Contains(out, "web egress rest") || !strings.Contains(out, "watched egress udp") {
				t.Error(out)
			}
			counted := n.rules()
			n.daemon.Stop()
			n.wantDenied(counted)
			n.heardAll("4739", "4740")
			stop()
			stopPmacct()
			n.heard(dir, printed)
		})
	}
}

// pmacct runs nfacctd, which prints to a file what became of flows, by port, when it is
// stopped.
func (n *topology) pmacct(port string) (printed string, stop func()) {
	n.t.Helper()
	dir := n.t.TempDir()
	printed = filepath.Join(dir, "printed")
	for name, text := range map[string]string{
		"primitives": "name=status field_type=89 len=1 semantics=u_int\nname=event field_type=233 len=1 semantics=u_int\n",
		"conf": "daemonize: false\nnfacctd_ip: " + server + "\nnfacctd_port: " + port + "\nplugins: print[a]\naggregate_primitives: " +
			filepath.Join(dir, "primitives") + "\naggregate[a]: src_port, dst_port, proto, status, event\nprint_output[a]: csv\nprint_output_file[a]: " +
			printed + "\nprint_refresh_time[a]: 3600\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	return printed, collector(n.t, n.server, "nfacctd", "-f", filepath.Join(dir, "conf"))
}

// heard holds what nfdump and nfacctd say of denied flows against what was denied. That
// nfdump shows no forwardingStatus is nfdump's.
func (n *topology) heard(dir, printed string) {
	n.t.Helper()
	out, err := exec.Command("nfdump", "-R", dir, "-q", "-N", "-o", "fmt:%pr,%dp,%ipkt,%ibyt", "proto udp and dst port 7002").CombinedOutput()
	if got := strings.Join(strings.Fields(string(out)), ""); !strings.HasPrefix(got, "17,7002,1,34") {
		n.t.Errorf("nfdump: %v, %s", err, out)
	}
	var b []byte
	within(n.t, 20*time.Second, "what nfacctd prints at its end", func() bool {
		b, _ = os.ReadFile(printed)
		return strings.Count(string(b), "\n") >= 5
	})
	for _, want := range []string{",7002,udp,129,3,1,34\n", ",7002,tcp,129,3,", "7003,", ",udp,129,3,2,70\n", ",7001,udp,64,0,3,105\n"} {
		if !strings.Contains(string(b), want) {
			n.t.Errorf("nfacctd has no %q in\n%s", want, b)
		}
	}
}

// deny has packets of all kinds denied, and some audited.
func (n *topology) deny(own uint16) {
	n.t.Helper()
	var audited, remote net.PacketConn
	var err error
	n.server.Do(func() {
		if audited, err = net.ListenPacket("udp4", server+":7001"); err == nil {
			remote, err = net.ListenPacket("udp4", server+":7003")
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { audited.Close(); remote.Close() })
	c := n.dial("udp", "7001")
	for range 3 {
		c.Write([]byte("audited"))
	}
	b := make([]byte, 100)
	for range 3 {
		audited.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, _, err := audited.ReadFrom(b); err != nil {
			n.t.Error(err)
		}
	}
	c.Close()
	c = n.dial("udp", "7002")
	c.Write([]byte("denied")) // and hears of it
	c.Close()
	n.w.Do(func() { _, err = net.DialTimeout("tcp", "["+serverv6+"]:7002", 20*time.Second) })
	if !errors.Is(err, syscall.EACCES) {
		n.t.Errorf("TCP that is denied: %v", err)
	}
	to := &net.UDPAddr{IP: net.IPv4(198, 51, 100, 8), Port: int(own)}
	for range 2 {
		if _, err := remote.WriteTo([]byte("unasked"), to); err != nil {
			n.t.Error(err)
		}
	}
	within(n.t, 20*time.Second, "what was denied", func() bool { return n.rules()["web egress rest"] >= 4 })
}

// rules are the packets that rules have denied, or would have.
func (n *topology) rules() map[string]uint64 {
	n.t.Helper()
	all, err := n.daemon.Client().Policies(n.t.Context(), api.PolicyQuestion{})
	if err != nil {
		n.t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, p := range all.Policies {
		for _, r := range p.Rules {
			counts[r.Rule] = r.Denied + r.Audited
		}
	}
	return counts
}

// wantDenied holds the file of records against what rules have counted.
func (n *topology) wantDenied(counted map[string]uint64) {
	n.t.Helper()
	got, flows := map[string]uint64{}, map[string]api.Flow{}
	for _, f := range records(n.t, n.file) {
		if f.Workload != "ns/one" {
			continue
		}
		got[f.Policy] += f.Sent.Packets + f.Received.Packets
		if denied := f.Policy == "web egress rest"; denied != (f.Verdict == "denied") || f.Serial == 0 {
			n.t.Errorf("%+v", f)
		}
		if f.Verdict == "denied" {
			flows[fmt.Sprintf("%s %s %d", f.Proto, f.Initiator, f.RemotePort)] = f
		}
	}
	for rule, want := range counted {
		if got[rule] != want {
			n.t.Errorf("%s: %d packets in records, %d counted", rule, got[rule], want)
		}
	}
	udp, tcp, in := flows["udp local 7002"], flows["tcp local 7002"], flows["udp remote 7003"]
	if udp.Sent.Bytes != 34 || udp.Sent.Packets != 1 || tcp.Sent.TCPFlags != "S" || tcp.Sent.Packets == 0 || in.Received.Packets != 2 || in.Received.Bytes != 2*35 {
		n.t.Errorf("%+v\n%+v\n%+v", udp, tcp, in)
	}
}

// TestShed: what a workload gives way with, here for a limit of its operator's, is in a
// record, and together with what was forwarded it is all that was sent.
func TestShed(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	const sent = 400
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			t.Parallel()
			n := newTopology(t, "fast_path: "+path+"\nflows: {json: {path: FILE}}\nshedding: {workloads: [{name: ns/one, sent: {packets: 20}}]}\n")
			w := n.put()
			c := n.dial("udp", "7001")
			total := uint64(0)
			used := func() (forwarded, shed uint64) {
				now, err := n.daemon.Client().Get(t.Context(), w.Key)
				if err != nil || now.Traffic == nil {
					t.Fatalf("%+v, %v", now, err)
				}
				return now.Traffic.Sent.Packets, now.Shed
			}
			within(t, 20*time.Second, "a limit that holds", func() bool {
				for range sent {
					if _, err := c.Write([]byte("much")); err == nil { // else it has heard of another one
						total++
					}
				}
				_, shed := used()
				return shed > 0
			})
			within(t, 20*time.Second, "all that was sent", func() bool { forwarded, shed := used(); return forwarded+shed >= total })
			forwarded, shed := used()
			n.daemon.Stop()
			got := map[string]api.FlowCount{}
			for _, f := range records(t, n.file) {
				switch {
				case f.Verdict == "shed" && (f.Workload != "ns/one" || f.Serial != w.Serial || f.Initiator != "local" || !f.Remote.IsUnspecified() || f.Local != w.Address):
					t.Errorf("%+v", f)
				case f.Verdict == "shed" || f.Proto == "udp":
					sum := got[f.Verdict]
					got[f.Verdict] = api.FlowCount{Packets: sum.Packets + f.Sent.Packets, Bytes: sum.Bytes + f.Sent.Bytes}
				}
			}
			want := map[string]api.FlowCount{"shed": {Packets: shed, Bytes: 32 * shed}, "forward": {Packets: forwarded, Bytes: 32 * forwarded}}
			for verdict, n := range want {
				if got[verdict] != n {
					t.Errorf("%s: records have %+v, want %+v", verdict, got[verdict], n)
				}
			}
		})
	}
}
