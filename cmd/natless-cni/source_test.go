//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/natless/natless/cmd/internal/portlimits"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

// memory is a daemon that remembers: shares are given by the attachments' names.
type memory struct {
	mu     sync.Mutex
	shares map[string]ports.Set // by interface
	has    map[string]api.Workload
}

func (m *memory) answer(w http.ResponseWriter, r *http.Request) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, single := strings.CutPrefix(r.URL.Path, "/v1/workloads/c1/")
	switch {
	case single && r.Method == http.MethodPut:
		one := workload(api.Request{})
		one.Key = api.Key{ContainerID: "c1", Interface: name}
		json.NewDecoder(r.Body).Decode(&one.Request)
		if set, given := m.shares[name]; given || m.shares == nil {
			one.Ports = set
		}
		if one.Request.Inside == api.IPv4Inside {
			one.Inside = &api.Inside{Address: one.Address}
		}
		m.has[name] = one
		json.NewEncoder(w).Encode(one)
	case single && r.Method == http.MethodDelete:
		delete(m.has, name)
		fmt.Fprint(w, "{}")
	case single:
		one, found := m.has[name]
		if !found {
			return refuse(404, api.Problem{Code: api.CodeNotFound})(w, r)
		}
		json.NewEncoder(w).Encode(one)
	case r.URL.Path == "/v1/workloads" && r.URL.Query().Get("container") == "c1":
		page := api.Page{}
		for _, one := range m.has {
			page.Workloads = append(page.Workloads, one)
		}
		json.NewEncoder(w).Encode(page)
	default:
		return false
	}
	return true
}

func (m *memory) mapped(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one, found := m.has[name]; found {
		return one.Request.IPv6[0].String()
	}
	return "nothing"
}

func (m *memory) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.has))
}

func newMemory(t *testing.T, shares map[string]ports.Set) (*memory, *daemon) {
	m, d := &memory{shares: shares, has: map[string]api.Workload{}}, startDaemon(t)
	d.answer = m.answer
	return m, d
}

// result is a prevResult in which an interface has addresses.
func result(path, ifname, gateway string, addrs ...string) string {
	var ips []string
	for _, a := range addrs {
		ip := fmt.Sprintf(`{"address":"%s/64","interface":0`, a)
		if gateway != "" {
			ip += fmt.Sprintf(`,"gateway":%q`, gateway)
		}
		ips = append(ips, ip+"}")
	}
	return fmt.Sprintf(`,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":%q,"sandbox":%q}],"ips":[%s]}`, ifname, path, strings.Join(ips, ","))
}

// TestSource: what is mapped is what the container's kernel sends from, in every
// order of the result, and CHECK says when it is not so any more.
func TestSource(t *testing.T) {
	const global, other, ula = "2001:db8:6::2", "2001:db8:7::2", "fd00:6::2"
	for _, c := range []struct {
		name   string
		do     []string // in the container
		addrs  []string // of the result
		mapped string
		source string // of the route to the prefix, "" when there is not one of ours
		code   uint
	}{
		{"one", []string{"addr add " + global + "/64 dev eth0 nodad"}, []string{global}, global, "", 0},
		{"ULA first", []string{"addr add " + ula + "/64 dev eth0 nodad", "addr add " + global + "/64 dev eth0 nodad"}, []string{ula, global}, global, "", 0},
		{"global first", []string{"addr add " + ula + "/64 dev eth0 nodad", "addr add " + global + "/64 dev eth0 nodad"}, []string{global, ula}, global, "", 0},
		{"one is deprecated", []string{"addr add " + global + "/64 dev eth0 nodad preferred_lft 0", "addr add " + other + "/64 dev eth0 nodad"}, []string{global, other}, other, "", 0},
		{"a global address of nobody's", []string{"addr add " + ula + "/64 dev eth0 nodad", "addr add " + global + "/64 dev eth0 nodad"}, []string{ula}, ula, ula, 0},
		{"one that may go", []string{"addr add " + global + "/64 dev eth0 nodad", "addr add " + other + "/64 dev eth0 nodad valid_lft 100 preferred_lft 50"}, []string{global}, global, global, 0},
		{"duplicate detection goes on", []string{"addr add " + global + "/64 dev eth0", "addr add " + ula + "/64 dev eth0 nodad"}, []string{global, ula}, global, "", 0},
		{"the default route leaves by another interface",
			[]string{"addr add " + global + "/64 dev eth0 nodad", "addr add " + other + "/64 dev eth1 nodad", "route add default via 2001:db8:7::1 dev eth1"},
			[]string{global}, global, global, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, d := newMemory(t, nil)
			pod, node := netns.New(t, "pod"), netns.New(t, "node")
			netns.Veth(t, pod, "eth0", node, "veth0")
			netns.Veth(t, pod, "eth1", node, "veth1")
			pod.Run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1", "net.ipv6.conf.eth0.dad_transmits=1")
			for _, words := range c.do {
				pod.Run("ip", strings.Fields(words)...)
			}
			conf := stdin(d.socket, result(pod.Path, "eth0", "2001:db8:6::1", c.addrs...))
			_, e := call(t, "ADD", pod.Path, conf)
			if e != nil {
				t.Fatal(e)
			}
			if got := m.mapped("eth0"); got != c.mapped {
				t.Errorf("%s is mapped, want %s", got, c.mapped)
			}
			if got := pod.IP("-6 route get 64:ff9b::1"); !strings.Contains(got, "src "+c.mapped+" ") {
				t.Errorf("the kernel's way: %s", got)
			}
			if got := pod.IP("-6 route show 64:ff9b::/96"); (c.source != "") != strings.Contains(got, " src ") || !strings.Contains(got, c.source) {
				t.Errorf("route %q, want the source %q", got, c.source)
			}
			if _, e := call(t, "CHECK", pod.Path, conf); e != nil {
				t.Errorf("CHECK: %v", e)
			}
			pod.Run("ip", "addr", "add", "64:ff9b::77/128", "dev", "eth0", "nodad") // the longest match there is
			_, e = call(t, "CHECK", pod.Path, conf)
			if pinned := c.source != ""; pinned && e != nil || !pinned && (e == nil || e.Code != codeSource) {
				t.Errorf("CHECK after the kernel has another: %v", e)
			}
			if _, e := call(t, "DEL", pod.Path, conf); e != nil {
				t.Errorf("DEL: %v", e)
			}
			if got := pod.IP("-6 route show 64:ff9b::/96 proto 110"); got != "" {
				t.Errorf("after DEL: route %s", got)
			}
		})
	}
}

// TestDuplicate: an address that another host on the link has is not an identity.
func TestDuplicate(t *testing.T) {
	m, d := newMemory(t, nil)
	pod, node := netns.New(t, "pod"), netns.New(t, "node")
	netns.Veth(t, pod, "eth0", node, "veth0")
	node.IP("addr add 2001:db8:6::2/64 dev veth0")
	pod.Run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1", "net.ipv6.conf.eth0.dad_transmits=1")
	pod.Run("ip", "addr", "add", "2001:db8:6::2/64", "dev", "eth0")
	_, e := call(t, "ADD", pod.Path, stdin(d.socket, prev(pod.Path)))
	if e == nil || e.Code != codeSource || m.mapped("eth0") != "nothing" {
		t.Errorf("got %v, mapped %s", e, m.mapped("eth0"))
	}
}

// TestTwoAttachments: a namespace's one range of ports is right for all its
// attachments, whichever comes and goes; where that cannot be, it is refused.
func TestTwoAttachments(t *testing.T) {
	low, both, high := ports.MustParse("1024-2047"), ports.MustParse("1024-3071"), ports.MustParse("4096-5119")
	const none = "32768\t60999"
	for _, c := range []struct {
		name          string
		first, second ports.Set
		together      string // "": refused
		firstAlone    string
		secondAlone   string
	}{
		{"the same ports of two addresses", low, low, "1024\t2047", "1024\t2047", "1024\t2047"},
		{"some in common", both, low, "1024\t2047", "1024\t3071", "1024\t2047"},
		{"a whole address and a share", ports.Set{}, low, "1024\t2047", none, "1024\t2047"},
		{"a share and a whole address", low, ports.Set{}, "1024\t2047", "1024\t2047", none},
		{"whole addresses", ports.Set{}, ports.Set{}, none, none, none},
		{"none in common", low, high, "", "1024\t2047", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, d := newMemory(t, map[string]ports.Set{"eth0": c.first, "net1": c.second})
			pod, node := netns.New(t, "pod"), netns.New(t, "node")
			netns.Veth(t, pod, "eth0", node, "veth0")
			netns.Veth(t, pod, "net1", node, "veth1")
			pod.IP("addr add 2001:db8:6::2/64 dev eth0")
			pod.IP("addr add 2001:db8:7::2/64 dev net1")
			confs := map[string]string{
				"eth0": stdin(d.socket, result(pod.Path, "eth0", "2001:db8:6::1", "2001:db8:6::2")),
				"net1": stdin(d.socket, result(pod.Path, "net1", "", "2001:db8:7::2")),
			}
			run := func(command, ifname string) uint {
				t.Helper()
				if _, e := call(t, command, pod.Path, confs[ifname], "CNI_IFNAME="+ifname); e != nil {
					return e.Code
				}
				return 0
			}
			expect := func(when, want string) {
				t.Helper()
				if got := pod.Run("cat", sysctlPath(portlimits.Range)); got != want {
					t.Errorf("%s: range %q, want %q", when, got, want)
				}
				for _, name := range m.names() {
					if code := run("CHECK", name); code != 0 {
						t.Errorf("%s: CHECK of %s: %d", when, name, code)
					}
				}
			}
			if code := run("ADD", "eth0"); code != 0 {
				t.Fatal(code)
			}
			expect("the first", c.firstAlone)
			code := run("ADD", "net1")
			if c.together == "" {
				if code != codeNoCommonPorts || m.mapped("net1") != "nothing" {
					t.Errorf("code %d, mapped %s", code, m.mapped("net1"))
				}
				expect("after the refusal", c.firstAlone)
				return
			}
			if code != 0 {
				t.Fatal(code)
			}
			expect("both", c.together)
			run("DEL", "net1")
			expect("the second gone", c.firstAlone)
			run("ADD", "net1")
			expect("the second back", c.together)
			run("DEL", "eth0")
			pod.IP("route add default via 2001:db8:7::1")
			expect("the first gone", c.secondAlone)
			run("DEL", "net1")
			expect("both gone", none)
		})
	}
}
