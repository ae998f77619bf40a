//go:build linux

package flows

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

// count is packets and bytes, and TCP flags, sent and received.
type count struct {
	packets, bytes, flags [2]uint64
}

// capture counts, with tshark, what is on the server's wire, by flow as records have
// them.
type capture struct {
	t    testing.TB
	cmd  *exec.Cmd
	file string
}

func startCapture(t testing.TB, ns *netns.NS) *capture {
	t.Helper()
	c := &capture{t: t, file: filepath.Join(t.TempDir(), "wire.pcap")}
	c.cmd = ns.Command("tcpdump", "-i", "eth0", "--immediate-mode", "-U", "-n", "-B", "16384", "-w", c.file, "ip")
	said, err := c.cmd.StderrPipe()
	if err == nil {
		err = netns.Start(c.cmd)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1024)
	for all := ""; !strings.Contains(all, "listening on"); {
		n, err := said.Read(b)
		if all += string(b[:n]); err != nil {
			t.Fatalf("tcpdump: %v: %s", err, all)
		}
	}
	go io.Copy(io.Discard, said)
	return c
}

func (c *capture) stop() map[string]count {
	c.t.Helper()
	for before := int64(-1); ; time.Sleep(200 * time.Millisecond) { // until it has written all
		info, err := os.Stat(c.file)
		if err != nil || info.Size() == before {
			break
		}
		before = info.Size()
	}
	c.cmd.Process.Signal(os.Interrupt)
	c.cmd.Wait()
	args := []string{"-r", c.file, "-n", "-o", "ip.defragment:FALSE", "-T", "fields"}
	for _, f := range []string{"ip.src", "ip.dst", "ip.proto", "ip.len", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport", "icmp.ident", "tcp.flags", "ip.frag_offset"} {
		args = append(args, "-e", f)
	}
	out, err := exec.Command("tshark", args...).Output()
	if err != nil {
		c.t.Fatalf("tshark: %v", err)
	}
	all := map[string]count{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) < 11 || f[0] == "" {
			continue
		}
		sport, dport := f[4]+f[6], f[5]+f[7]
		if f[2] == "1" {
			sport, dport = strings.Split(f[8], ",")[0], ""
			dport = sport
		}
		d, local, remote, lport, rport := 0, f[0], f[1], sport, dport
		if f[0] == server {
			d, local, remote, lport, rport = 1, f[1], f[0], dport, sport
		}
		key := strings.Join([]string{f[2], local, lport, remote, rport}, " ")
		n := all[key]
		length, _ := strconv.ParseUint(f[3], 10, 64)
		flags, _ := strconv.ParseUint(strings.TrimPrefix(f[9], "0x"), 16, 64)
		n.packets[d]++
		n.bytes[d] += length
		n.flags[d] |= flags & 0xff
		all[key] = n
	}
	return all
}

// counted sums up records in the same way.
func counted(all []api.Flow) map[string]count {
	sums := map[string]count{}
	for _, f := range all {
		lport, rport := "", ""
		if f.LocalPort|f.RemotePort != 0 {
			lport, rport = strconv.Itoa(int(f.LocalPort)), strconv.Itoa(int(f.RemotePort))
		}
		if f.Proto == "icmp" {
			lport = strconv.Itoa(int(f.ICMPID))
			rport = lport
		}
		proto := map[string]string{"icmp": "1", "tcp": "6", "udp": "17"}[f.Proto]
		key := strings.Join([]string{proto, f.Local.String(), lport, f.Remote.String(), rport}, " ")
		n := sums[key]
		for d, c := range []api.FlowCount{f.Sent, f.Received} {
			n.packets[d] += c.Packets
			n.bytes[d] += c.Bytes
			for i, name := range "FSRP.UEW" {
				if strings.ContainsRune(c.TCPFlags, name) {
					n.flags[d] |= 1 << i
				}
			}
		}
		sums[key] = n
	}
	return sums
}

// serve echoes TCP and UDP on the server.
func (n *topology) serve() (tcp, udp string) {
	n.t.Helper()
	var l net.Listener
	var p net.PacketConn
	var err error
	n.server.Do(func() {
		if l, err = net.Listen("tcp4", server+":0"); err == nil {
			p, err = net.ListenPacket("udp4", server+":0")
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	go func() {
		b := make([]byte, 65536)
		for {
			k, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			p.WriteTo(b[:k], from)
		}
	}()
	_, tcp, _ = net.SplitHostPort(l.Addr().String())
	_, udp, _ = net.SplitHostPort(p.LocalAddr().String())
	return tcp, udp
}

// talk has the workload talk to the server: TCP of all sizes, datagrams of one flow
// that take both ways (long ones are fragments, which the daemon translates), pings.
func (n *topology) talk(tcp, udp string, conns int) {
	n.t.Helper()
	var all sync.WaitGroup
	for i := range conns {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			c := n.dial("tcp", tcp)
			if c == nil {
				return
			}
			sent := make([]byte, r.IntN(200_000))
			go func() { c.Write(sent); c.(*net.TCPConn).CloseWrite() }()
			if got, err := io.Copy(io.Discard, c); err != nil || int(got) != len(sent) {
				n.t.Errorf("%d bytes of %d, %v", got, len(sent), err)
			}
			c.Close()
		})
	}
	for i := range 5 {
		all.Go(func() {
			c := n.dial("udp", udp)
			if c == nil {
				return
			}
			defer c.Close()
			b := make([]byte, 65536)
			for k := range 20 {
				size := 100 + k
				if k%5 == i%5 {
					size = 3000
				}
				c.Write(make([]byte, size))
				c.SetReadDeadline(time.Now().Add(5 * time.Second))
				if got, err := c.Read(b); err != nil || got != size {
					n.t.Errorf("datagram of %d: %d, %v", size, got, err)
				}
			}
		})
	}
	all.Go(func() { n.w.Run("ping", "-n", "-q", "-c", "5", "-i", "0.02", "-W", "5", serverv6) })
	all.Wait()
}

func (n *topology) dial(network, port string) (c net.Conn) {
	var err error
	n.w.Do(func() { c, err = net.DialTimeout(network, net.JoinHostPort(serverv6, port), 10*time.Second) })
	if err != nil {
		n.t.Error(err)
		return nil
	}
	return c
}

// TestSameAsTheWire: the records of all flows, whichever way their packets took, have
// the packets, bytes and TCP flags that tshark counts on the wire; each has its
// workload, and a flow of both ways is one.
func TestSameAsTheWire(t *testing.T) {
	netns.Require(t, netns.Root, "tcpdump", "tshark", "ethtool", "ping")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			n := newTopology(t, "flows: {json: {path: FILE}}\nfast_path: "+path+"\n")
			w := n.put()
			tcp, udp := n.serve()
			c := startCapture(t, n.server)
			n.talk(tcp, udp, 20)
			want := c.stop()
			if out := n.natless("flows", "--proto", "udp", "--top", "port", "-o", "json"); !strings.Contains(out, "udp/"+udp) {
				t.Errorf("natless flows: %s", out)
			}
			fast := n.status().FastPath.Translated["forward4"].Packets
			if on := path == "required"; on != (fast > 100) {
				t.Errorf("the kernel translated %d packets", fast)
			}
			n.daemon.Stop()
			all := records(t, n.file)
			got := counted(all)
			for key, is := range want {
				if got[key] != is {
					t.Errorf("%s: records have %+v, the wire %+v", key, got[key], is)
				}
			}
			for key, is := range got {
				if want[key].packets == [2]uint64{} {
					t.Errorf("%s: not on the wire: %+v", key, is)
				}
			}
			if len(want) < 27 { // 20 of TCP, 5 of UDP and one of their fragments, one of ICMP
				t.Errorf("%d flows", len(want))
			}
			for _, f := range all {
				if f.Serial != w.Serial || f.Workload != "ns/one" || f.Initiator != "local" && f.LocalPort != 0 {
					t.Errorf("whose is it: %+v", f)
				}
				if f.Proto == "tcp" && f.Reason == "idle" || time.Since(f.Start) > time.Minute || f.End.Before(f.Start) {
					t.Errorf("times and reasons: %+v", f)
				}
			}
			if records := len(all); records > len(want)+2 { // a flow may be cut where it pauses
				t.Errorf("%d records of %d flows", records, len(want))
			}
		})
	}
}

// TestFlowsOff: nothing is recorded, and who asks is told why.
func TestFlowsOff(t *testing.T) {
	netns.Require(t, netns.Root, "ethtool")
	n := newTopology(t, "")
	err := n.daemon.Client().Flows(t.Context(), api.FlowFilter{Open: true}, func(api.SeenFlow) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "flows are not recorded") {
		t.Error(err)
	}
	if s := n.status().Flows; s.Enabled {
		t.Errorf("%+v", s)
	}
}
