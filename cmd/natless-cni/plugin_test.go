//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/cmd/internal/portlimits"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

// TestMain makes the test binary the plugin when a runtime calls it as one.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// daemon answers as natlessd would; answer may change it.
type daemon struct {
	socket string
	mu     sync.Mutex
	asked  []string
	answer func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

func startDaemon(t *testing.T) *daemon {
	d := &daemon{socket: filepath.Join(t.TempDir(), "natless.sock")}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: d}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return d
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asked = append(d.asked, r.Method+" "+r.URL.Path)
	answer := d.answer
	d.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	switch {
	case r.Method == http.MethodPut:
		var request api.Request
		json.NewDecoder(r.Body).Decode(&request)
		json.NewEncoder(w).Encode(workload(request))
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/workloads/"):
		json.NewEncoder(w).Encode(workload(api.Request{IPv6: addrs("2001:db8:6::2")}))
	case r.URL.Path == "/v1/workloads":
		json.NewEncoder(w).Encode(api.Page{Workloads: []api.Workload{workload(api.Request{})}})
	case r.URL.Path == "/v1/pools":
		json.NewEncoder(w).Encode(api.Pools{Pools: []api.Pool{{Name: "default", Ports: 1024, PortsUsed: 1000, PortsCooling: 24}}})
	default:
		fmt.Fprint(w, `{"ready":true}`)
	}
}

func (d *daemon) did(what string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.asked {
		if a == what {
			return true
		}
	}
	return false
}

// refuse makes the daemon answer every request with a problem.
func refuse(status int, p api.Problem) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(p)
		return true
	}
}

// assignPortZero gives a set that no kernel takes for ip_local_port_range.
func assignPortZero(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPut {
		return false
	}
	bad := workload(api.Request{})
	bad.Ports = ports.MustParse("0-9")
	json.NewEncoder(w).Encode(bad)
	return true
}

const previousResult = `{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"%[1]s"}],
	"ips":[{"address":"2001:db8:6::2/64","gateway":"2001:db8:6::1","interface":1}]}`

// call runs the plugin as a runtime does and gives its output or its error.
func call(t *testing.T, command, netnsPath, stdin string, env ...string) (string, *types.Error) {
	t.Helper()
	return callAs(t, exec.Command(os.Args[0]), command, netnsPath, stdin, env...)
}

func callAs(t *testing.T, cmd *exec.Cmd, command, netnsPath, stdin string, env ...string) (string, *types.Error) {
	t.Helper()
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0",
		"CNI_NETNS="+netnsPath, "CNI_PATH=/opt/cni/bin")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err == nil {
		return stdout.String(), nil
	}
	e := new(types.Error)
	if err := json.Unmarshal(stdout.Bytes(), e); err != nil {
		t.Fatalf("%s: error without a JSON error: %q %q", command, stdout.String(), stderr.String())
	}
	return "", e
}

func stdin(socket, more string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n1","type":"natless-cni","socket":%q%s}`, socket, more)
}

func prev(path string) string { return `,"prevResult":` + fmt.Sprintf(previousResult, path) }

// TestErrorCodes is the table of all errors and their codes (CNI spec 1.1,
// section 5), as README.md of this folder documents them.
func TestErrorCodes(t *testing.T) {
	pod := netns.New(t, "pod")
	problem := func(status int, c api.Code) func(http.ResponseWriter, *http.Request) bool {
		return refuse(status, api.Problem{Code: c, Detail: "because"})
	}
	documented, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t)
	pods := pod.Path
	for _, c := range []struct {
		name    string
		command string
		netns   string
		stdin   string
		env     string
		answer  func(http.ResponseWriter, *http.Request) bool
		code    uint
		message string
	}{
		{"version of tomorrow", "ADD", pods, `{"cniVersion":"9.9.9","name":"n1","type":"natless-cni"}`, "", nil, 1, "incompatible"},
		{"version of yesterday", "ADD", pods, `{"cniVersion":"0.2.0","name":"n1","type":"natless-cni"}`, "", nil, 1, "incompatible"},
		{"unknown wish", "ADD", pods, stdin(d.socket, `,"runtimeConfig":{"natless":{"port":3}}`+prev(pods)), "", nil, 2, `"port"`},
		{"no such namespace", "ADD", "/run/netns/natless-none", stdin(d.socket, prev("/run/netns/natless-none")), "", nil, 3, "natless-none"},
		{"no container id", "ADD", pods, stdin(d.socket, prev(pods)), "CNI_CONTAINERID=", nil, 4, "CNI_CONTAINERID"},
		{"bad CNI_ARGS", "ADD", pods, stdin(d.socket, prev(pods)), "CNI_ARGS=nonsense", nil, 4, "CNI_ARGS"},
		{"no folder beside the socket", "ADD", pods, stdin("/dev/null/natless.sock", prev(pods)), "", nil, 5, "/dev/null"},
		{"no JSON", "ADD", pods, `{"cniVersion":`, "", nil, 6, ""},
		{"ports no number", "ADD", pods, stdin(d.socket, `,"ports":"many"`), "", nil, 6, "ports"},
		{"prevResult of nonsense", "ADD", pods, stdin(d.socket, `,"prevResult":{"ips":7}`), "", nil, 6, "prevResult"},
		{"not chained", "ADD", pods, stdin(d.socket, ""), "", nil, 7, "before it"},
		{"ports out of range", "ADD", pods, stdin(d.socket, `,"ports":70000`+prev(pods)), "", nil, 7, "70000"},
		{"an IPv6 address wished", "ADD", pods, stdin(d.socket, `,"address":"2001:db8::1"`+prev(pods)), "", nil, 7, "2001:db8::1"},
		{"refused field", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(400, api.CodeInvalid), 7, "because"},
		{"full disk", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(503, api.CodeStorage), 11, "because"},
		{"starting", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(503, api.CodeStarting), 11, "because"},
		{"too many requests", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(429, api.CodeRateLimited), 11, "because"},
		{"nobody there", "ADD", pods, stdin(filepath.Join(t.TempDir(), "none.sock"), prev(pods)), "", nil, 11, "none.sock"},
		{"a misspelt key", "ADD", pods, stdin(d.socket, prev(pods)+`,"prots":512`), "", nil, 2, `is it "ports"?`},
		{"no way of that name", "ADD", pods, stdin(d.socket, prev(pods)+`,"ipv4":"outside"`), "", nil, 7, "none of inside, prefix, none"},
		{"an annotation of no such name", "ADD", pods, stdin(d.socket, prev(pods)+podAnnotations(`"natless.io/prots":"512"`)), "", nil, 2, "natless.io/prots"},
		{"an annotation that is not heeded", "ADD", pods, stdin(d.socket, prev(pods)+podAnnotations(`"natless.io/pool":"web"`)), "", nil, 2, "does not heed it"},
		{"an annotation of nonsense", "ADD", pods, stdin(d.socket, prev(pods)+podAnnotations(`"natless.io/ports":"many"`)), "", nil, 7, `natless.io/ports: "many"`},
		{"a network that heeds no such annotation", "STATUS", "", stdin(d.socket, `,"annotations":["port"]`), "", nil, 7, `"port" is not an annotation`},
		{"no IPv4 inside on this host", "ADD", pods, stdin(d.socket, prev(pods)+`,"ipv4":"inside"`), "", problem(501, api.CodeNoInside), codeInside, "because"},
		{"natlessd of before there was IPv4 inside", "ADD", pods, stdin(d.socket, prev(pods)+`,"ipv4":"inside"`), "", beforeInside, codeInside, "older than this plugin"},
		{"natlessd of before there were labels", "ADD", pods, stdin(d.socket, prev(pods)+`,"labels":{"a":"b"}`), "", beforeLabels, 7, "labels: it is older than this plugin"},
		{"STATUS: starting", "STATUS", "", stdin(d.socket, ""), "", problem(503, api.CodeStarting), 50, "because"},
		{"STATUS: nobody there", "STATUS", "", stdin(filepath.Join(t.TempDir(), "none.sock"), ""), "", nil, 51, "none.sock"},
		{"pool exhausted", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(507, api.CodeExhausted), codeExhausted, "because"},
		{"drained", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(503, api.CodeDrained), codeDrained, "because"},
		{"address taken", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(409, api.CodeConflict), codeConflict, "because"},
		{"not allowed", "ADD", pods, stdin(d.socket, prev(pods)), "", problem(403, api.CodeForbidden), codeForbidden, "because"},
		{"IPv4 only", "ADD", pods, stdin(d.socket, `,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"`+pods+`"}],"ips":[{"address":"192.0.2.9/24","interface":0}]}`), "", nil, codeNoIPv6, "eth0"},
		{"no route and no gateway", "ADD", pods, stdin(d.socket, `,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"2001:db8:6::2/64"}]}`), "", nil, codeUnreachable, "64:ff9b::/96"},
		{"a range that the kernel refuses", "ADD", pods, stdin(d.socket, prev(pods)), "", assignPortZero, codeSysctl, "ip_local_port_range"},
		{"CHECK: unknown", "CHECK", pods, stdin(d.socket, prev(pods)), "", problem(404, api.CodeNotFound), codeNotAssigned, "because"},
		{"CHECK: other address", "CHECK", pods, stdin(d.socket, strings.ReplaceAll(prev(pods), "6::2/", "6::3/")), "", nil, codeOtherAddress, "2001:db8:6::3"},
		{"CHECK: ports overridden", "CHECK", pods, stdin(d.socket, prev(pods)), "", nil, codePortsOverride, "ip_local_port_range"},
		{"CHECK without prevResult", "CHECK", pods, stdin(d.socket, ""), "", nil, 7, "prevResult"},
		{"GC without attachments", "GC", "", stdin(d.socket, ""), "", nil, 7, "refused"},
		{"GC in an old version", "GC", "", `{"cniVersion":"1.0.0","name":"n1","type":"natless-cni"}`, "", nil, 1, "GC"},
		{"unknown command", "FROB", pods, stdin(d.socket, ""), "", nil, 4, "FROB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(string(documented), fmt.Sprintf("\n| %d | ", c.code)) {
				t.Errorf("README.md does not document code %d", c.code)
			}
			d.answer = c.answer
			_, e := call(t, c.command, c.netns, c.stdin, c.env)
			if e == nil {
				t.Fatal("no error")
			}
			if e.Code != c.code || !strings.Contains(e.Msg+e.Details, c.message) {
				t.Fatalf("got code %d %q %q, want %d and %q", e.Code, e.Msg, e.Details, c.code, c.message)
			}
		})
	}
}

// TestStatus: a full pool leaves the node ready, and keys of others are theirs.
func TestStatus(t *testing.T) {
	d := startDaemon(t)
	for _, more := range []string{"", `,"pool":"default"`, `,"example.com/extra":1,"portMappings":[]`} {
		if _, e := call(t, "STATUS", "", stdin(d.socket, more)); e != nil {
			t.Errorf("%s: %v", more, e)
		}
	}
}

// TestGoesOn: the kernel of this network namespace, and no other, by what is attached.
func TestGoesOn(t *testing.T) {
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprint("natless/natless0@", s.Ino)
	for path, want := range map[string]bool{
		"": false, own + "/link-uplink-2": true, own + "/filter-uplink-2": true, own + "1/link-uplink-2": false,
		own + "/layout": false, own + "/link-given4-3": false, own + "/link-workload-4": false,
	} {
		bpfRoot = t.TempDir()
		if err := os.MkdirAll(filepath.Join(bpfRoot, path), 0o700); err != nil {
			t.Fatal(err)
		}
		if goesOn() != want {
			t.Errorf("%s: %t", path, !want)
		}
	}
	bpfRoot = "/sys/fs/bpf"
}

// TestByHand: somebody at a shell learns what it is, and which; what is wrong is 2, as
// with the other programs.
func TestByHand(t *testing.T) {
	for args, want := range map[string]string{
		"--version": "0 natless-cni " + version.String() + "\n", "--help": "0 " + about() + "\n", "add": "2 natless-cni: \"add\": there is --version and --help",
	} {
		var out bytes.Buffer
		status := byHand([]string{args}, &out, &out)
		if got := fmt.Sprintf("%d %s", status, &out); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

func TestAddFitsTheContainer(t *testing.T) {
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			d, pod, node := startDaemon(t), netns.New(t, "pod"), netns.New(t, "node")
			netns.Veth(t, pod, "eth0", node, "veth1")
			pod.IP("addr add 2001:db8:6::2/64 dev eth0")
			conf := strings.ReplaceAll(stdin(d.socket, prev(pod.Path)), "1.1.0", version)
			if version == "0.4.0" {
				conf = strings.Replace(conf, `{"address":"2001`, `{"version":"6","address":"2001`, 1)
			}
			out, e := call(t, "ADD", pod.Path, conf, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web")
			if e != nil {
				t.Fatal(e)
			}
			var result types100.Result
			if err := json.Unmarshal([]byte(out), &result); err != nil || result.CNIVersion != version || len(result.IPs) != 1 {
				t.Fatalf("result %v %s", err, out)
			}
			for name, want := range map[string]string{portlimits.Range: "2048\t3071", portlimits.TimeWaitReuse: "1"} {
				if got := pod.Run("cat", sysctlPath(name)); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if got := pod.IP("-6 route show 64:ff9b::/96"); !strings.Contains(got, "via 2001:db8:6::1 dev eth0 proto 110") {
				t.Errorf("route %q", got)
			}
			if _, e := call(t, "CHECK", pod.Path, conf); e != nil {
				t.Errorf("CHECK: %v", e)
			}
			for range 2 { // the second without a previous result
				if _, e := call(t, "DEL", pod.Path, conf); e != nil {
					t.Errorf("DEL: %v", e)
				}
				conf = strings.ReplaceAll(stdin(d.socket, ""), "1.1.0", version)
			}
			for name, want := range kernelDefaults {
				if got := pod.Run("cat", sysctlPath(name)); got != want {
					t.Errorf("after DEL %s is %q, want %q", name, got, want)
				}
			}
			if got := pod.IP("-6 route show 64:ff9b::/96"); got != "" {
				t.Errorf("after DEL there is a route %q", got)
			}
		})
	}
}

// A container on the host's network would make the host keep to its ports.
func TestAddRefusesItsOwnNamespace(t *testing.T) {
	d, host := startDaemon(t), netns.New(t, "host")
	_, e := callAs(t, host.Command(os.Args[0]), "ADD", host.Path, stdin(d.socket, prev(host.Path)))
	if e == nil || e.Code != types.ErrInvalidNetNS {
		t.Fatalf("got %v, want code %d", e, types.ErrInvalidNetNS)
	}
	if got := host.Run("cat", sysctlPath(portlimits.Range)); got != kernelDefaults[portlimits.Range] {
		t.Errorf("the host's port range became %q", got)
	}
	if d.did("PUT /v1/workloads/c1/eth0") {
		t.Error("natlessd was asked all the same")
	}
}

func TestAddIsAllOrNothing(t *testing.T) {
	d, pod := startDaemon(t), netns.New(t, "pod")
	// No route and no gateway: the last step fails.
	_, e := call(t, "ADD", pod.Path, stdin(d.socket, `,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"2001:db8:6::2/64"}]}`))
	if e == nil {
		t.Fatal("no error")
	}
	if !d.did("DELETE /v1/workloads/c1/eth0") {
		t.Error("the assignment was not given back")
	}
	for name, want := range kernelDefaults {
		if got := pod.Run("cat", sysctlPath(name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestAddGivesUpOnSlowDaemon(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the plugin's patience to end")
	}
	d, pod := startDaemon(t), netns.New(t, "pod")
	d.answer = func(w http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}
	begin := time.Now()
	_, e := call(t, "ADD", pod.Path, stdin(d.socket, prev(pod.Path)))
	if e == nil || e.Code != types.ErrTryAgainLater {
		t.Fatalf("got %v, want code 11", e)
	}
	if took := time.Since(begin); took > 3*patience {
		t.Errorf("took %v", took)
	}
	if all, err := api.Releases(d.socket); err != nil || len(all) != 1 {
		t.Errorf("the assignment that may have been made is not recorded for release: %v %v", all, err)
	}
}

// podAnnotations are as containerd gives them, to a network that heeds some.
func podAnnotations(more string) string {
	return `,"annotations":["ports","publish","ipv4"],"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"kubernetes.io/config.source":"api",` + more + `}}`
}

// TestAnnotations: what the pod asks for is what natlessd is asked for, and a pod that
// wants nothing needs no natlessd.
func TestAnnotations(t *testing.T) {
	d, pod, node := startDaemon(t), netns.New(t, "pod"), netns.New(t, "node")
	netns.Veth(t, pod, "eth0", node, "veth1")
	pod.IP("addr add 2001:db8:6::2/64 dev eth0")
	var asked api.Request
	d.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			json.NewDecoder(r.Body).Decode(&asked)
			json.NewEncoder(w).Encode(workload(asked))
		}
		return r.Method == http.MethodPut
	}
	conf := stdin(d.socket, prev(pod.Path)+podAnnotations(`"natless.io/ports":" 512 ","natless.io/publish":"443, 8000-8002","natless.io/ipv4":"prefix"`))
	if _, e := call(t, "ADD", pod.Path, conf); e != nil {
		t.Fatal(e)
	}
	if want := []uint16{443, 8000, 8001, 8002}; asked.Ports != 512 || asked.Inside != api.IPv4Prefix || !slices.Equal(asked.ExtraPorts, want) {
		t.Errorf("asked for %+v", asked)
	}
	if _, e := call(t, "DEL", pod.Path, conf); e != nil {
		t.Fatal(e)
	}
	nobody := filepath.Join(t.TempDir(), "none.sock")
	none := stdin(nobody, prev(pod.Path)+podAnnotations(`"natless.io/ipv4":"none"`))
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		if out, e := call(t, command, pod.Path, none); e != nil || command == "ADD" && !strings.Contains(out, "2001:db8:6::2/64") {
			t.Errorf("none: %s: %v %s", command, e, out)
		}
	}
	if got := pod.Run("cat", sysctlPath(portlimits.Range)) + pod.IP("-6 route show 64:ff9b::/96"); got != kernelDefaults[portlimits.Range] {
		t.Errorf("a pod that wants nothing has %q", got)
	}
}

// TestDelJudgesNothing: what ADD refuses is taken down all the same.
func TestDelJudgesNothing(t *testing.T) {
	d := startDaemon(t)
	for _, more := range []string{
		podAnnotations(`"natless.io/ports":"many"`), podAnnotations(`"natless.io/nothing":"x"`), `,"ports":"many"`, `,"prots":1`, `,"ports":70000`,
		`,"ipv4":"outside"`, `,"annotations":["nothing"]`, `,"runtimeConfig":{"natless":{"port":3}}`, `,"args":{"cni":{"natless":{"extraPorts":[70000]}}}`,
	} {
		if _, e := call(t, "ADD", "/proc/1/ns/net", stdin(d.socket, prev("x")+more)); e == nil || e.Code == types.ErrInvalidNetNS {
			t.Errorf("ADD takes %s: %v", more, e)
		}
		d.mu.Lock()
		d.asked = nil
		d.mu.Unlock()
		if _, e := call(t, "DEL", "", stdin(d.socket, more)); e != nil || !d.did("DELETE /v1/workloads/c1/eth0") {
			t.Errorf("DEL with %s: %v", more, e)
		}
		if _, e := call(t, "GC", "", stdin(d.socket, more+`,"cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}]`)); e != nil {
			t.Errorf("GC with %s: %v", more, e)
		}
	}
}

func TestDelWithoutDaemonIsRecorded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "natless.sock")
	if _, e := call(t, "DEL", "", stdin(socket, "")); e != nil {
		t.Fatal(e)
	}
	all, err := api.Releases(socket)
	if err != nil || len(all) != 1 || all[0].Key != (api.Key{ContainerID: "c1", Interface: "eth0"}) {
		t.Fatalf("recorded %v %v", all, err)
	}
	if err := api.WithdrawRelease(socket, all[0].Key); err != nil {
		t.Fatal(err)
	}
	if all, err := api.Releases(socket); err != nil || len(all) != 0 {
		t.Fatalf("after withdrawal %v %v", all, err)
	}
}

func TestGCDeletesWhatTheRuntimeDoesNotName(t *testing.T) {
	d := startDaemon(t)
	if _, e := call(t, "GC", "", stdin(d.socket, `,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]`)); e != nil {
		t.Fatal(e)
	}
	if d.did("DELETE /v1/workloads/c1/eth0") {
		t.Fatal("GC deleted a valid attachment")
	}
	if _, e := call(t, "GC", "", stdin(d.socket, `,"cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}]`)); e != nil {
		t.Fatal(e)
	}
	if !d.did("DELETE /v1/workloads/c1/eth0") {
		t.Fatal("GC left an attachment that is not valid")
	}
}
