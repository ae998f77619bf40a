//go:build linux

package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const fullPool = baseConfig + `
pools:
  - name: whole
    ipv4: 198.51.100.128/30
    whole_address: true
    cooldown: 0s
    first_use: {sources: ["2001:db8:9::/64"], idle: 24h, most: 4, rate: 1000}
`

// fill has sources that nobody announced take all that a pool has.
func (n *node) fill(t *testing.T, d *daemon.Daemon, addresses int) {
	t.Helper()
	machines := netns.New(t, "machines")
	netns.Veth(t, machines, "eth0", n.NS, "machines")
	n.IP("-6 addr add 2001:db8:9::1/64 dev machines nodad")
	for i := range addresses {
		machines.IP(fmt.Sprintf("-6 addr add 2001:db8:9::1%d/64 dev eth0 nodad", i))
	}
	machines.IP("-6 route add default via 2001:db8:9::1")
	eventually(t, 5*time.Second, func() error {
		for i := range addresses {
			from := &net.UDPAddr{IP: net.ParseIP(fmt.Sprintf("2001:db8:9::1%d", i))}
			machines.Do(func() {
				if c, err := net.DialUDP("udp6", from, &net.UDPAddr{IP: net.ParseIP(server6), Port: 9}); err == nil {
					c.Write([]byte("first"))
					c.Close()
				}
			})
		}
		if all := named(t, d, "first-use/*"); len(all) != addresses {
			return fmt.Errorf("%d sources of %d have something", len(all), addresses)
		}
		return nil
	})
}

func named(t *testing.T, d *daemon.Daemon, name string) []api.Workload {
	t.Helper()
	all, err := d.Client().List(t.Context(), api.Filter{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// runs the plugin's own program as a runtime does, and gives what it prints.
func (p *pod) runs(command, socket, previous string) (string, error) {
	cmd := p.node.Command(filepath.Join(p.cniPath, "natless-cni"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+p.Name, "CNI_NETNS="+p.Path, "CNI_IFNAME=eth0", "CNI_PATH="+p.cniPath,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME="+p.Name)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "pods", "type": "natless-cni", "socket": %q, "prevResult": %s}`, socket, previous))
	out, err := cmd.Output()
	return string(out), err
}

// made is all that ADD makes in a container, on the host, and of files beside the socket.
func (p *pod) made(t *testing.T, d *daemon.Daemon) string {
	t.Helper()
	var told strings.Builder
	told.WriteString(p.Run("sh", "-c", "ip -6 route show table all; ip -6 rule; ip addr; sysctl -a --pattern 'net.ipv4.(ip_local|tcp_tw)' 2>&1"))
	told.WriteString(p.node.Run("sh", "-c", "ip route show table all; ip -6 route show table all"))
	files, err := filepath.Glob(d.Socket + "*")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&told, files)
	for _, w := range named(t, d, "") {
		fmt.Fprintln(&told, w.Key, w.Serial, w.Address)
	}
	return told.String()
}

// TestFilledByFirstUse: the plugin's own program says to the runtime which pool has no room, that
// it is by first use, and what to do; it leaves nothing behind; and when one source gives its
// address back, the same container has it, though others go on asking.
func TestFilledByFirstUse(t *testing.T) {
	daemon.OnePath(t, "it is about the registry and the plugin")
	n, bin := newNode(t), tools(t)
	d := daemon.Start(t, n.NS, fullPool)
	plain := networkConfig(t, "1.1.0", `{"type": "ptp", `+ipam(t.TempDir())+`}`, `{"type": "tuning"}`)
	p := &pod{NS: netns.New(t, "pod"), node: n, conf: plain, cniPath: bin}
	previous, err := p.cnitool("add")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cnitool("del") })
	n.fill(t, d, 4)

	before := p.made(t, d)
	out, err := p.runs("ADD", d.Socket, previous)
	var said types.Error
	if err == nil || json.Unmarshal([]byte(out), &said) != nil {
		t.Fatalf("ADD to a full pool: %v\n%s", err, out)
	}
	t.Log(out)
	if said.Code != 100 {
		t.Errorf("code %d", said.Code)
	}
	for _, want := range []string{`pool "whole"`, "4 workloads have theirs by first use", "which first_use.most bounds", "natless workloads --name 'first-use/*'", "free a workload"} {
		if !strings.Contains(said.Msg, want) {
			t.Errorf("msg: no %q in %q", want, said.Msg)
		}
	}
	if !strings.Contains(said.Details, "natless pools") || strings.Contains(out, "ports_per_workload") { // which such a pool has not
		t.Errorf("details: %q", said.Details)
	}
	if after := p.made(t, d); after != before {
		t.Errorf("ADD that was refused left\n%s\nbefore\n%s", after, before)
	}
	if out, err := p.status(d.Socket); err != nil {
		t.Errorf("the node is not ready for that: %v, %s", err, out)
	}
	if out, err := p.runs("DEL", d.Socket, previous); err != nil { // as a runtime does after it
		t.Errorf("DEL: %v, %s", err, out)
	}

	given := named(t, d, "first-use/*")[0]
	if err := d.Client().Delete(t.Context(), given.Key); err != nil {
		t.Fatal(err)
	}
	if out, err = p.runs("ADD", d.Socket, previous); err != nil {
		t.Fatalf("ADD when there is room: %v, %s", err, out)
	}
	if w, err := p.workload(d.Client()); err != nil || w.Address != given.Address {
		t.Errorf("it has %+v, %v; given back was %v", w, err, given.Address)
	}
	if err := n.download(p.NS, p.Name); err != nil {
		t.Error(err)
	}
	if out, err := p.runs("CHECK", d.Socket, previous); err != nil {
		t.Errorf("CHECK: %v, %s", err, out)
	}
	if out, err := p.runs("DEL", d.Socket, previous); err != nil {
		t.Errorf("DEL: %v, %s", err, out)
	}
	if left := named(t, d, "test/*"); len(left) > 0 {
		t.Errorf("after DEL: %+v", left)
	}
	if routes := p.Run("ip", "-6", "route", "show", "table", "all"); strings.Contains(routes, prefix) {
		t.Errorf("DEL left\n%s", routes)
	}
}
