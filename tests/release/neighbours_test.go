//go:build linux

package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

// neighbours are commits of this history, until there is a release before this one: then
// its tag is. What each differs in is what it is for.
var neighbours = []struct {
	name, commit string
	registry     string // layout of its registry
	inside       bool   // it knows IPv4 inside
}{
	{"layouts of late", "d69067910e92969d928e0b13bfb5a3bbe47368f5", "3", true},
	{"another layout of the registry and of the fast path", "c90de5ac1862ee982eb52bce6a9d448326ae902a", "2", false},
}

const neighbourVersion = "0.0.9"

// built makes a neighbour's programs of the history, or says that there is none.
func built(t *testing.T, commit string) string {
	t.Helper()
	if exec.Command("git", "-C", root, "cat-file", "-e", commit).Run() != nil {
		t.Skipf("%s is not in the history: this is a shallow clone", commit)
	}
	dir := t.TempDir()
	script := `set -e -o pipefail
git -C "$0" archive "$1" | tar -x -C "$2"
cd "$2"
CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$3 -X github.com/natless/natless/cmd/internal/version.linked=$3" -o bin/ ./cmd/...`
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("bash", "-c", script, here, commit, dir, neighbourVersion).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir + "/bin"
}

// site is a workload, the host and a server beyond it, and which version runs there.
type site struct {
	t                   *testing.T
	pods                [2]*netns.NS
	host, server        *netns.NS
	dir, socket, config string
	registry            string
	natlessd            *exec.Cmd
	layouts             map[string]int // of the fast path, by the programs' folder
	log                 output.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	netns.Require(t, netns.Root, "ip", "ping", "sysctl", "nsenter", "nft")
	s := &site{t: t, host: netns.New(t, "host"), server: netns.New(t, "server"), dir: t.TempDir(), layouts: map[string]int{}}
	netns.Veth(t, s.host, "eth0", s.server, "eth0")
	s.host.IP("addr add 192.0.2.1/24 dev eth0")
	s.server.IP("addr add 192.0.2.2/24 dev eth0")
	s.server.IP("route add default via 192.0.2.1")
	for i := range s.pods {
		s.pods[i] = netns.New(t, fmt.Sprint("pod", i))
		gateway := fmt.Sprintf("2001:db8:6:%d::1", i)
		netns.Veth(t, s.pods[i], "eth0", s.host, fmt.Sprint("pod", i))
		s.host.IP("addr add " + gateway + "/64 dev pod" + fmt.Sprint(i))
		s.pods[i].IP(fmt.Sprintf("addr add 2001:db8:6:%d::2/64 dev eth0", i))
		s.pods[i].IP("route add default via " + gateway)
	}
	s.socket, s.registry, s.config = s.dir+"/natless.sock", s.dir+"/registry.db", s.dir+"/natless.yaml"
	text := fmt.Sprintf("uplink: eth0\nprefix: 2001:db8:64::/96\naddresses: {ipv4: 192.0.2.254, ipv6: \"2001:db8::1\"}\n"+
		"pools: [{name: default, ipv4: 198.51.100.0/30, ports_per_workload: 1024}]\napi: {socket: %q}\nregistry: {path: %q}\n", s.socket, s.registry)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the daemons said:\n%s", s.log.String())
		}
	})
	return s
}

// start starts a version's daemon as the unit does, and waits until it is ready, as the
// same version's client sees it.
func (s *site) start(bin string) {
	s.t.Helper()
	s.natlessd = s.host.Command(bin+"/natlessd", "--config", s.config, "--handover")
	s.natlessd.Stdout, s.natlessd.Stderr = &s.log, &s.log
	if err := s.natlessd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if s.host.Command(bin+"/natless", "--socket", s.socket, "status", "--ready").Run() == nil {
			s.layouts[bin] = s.fastPath(bin).Layout
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s/natlessd is not ready:\n%s", bin, s.log.String())
		}
	}
}

func (s *site) stop() {
	if s.natlessd == nil {
		return
	}
	s.natlessd.Process.Signal(syscall.SIGTERM)
	s.natlessd.Wait()
	s.natlessd = nil
}

// natless runs a version's command, which must succeed.
func (s *site) natless(bin string, args ...string) string {
	s.t.Helper()
	out, err := s.host.Command(bin+"/natless", append([]string{"--socket", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Errorf("%s/natless %s: %v\n%s", bin, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// cni has a version's plugin do something for a pod.
func (s *site) cni(bin, command string, pod int) {
	s.t.Helper()
	cmd := s.plugin(bin, command, pod, "")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("%s/natless-cni %s: %v\n%s", bin, command, err, out)
	}
}

// plugin is a version's plugin, with more in the network's configuration.
func (s *site) plugin(bin, command string, pod int, more string) *exec.Cmd {
	cmd := s.host.Command(bin + "/natless-cni")
	path := s.pods[pod].Path
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, fmt.Sprint("CNI_CONTAINERID=c", pod), "CNI_IFNAME=eth0", "CNI_NETNS="+path, "CNI_PATH="+bin)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"pods","type":"natless-cni","socket":%q,"prevResult":{"cniVersion":"1.0.0",
		"interfaces":[{"name":"eth0","sandbox":%q}],"ips":[{"address":"2001:db8:6:%d::2/64","gateway":"2001:db8:6:%d::1","interface":0}]}%s}`, s.socket, path, pod, pod, more))
	return cmd
}

// wishes: a plugin that is newer than the daemon gives what both know, and says who does
// not know the rest.
func (s *site) wishes(bin string, known bool) {
	s.t.Helper()
	s.cni(bin, "ADD", 1)
	s.reaches(1)
	s.cni(bin, "CHECK", 1)
	s.cni(bin, "DEL", 1)
	if known {
		return
	}
	for _, wish := range []string{`"ipv4":"inside"`, `"labels":{"app":"web"}`} {
		out, err := s.plugin(bin, "ADD", 1, ","+wish).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "natlessd: ") || !strings.Contains(string(out), "it is older than this plugin") {
			s.t.Errorf("%s, which the older daemon does not know: %v\n%s", wish, err, out)
		}
		s.cni(bin, "DEL", 1)
	}
}

// has is what the pods have, by the daemon that runs.
func (s *site) has(bin string) string {
	s.t.Helper()
	var rows []struct {
		ID    string `json:"container_id"`
		IPv4  any    `json:"ipv4"`
		Addr  any    `json:"address"`
		Ports any    `json:"ports"`
	}
	out := s.natless(bin, "workloads", "-o", "json")
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) == 0 {
		s.t.Errorf("workloads: %v\n%s", err, out)
	}
	return fmt.Sprint(rows)
}

func (s *site) reaches(pod int) {
	s.t.Helper()
	s.pods[pod].Run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "2001:db8:64::192.0.2.2")
}

// owned is an identifier that is pod 0's: pings with another are the daemon's to tag.
const owned = "1030"

// inKernel waits until pod 0's pings are the fast path's.
func (s *site) inKernel(bin string) {
	s.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		s.pods[0].Run("ping", "-n", "-e", owned, "-c", "3", "-i", "0.2", "-W", "5", "2001:db8:64::192.0.2.2")
		if s.fastPath(bin).Translated["forward4"].Packets >= 3 {
			return
		}
	}
	s.t.Fatalf("the fast path does not translate the pod's pings:\n%s", s.natless(bin, "status"))
}

// adopted: what the other daemon left in the kernel goes on, if its layout is the same,
// and is replaced otherwise.
func (s *site) adopted(bin, other string) {
	s.t.Helper()
	is := s.fastPath(bin)
	if want := s.layouts[bin] == s.layouts[other]; is.Adopted != want {
		s.t.Errorf("the fast path of layout %d is adopted by one of layout %d: %v", s.layouts[other], s.layouts[bin], is.Adopted)
	}
	s.t.Logf("layout %d after layout %d, adopted: %v", s.layouts[bin], s.layouts[other], is.Adopted)
}

func (s *site) fastPath(bin string) api.FastPath {
	s.t.Helper()
	var status api.Status
	if err := json.Unmarshal([]byte(s.natless(bin, "status", "-o", "json")), &status); err != nil {
		s.t.Fatal(err)
	}
	return status.FastPath
}

// pings has a pod ping the server until what is returned is called, which says how many
// answers were missing: the fast path, the older one's and then the newer one's, goes on.
func (s *site) pings(pod int) func() {
	s.t.Helper()
	ping := s.pods[pod].Command("ping", "-n", "-q", "-e", owned, "-i", "0.05", "-W", "1", "2001:db8:64::192.0.2.2")
	var said output.Buffer
	ping.Stdout, ping.Stderr = &said, &said
	if err := ping.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		time.Sleep(time.Second) // of the newer one alone
		ping.Process.Signal(os.Interrupt)
		ping.Wait()
		var sent, received int
		for line := range strings.Lines(said.String()) {
			fmt.Sscanf(line, "%d packets transmitted, %d received", &sent, &received)
		}
		if s.t.Logf("from one daemon to the other: %d pings, %d answers", sent, received); sent < 20 || received < sent*9/10 {
			s.t.Errorf("%s", said.String())
		}
	}
}

// commands are what an operator, or a script, asks a daemon of another version.
var commands = [][]string{{"status"}, {"status", "--ready"}, {"status", "-o", "json"}, {"workloads"}, {"pools"}, {"pools", "-o", "json"}, {"whois", "198.51.100.0:1024"},
	{"reload"}, {"explain", "ipv6", "src", "2001:db8:6:0::2", "dst", "2001:db8:64::192.0.2.2", "tcp", "sport", "1024", "dport", "80"}}

// TestNeighbours: a version and one before it, each way.
func TestNeighbours(t *testing.T) {
	for _, n := range neighbours {
		t.Run(n.name, func(t *testing.T) {
			s := newSite(t)
			old, next := built(t, n.commit), filepath.Join(unpack(t, file(t, "natless-*-linux-amd64.tar.gz")), "natless-"+version(t)+"-linux-amd64")
			had, backup := s.upgrade(old, next, n.inside)
			s.adopted(next, old)
			s.cni(old, "CHECK", 0)
			s.cni(old, "ADD", 1) // a plugin that the engine was not told to replace
			s.reaches(1)
			s.cni(old, "DEL", 1)
			if got := s.has(next); got != had {
				t.Errorf("after the older plugin's DEL there is %s, not %s", got, had)
			}
			s.inKernel(next)
			s.stop()
			if n.registry != registry.Layout {
				s.refused(old, next)
				s.natless(old, "registry", "restore", backup, s.registry) // the remedy of procedures.md
			}
			s.start(old)
			s.adopted(old, next)
			s.reaches(0)
			if got := s.has(old); got != had {
				t.Errorf("after the downgrade there is %s, not %s", got, had)
			}
		})
	}
}

// upgrade goes from one version to the other, and gives what the pod had before and
// after, and a backup of before.
func (s *site) upgrade(old, next string, inside bool) (had, backup string) {
	s.t.Helper()
	s.start(old)
	s.cni(old, "ADD", 0)
	s.reaches(0)
	s.wishes(next, inside)
	had, backup = s.has(old), s.dir+"/backup.db"
	for _, c := range [][]string{{"version"}, {"status"}, {"status", "-o", "json"}, {"reload"}} { // all that a newer client promises
		s.natless(next, c...)
	}
	s.natless(old, "registry", "backup", backup)
	s.inKernel(old)
	pings := s.pings(0)
	s.stop()
	s.start(next)
	pings()
	s.reaches(0)
	if got := s.has(next); got != had {
		s.t.Errorf("the older daemon had %s, the newer has %s", had, got)
	}
	if out := s.natless(next, "version"); !strings.Contains(out, version(s.t)+", fast path layout") {
		s.t.Errorf("the newer daemon's fast path: %s", out)
	}
	for _, c := range commands {
		s.natless(old, c...)
	}
	return had, backup
}

// refused: the older daemon does not touch a newer registry, says why, and what helps.
func (s *site) refused(old, next string) {
	s.t.Helper()
	before, err := os.ReadFile(s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.host.Command(old+"/natlessd", "--config", s.config, "--handover").CombinedOutput()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.ExitCode() != 78 || !strings.Contains(string(out), "newer natlessd") {
		s.t.Errorf("the older daemon with the newer registry: %v\n%s", err, out)
	}
	if after, err := os.ReadFile(s.registry); err != nil || !bytes.Equal(before, after) {
		s.t.Errorf("the older daemon has changed a registry that it refuses (%v)", err)
	}
	s.reachesByKernel()
	s.start(next) // nor is it worse for the newer one
	s.reaches(0)
	s.stop()
}

// reachesByKernel: what the newer daemon left in the kernel was not taken away by the
// older one, which refused to start.
func (s *site) reachesByKernel() {
	s.t.Helper()
	if rules := s.host.Run("nft", "list", "tables"); !strings.Contains(rules, "natless") {
		s.t.Errorf("the rules against spoofed sources are gone: %s", rules)
	}
}
