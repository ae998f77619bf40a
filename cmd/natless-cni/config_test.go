//go:build linux

package main

import (
	"net/netip"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

func addrs(list ...string) (a []netip.Addr) {
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

func workload(r api.Request) api.Workload {
	w := api.Workload{
		Key: api.Key{ContainerID: "c1", Interface: "eth0"}, Request: r, Pool: "default",
		Address: netip.MustParseAddr("198.51.100.1"), Ports: ports.MustParse("443,2048-3071"),
		Prefix: netip.MustParsePrefix("64:ff9b::/96"),
	}
	if r.Inside == api.IPv4Inside {
		w.Inside = &api.Inside{Address: w.Address}
	}
	return w
}

func TestWishesOfTheContainerGoFirst(t *testing.T) {
	args := &skel.CmdArgs{
		ContainerID: "c1", IfName: "eth0", Netns: "/run/netns/pod", Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=7",
		StdinData: []byte(`{"cniVersion":"1.1.0","name":"n1","type":"natless-cni","pool":"default","ports":1024,
			"ipv4":"prefix",
			"runtimeConfig":{"natless":{"ports":64,"extraPorts":[443]}},
			"args":{"cni":{"natless":{"pool":"dedicated","ports":128,"ipv4":"inside"}}}}`),
	}
	c, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.request(args, addrs("2001:db8:6::2"))
	want := api.Request{Name: "ns/web", Network: "n1", Netns: "/run/netns/pod", IPv6: addrs("2001:db8:6::2"), Pool: "dedicated", Ports: 64, ExtraPorts: []uint16{443},
		Inside: api.IPv4Inside}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v %v\nwant %+v", got, err, want)
	}
	args.StdinData = []byte(`{"cniVersion":"1.1.0","name":"n1","type":"natless-cni"}`)
	if c, err = parse(args); err != nil {
		t.Fatal(err)
	}
	if got, err := c.request(args, nil); err != nil || got.Inside != api.IPv4ByPool { // "" is said by plugins that know no other way
		t.Errorf("without a wish: %q, %v", got.Inside, err)
	}
}

// TestLabels: those of the pod's annotation go before those of args.
func TestLabels(t *testing.T) {
	args := &skel.CmdArgs{ContainerID: "c1", IfName: "eth0", StdinData: []byte(`{"cniVersion":"1.1.0","name":"n1","type":"natless-cni","annotations":["labels"],
		"labels":{"app":"net"},"args":{"cni":{"natless":{"labels":{"tier":"front"}}}},
		"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"natless.io/labels":"app=web, tier=back,empty=","other":"x"}}}`)}
	c, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	q, err := c.request(args, nil)
	if want := map[string]string{"app": "web", "tier": "back", "empty": ""}; err != nil || !reflect.DeepEqual(q.Labels, want) {
		t.Errorf("%v, %v", q.Labels, err)
	}
	args.StdinData = []byte(`{"cniVersion":"1.1.0","name":"n1","type":"natless-cni","annotations":["labels"],"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"natless.io/labels":"app"}}}`)
	if _, err := parse(args); err == nil || !strings.Contains(err.Error(), `"app" is not a label`) {
		t.Errorf("half a label: %v", err)
	}
}

// TestStartsLight holds the plugin to what a program may import that runs for
// every container.
func TestStartsLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	// Small, and knowing netlink alone.
	imports := strings.NewReplacer("natless/netstack/dump\n", "", "natless/netstack/iprule\n", "").Replace(string(out))
	for _, heavy := range []string{"gvisor.dev/", "prometheus/", "go.etcd.io/bbolt", "spf13/cobra", "goccy/go-yaml", "natless/netstack", "config/registry"} {
		if strings.Contains(imports, heavy) {
			t.Errorf("imports %s", heavy)
		}
	}
}
