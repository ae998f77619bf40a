//go:build linux

package monitor

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

// fields are what tshark is asked for.
var fields = []string{"_ws.malformed", "frame.interface_name", "frame.packet_id", "frame.time_epoch", "frame.len", "frame.cap_len", "frame.comment",
	"ipv6.src", "ipv6.dst", "ipv6.hlim", "ip.src", "ip.dst", "ip.ttl", "udp.srcport", "udp.dstport", "udp.payload", "icmpv6.type"}

// row is what tshark says of a packet, of several headers about the first.
type row map[string]string

// tshark reads a file, and finds nothing malformed or cut off in it.
func tshark(t testing.TB, file string) (rows []row) {
	t.Helper()
	args := []string{"-r", file, "-n", "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var problems bytes.Buffer
	cmd := exec.Command("tshark", args...)
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil || strings.Contains(problems.String(), "cut short") || strings.Contains(problems.String(), "damaged") {
		t.Fatalf("tshark: %v\n%s", err, problems.String())
	}
	for l := range strings.Lines(string(out)) {
		r := row{}
		for i, value := range strings.Split(strings.TrimSuffix(l, "\n"), "|") {
			r[fields[i]] = value
		}
		if r["_ws.malformed"] != "" {
			t.Errorf("malformed: %v", r)
		}
		rows = append(rows, r)
	}
	return rows
}

// with are the rows that have these fields, each name followed by its value.
func with(rows []row, pairs ...string) (found []row) {
next:
	for _, r := range rows {
		for i := 0; i < len(pairs); i += 2 {
			if r[pairs[i]] != pairs[i+1] {
				continue next
			}
		}
		found = append(found, r)
	}
	return found
}

// whole gives the packets of a file with which tshark and capinfos find nothing
// wrong.
func whole(t testing.TB, file string) []row {
	t.Helper()
	rows := tshark(t, file)
	out, err := exec.Command("capinfos", "-M", file).CombinedOutput()
	if err != nil {
		t.Fatalf("capinfos: %v\n%s", err, out)
	}
	for _, want := range []string{`File type: +pcapng\n`, `File encapsulation: +rawip\n`, `timestamp precision: +nanoseconds`,
		`Number of interfaces in file: +2\n`, `Name = natless0 in\n`, `Name = natless0 out\n`, `Capture application: +natless `,
		fmt.Sprintf(`Number of packets: +%d\n`, len(rows))} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("capinfos does not say %s:\n%s", want, out)
		}
	}
	return rows
}

// Both sides of each packet are there, translated as they should be, and tell
// what was done to them.
func TestCapture(t *testing.T) {
	netns.Require(t, "tshark", "capinfos")
	n := newTopology(t)
	file := filepath.Join(t.TempDir(), "all.pcapng")
	v := n.watch("capture", "-w", file, "not net ff00::/8")
	n.traffic()
	n.w.Run("ping", "-c", "2", "-i", "0.1", server6)
	grown, size := time.Now(), int64(0)
	within(t, "no more is written", func() bool {
		if info, err := os.Stat(file); err == nil && info.Size() != size {
			grown, size = time.Now(), info.Size()
		}
		return time.Since(grown) > time.Second
	})
	_, said := v.end()

	rows := whole(t, file)
	in, out := with(rows, "frame.interface_name", "natless0 in"), with(rows, "frame.interface_name", "natless0 out")
	if len(in) != 10 || len(out) != 9 || len(rows) != 19 {
		t.Errorf("%d packets came, %d went", len(in), len(out))
	}
	if !regexp.MustCompile(`(?m)^10 packets captured, \d+ passed$`).MatchString(said) {
		t.Errorf("said %s", said)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: who captures may read, nobody else", info.Mode(), err)
	}

	const web = "; workload default/web; mapping 2001:db8:6::3/128 ↔ 203.0.113.0/32 ports 1024-2047"
	const plain = "; mapping 2001:db8:6::2/128 ↔ 198.51.100.2/32"
	const refused = "port-outside-set/replied: dropped: the port does not belong to the workload; an ICMP error of the translator went back"
	for _, c := range []struct {
		rows []row
		want string
	}{
		{with(in, "ipv6.src", workload6, "udp.dstport", "53", "ipv6.dst", server6), "forward4: translated to IPv4" + plain},
		{with(out, "ip.src", workload4, "udp.dstport", "53"), "forward4: translated to IPv4" + plain},
		{with(in, "ip.dst", shared4), "forward6: translated to IPv6" + web},
		{with(in, "ipv6.src", web6, "udp.srcport", "40000"), refused + web},
		{with(out, "ipv6.src", "2001:db8::1"), refused + web},
		{with(in, "ipv6.dst", "2001:db8:64::7f00:1"), "never-translated: dropped: an address that is never translated (loopback, link-local, multicast, reserved)" + plain},
	} {
		if len(c.rows) != 1 || c.rows[0]["frame.comment"] != c.want {
			t.Errorf("%v, want %s", c.rows, c.want)
		}
	}
	n.sidesAgree(rows)
}

// sidesAgree compares both sides of the web workload's datagram.
func (n *topology) sidesAgree(rows []row) {
	n.Helper()
	port := fmt.Sprint(n.web.Ports.Min())
	six, four := with(rows, "ipv6.src", web6, "udp.srcport", port), with(rows, "ip.src", shared4, "udp.srcport", port)
	if len(six) != 1 || len(four) != 1 {
		n.Fatalf("IPv6 %v, IPv4 %v", six, four)
	}
	want := row{"ipv6.dst": server6, "ipv6.hlim": "63", "ip.dst": server4, "ip.ttl": "62"}
	for name, side := range map[string]row{"IPv6": six[0], "IPv4": four[0]} {
		for _, same := range []string{"frame.packet_id", "frame.time_epoch", "udp.dstport", "udp.payload"} {
			want[same] = six[0][same]
		}
		for field, value := range side {
			if w := want[field]; value != "" && w != "" && value != w {
				n.Errorf("%s: %s is %s, want %s", name, field, value, w)
			}
		}
	}
	if six[0]["frame.len"] != "248" || four[0]["frame.len"] != "228" || len(six[0]["udp.payload"]) != 400 || six[0]["frame.packet_id"] == "" {
		n.Errorf("%v\n%v", six[0], four[0])
	}
	at, err := strconv.ParseFloat(six[0]["frame.time_epoch"], 64)
	if err != nil {
		moment, parseErr := time.Parse(time.RFC3339Nano, six[0]["frame.time_epoch"])
		at, err = float64(moment.Unix()), parseErr
	}
	if err != nil || time.Since(time.Unix(int64(at), 0)).Abs() > time.Minute {
		n.Errorf("time %s, %v", six[0]["frame.time_epoch"], err)
	}
}

// Superpackets stay whole, and say what they are; a snap length cuts.
func TestSuperpackets(t *testing.T) {
	netns.Require(t, "tshark", "capinfos")
	n := newTopology(t)
	dir := t.TempDir()
	long, short := filepath.Join(dir, "whole.pcapng"), filepath.Join(dir, "short.pcapng")
	v := n.watch("capture", "-w", long, "tcp", "and", "greater", "3000", "-c", "20")
	cut := n.start("capture", "-w", short, "-s", "100", "--proto", "tcp", "--address", server4, "-c", "40")
	cut.looks()
	n.transfer(8 << 20)
	v.wait()
	cut.wait()

	packets, cuts := whole(t, long), whole(t, short)
	if len(packets) != 40 || len(cuts) != 80 {
		t.Errorf("%d and %d packets", len(packets), len(cuts))
	}
	for _, r := range with(packets, "frame.interface_name", "natless0 in") {
		if r["frame.len"] != r["frame.cap_len"] || !regexp.MustCompile(`^forward4: .*; superpacket, gso_size 1\d\d\d$`).MatchString(r["frame.comment"]) {
			t.Errorf("superpacket %v", r)
		}
	}
	shortened := 0
	for _, r := range cuts {
		length, _ := strconv.Atoi(r["frame.len"])
		if kept, _ := strconv.Atoi(r["frame.cap_len"]); kept != min(length, 100) {
			t.Errorf("%d bytes of %d", kept, length)
		} else if kept < length {
			shortened++
		}
	}
	if shortened == 0 {
		t.Error("nothing was cut")
	}
}

// transfer sends so many bytes from w to server over TCP.
func (n *topology) transfer(size int) {
	n.Helper()
	var l net.Listener
	var c net.Conn
	var err error
	n.server.Do(func() { l, err = net.Listen("tcp4", server4+":0") })
	if err != nil {
		n.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n.w.Do(func() { c, err = net.DialTimeout("tcp", net.JoinHostPort(server6, port), 5*time.Second) })
	if err != nil {
		n.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		n.Fatal(err)
	}
	defer peer.Close()
	go func() { c.Write(make([]byte, size)); c.Close() }()
	if got, err := io.Copy(io.Discard, peer); err != nil || got != int64(size) {
		n.Errorf("%d bytes arrived, %v", got, err)
	}
}

// A file is complete when its size is limited and when the daemon is killed;
// a pipe takes what a file takes.
func TestCaptureEnds(t *testing.T) {
	netns.Require(t, "tshark", "capinfos")
	n := newTopology(t)
	dir := t.TempDir()
	limited, killed := filepath.Join(dir, "limited.pcapng"), filepath.Join(dir, "killed.pcapng")
	v, k := n.watch("capture", "-w", limited, "--max-size", "20K"), n.start("capture", "-w", killed)
	k.looks()
	pipe := exec.Command("sh", "-c", v.cmd.Path+" capture -w - -c 5 udp and dir 6to4 --socket "+n.daemon.Socket+
		" | tshark -r - -n -T fields -e frame.interface_name -e frame.comment")
	var piped output.Buffer
	pipe.Stdout = &piped
	if err := pipe.Start(); err != nil {
		t.Fatal(err)
	}
	k.looks()
	for range 20 {
		n.flood(10, 500)
		time.Sleep(10 * time.Millisecond)
	}
	v.wait()
	if err := pipe.Wait(); err != nil {
		t.Error(err)
	}
	if want := strings.Repeat("natless0 in\tforward4: translated to IPv4; mapping 2001:db8:6::2/128 ↔ 198.51.100.2/32\n"+
		"natless0 out\tforward4: translated to IPv4; mapping 2001:db8:6::2/128 ↔ 198.51.100.2/32\n", 5); piped.String() != want {
		t.Error(cmp.Diff(want, piped.String()))
	}
	info, err := os.Stat(limited)
	if err != nil || info.Size() > 20<<10 || info.Size() < 18<<10 {
		t.Errorf("%v, %v", info, err)
	}
	whole(t, limited)

	time.Sleep(300 * time.Millisecond)
	n.daemon.Kill()
	if err := k.exit(); err == nil || !strings.Contains(k.errors.String(), "has gone in the middle") {
		t.Errorf("%v: %s", err, k.errors.String())
	}
	if got := len(whole(t, killed)); got < 200 {
		t.Errorf("%d packets", got)
	}
	if missing := statistics(t, killed); missing[0] != missing[1] || missing[0] == pcapgo.NgNoValue64 {
		t.Errorf("missing: %v", missing)
	}
}

// statistics reads how many packets the file says are missing, by interface.
func statistics(t testing.TB, file string) (missing [2]uint64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := 0
	o := pcapgo.DefaultNgReaderOptions
	o.StatisticsCallback = func(id int, s pcapgo.NgInterfaceStatistics) {
		missing[id], found = s.PacketsDropped, found+1
	}
	r, err := pcapgo.NewNgReader(f, o)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, _, err = r.ReadPacketData()
	}
	if err != io.EOF || found != 2 {
		t.Errorf("%s: %v, %d interfaces with statistics", file, err, found)
	}
	return missing
}
