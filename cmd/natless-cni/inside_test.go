//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

// beforeInside and beforeLabels answer as a natlessd that does not know the field.
func beforeInside(w http.ResponseWriter, r *http.Request) bool {
	return before(w, r, "inside", "host_interface")
}

func beforeLabels(w http.ResponseWriter, r *http.Request) bool { return before(w, r, "labels") }

func before(w http.ResponseWriter, r *http.Request, unknown ...string) bool {
	if r.Method != http.MethodPut {
		return false
	}
	body, _ := io.ReadAll(r.Body)
	var fields map[string]any
	json.Unmarshal(body, &fields)
	for _, name := range unknown {
		if _, there := fields[name]; there {
			return refuse(400, api.Problem{Code: api.CodeInvalid, Field: name, Detail: "is not a field of a request"})(w, r)
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return false
}

// insider is a container whose network gives it IPv6 alone, with a default route.
func insider(t *testing.T) (pod *netns.NS) {
	t.Helper()
	pod, node := netns.New(t, "pod"), netns.New(t, "node")
	netns.Veth(t, pod, "eth0", node, "veth1")
	pod.IP("addr add 2001:db8:6::2/64 dev eth0")
	pod.IP("-6 route add default via 2001:db8:6::1")
	return pod
}

// made is what ADD may have made, as text.
func made(pod *netns.NS) string {
	var all []string
	for _, what := range []string{"-4 addr show scope global", "rule", "-4 route show table all proto 110", "-6 route show table all proto 110"} {
		all = append(all, pod.IP(what))
	}
	return strings.Join(append(all, pod.Run("cat", sysctlPath("ip_local_port_range"))), "\n")
}

const wishInside = `,"ipv4":"inside"`

// TestInside: ADD, the same again, CHECK, and DEL with and without the daemon; and the
// address is not in the result.
func TestInside(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{false, true} {
		_, d := newMemory(t, map[string]ports.Set{})
		pod := insider(t)
		before := made(pod)
		conf := stdin(d.socket, wishInside+prev(pod.Path))
		first := ""
		for range 2 {
			out, e := call(t, "ADD", pod.Path, conf)
			if e != nil {
				t.Fatal(e)
			}
			if strings.Contains(out, "198.51.100.1") {
				t.Errorf("the address, which others have too, is in the result: %s", out)
			}
			if _, e := call(t, "CHECK", pod.Path, conf); e != nil {
				t.Errorf("CHECK: %v", e)
			}
			if now := made(pod); first == "" {
				first = now
			} else if now != first {
				t.Errorf("ADD again made\n%s\nof\n%s", now, first)
			}
		}
		for _, want := range []string{"inet 198.51.100.1/32", "to 198.51.100.1 iif lo ipproto tcp dport 2048-3071 lookup local",
			"to 198.51.100.1 iif lo ipproto udp dport 443 lookup local", "unreachable 64:ff9b::/96", "2048\t3071"} {
			if !strings.Contains(first, want) {
				t.Errorf("no %q in\n%s", want, first)
			}
		}
		conf = stdin(d.socket, wishInside+prev(pod.Path))
		if away {
			conf = stdin(t.TempDir()+"/none.sock", wishInside+prev(pod.Path))
			before = strings.Replace(before, "32768\t60999", "2048\t3071", 1) // of which the daemon knows
		}
		for range 2 {
			if _, e := call(t, "DEL", pod.Path, conf); e != nil {
				t.Errorf("DEL: %v", e)
			}
		}
		if now := made(pod); now != before {
			t.Errorf("after DEL, the daemon away %v:\n%s\nbefore ADD:\n%s", away, now, before)
		}
	}
}

// TestInsideChecked: whatever goes or is changed in the container, CHECK says it.
func TestInsideChecked(t *testing.T) {
	t.Parallel()
	m, d := newMemory(t, map[string]ports.Set{})
	pod := insider(t)
	conf := stdin(d.socket, wishInside+prev(pod.Path))
	for do, want := range map[string]string{
		"addr del 198.51.100.1/32 dev eth0":                                              "address 198.51.100.1/32",
		"-4 route del default":                                                           "route default via inet6 2001:db8:6::1 dev eth0 src 198.51.100.1",
		"-4 route del default table 110":                                                 "table 110",
		"-6 route del unreachable 64:ff9b::/96":                                          "unreachable",
		"rule del pref 29":                                                               "rule 29",
		"rule del pref 30 to 198.51.100.1 iif lo ipproto udp dport 443":                  "rule 30 to 198.51.100.1 iif lo udp dport 443",
		"rule add pref 0 lookup local":                                                   "no rule 0",
		"-6 route replace default via fe80::1 dev eth0":                                  "via inet6 fe80::1",
		"rule add pref 30 to 198.51.100.1 ipproto tcp dport 9 lookup local protocol 110": "not of this share",
	} {
		if _, e := call(t, "ADD", pod.Path, conf); e != nil {
			t.Fatal(e)
		}
		pod.IP(do)
		if _, e := call(t, "CHECK", pod.Path, conf); e == nil || e.Code != codeInsideChanged || !strings.Contains(e.Msg, want) {
			t.Errorf("%s: %v, want %q", do, e, want)
		}
		if strings.HasPrefix(do, "-6 route replace") {
			pod.IP("-6 route replace default via 2001:db8:6::1 dev eth0")
		}
		call(t, "DEL", pod.Path, conf)
	}
	if _, e := call(t, "ADD", pod.Path, conf); e != nil {
		t.Fatal(e)
	}
	m.mu.Lock()
	one := m.has["eth0"]
	one.Address = one.Address.Next() // the uplink's address has changed
	m.has["eth0"] = one
	m.mu.Unlock()
	if _, e := call(t, "CHECK", pod.Path, conf); e == nil || e.Code != codeInsideChanged || !strings.Contains(e.Msg, "198.51.100.2") {
		t.Errorf("the uplink's address has changed: %v", e)
	}
}

// TestInsideRefused: what of others stands in the way is said, and nothing is left.
func TestInsideRefused(t *testing.T) {
	t.Parallel()
	for do, want := range map[string]string{
		"addr add 10.0.0.2/24 dev eth0": "has the IPv4 address 10.0.0.2/24",
		"route add default dev eth0":    "IPv4 default route",
		"-6 route flush default":        "",
	} {
		m, d := newMemory(t, map[string]ports.Set{})
		pod := insider(t)
		pod.IP(do)
		before := made(pod)
		conf := stdin(d.socket, wishInside+strings.Replace(prev(pod.Path), `"gateway":"2001:db8:6::1",`, "", 1))
		_, e := call(t, "ADD", pod.Path, conf)
		if e == nil || e.Code != codeInside || !strings.Contains(e.Msg, want) || e.Details == "" || m.mapped("eth0") != "nothing" {
			t.Errorf("%s: %v, mapped %s", do, e, m.mapped("eth0"))
		}
		if now := made(pod); now != before {
			t.Errorf("%s: left\n%s\nbefore:\n%s", do, now, before)
		}
	}
}

// TestInsideAlone: IPv4 inside is a container's only share, whichever comes first.
func TestInsideAlone(t *testing.T) {
	t.Parallel()
	for _, ways := range [][2]string{{"inside", "prefix"}, {"prefix", "inside"}, {"inside", "inside"}} {
		m, d := newMemory(t, map[string]ports.Set{})
		pod, node := insider(t), netns.New(t, "node2")
		netns.Veth(t, pod, "net1", node, "veth1")
		pod.IP("addr add 2001:db8:7::2/64 dev net1")
		pod.IP("-6 route add default via 2001:db8:7::1 dev net1 metric 2000")
		first := stdin(d.socket, `,"ipv4":"`+ways[0]+`"`+result(pod.Path, "eth0", "2001:db8:6::1", "2001:db8:6::2"))
		second := stdin(d.socket, `,"ipv4":"`+ways[1]+`"`+result(pod.Path, "net1", "2001:db8:7::1", "2001:db8:7::2"))
		if _, e := call(t, "ADD", pod.Path, first); e != nil {
			t.Fatal(e)
		}
		before := made(pod)
		_, e := call(t, "ADD", pod.Path, second, "CNI_IFNAME=net1")
		if e == nil || e.Code != codeInside || m.mapped("net1") != "nothing" {
			t.Errorf("%v: %v, mapped %s", ways, e, m.mapped("net1"))
		}
		if _, e := call(t, "DEL", pod.Path, second, "CNI_IFNAME=net1"); e != nil { // as runtimes do after a refusal
			t.Errorf("%v: DEL: %v", ways, e)
		}
		if now := made(pod); now != before {
			t.Errorf("%v: the first has\n%s\nhad\n%s", ways, now, before)
		}
		if _, e := call(t, "CHECK", pod.Path, first); e != nil {
			t.Errorf("%v: CHECK of the first: %v", ways, e)
		}
	}
}

// TestOlderDaemon: a natlessd of before there was IPv4 inside gives the prefix to who
// leaves it to the pool or asks for it.
func TestOlderDaemon(t *testing.T) {
	t.Parallel()
	for _, wish := range []string{"", `,"ipv4":"prefix"`} {
		d := startDaemon(t)
		d.answer = beforeInside
		pod := insider(t)
		if _, e := call(t, "ADD", pod.Path, stdin(d.socket, wish+prev(pod.Path))); e != nil {
			t.Errorf("%q: %v", wish, e)
		}
		if got := pod.IP("-6 route get 64:ff9b::1"); !strings.Contains(got, "dev eth0") {
			t.Errorf("%q: %s", wish, got)
		}
	}
}

// TestInsideThenPrefix: an ADD that asks for the other way takes back what the one
// before made.
func TestInsideThenPrefix(t *testing.T) {
	t.Parallel()
	_, d := newMemory(t, map[string]ports.Set{})
	pod := insider(t)
	for _, wish := range []string{"inside", "prefix"} {
		if _, e := call(t, "ADD", pod.Path, stdin(d.socket, `,"ipv4":"`+wish+`"`+prev(pod.Path))); e != nil {
			t.Fatal(e)
		}
	}
	if now := made(pod); strings.Contains(now, "198.51.100.1") || strings.Contains(now, "unreachable") {
		t.Errorf("left:\n%s", now)
	}
	if got := pod.IP("-6 route get 64:ff9b::1"); !strings.Contains(got, "dev eth0") {
		t.Errorf("%s", got)
	}
}
