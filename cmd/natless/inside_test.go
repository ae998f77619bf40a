package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
)

// TestInsideIsSaid: of who has its IPv4 inside, and of whose address there is not its
// own any more; of others nothing.
func TestInsideIsSaid(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.9")
	for _, c := range []struct {
		inside     *api.Inside
		show, line string
	}{
		{nil, "", ""},
		{&api.Inside{Address: a}, "ipv4      inside: its interface has the address", "ipv4      inside"},
		{&api.Inside{Address: a.Next()}, "its interface still has 192.0.2.10: what it sends from there is dropped", "ipv4      inside"},
	} {
		var show, whois bytes.Buffer
		w := api.Workload{Address: a, Inside: c.inside, Request: api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}}
		printWorkload(&show, w, time.Now())
		printOwner(&whois, api.Owner{Key: api.Key{ContainerID: "c", Interface: "eth0"}, Address: a, Inside: c.inside != nil})
		if !strings.Contains(show.String(), c.show) || (c.show == "") != !strings.Contains(show.String(), "ipv4") {
			t.Errorf("%+v: show says\n%s", c.inside, &show)
		}
		if !strings.Contains(whois.String(), c.line) || (c.line == "") != !strings.Contains(whois.String(), "ipv4") {
			t.Errorf("%+v: whois says\n%s", c.inside, &whois)
		}
	}
	for _, c := range []struct{ inside, want string }{
		{"", "c/eth0    2001:db8::1  192.0.2.9  1-4    p     0s\n"},
		{"192.0.2.9", "IPV4\n-     c/eth0    2001:db8::1  192.0.2.9  1-4    p     0s   inside\n-     d/eth0    2001:db8::1  192.0.2.9  1-4    p     0s   prefix\n"},
		{"192.0.2.8", "inside, still 192.0.2.8\n"},
	} {
		row := api.Row{Key: api.Key{ContainerID: "c", Interface: "eth0"}, IPv6: "2001:db8::1", Address: a, Ports: "1-4", Pool: "p", Since: time.Now()}
		other := row
		row.Inside, other.ContainerID = c.inside, "d"
		var out bytes.Buffer
		if (&listing{}).print(&out, []api.Row{row, other}, time.Now()); !strings.Contains(out.String(), c.want) || c.inside == "" && strings.Contains(out.String(), "IPV4") {
			t.Errorf("%q:\n%s, want %q", c.inside, &out, c.want)
		}
	}
	if got := poolLine(api.Pool{Name: "p", PortsPerWorkload: 4, Inside: true}); !strings.Contains(got, "4 ports each, IPv4 inside,") {
		t.Error(got)
	}
}

// TestExplainFrom: a workload is known by its name, and one that sends IPv6 told so.
func TestExplainFrom(t *testing.T) {
	socket := daemon(t)
	q := api.Request{Name: "ns/old", HostInterface: "veth9", Inside: api.IPv4Inside, IPv6: []netip.Addr{netip.MustParseAddr("2001:db8::9")}, Ports: 1}
	if _, err := api.NewClient(socket).Put(t.Context(), api.Key{ContainerID: "9old", Interface: "eth0"}, q); err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		"ipv4 from ns/old src 192.0.2.9": `"ipv4 from 2001:db8::9 src 192.0.2.9"`,
		"ipv4 from 9old src 192.0.2.9":   `"ipv4 from 2001:db8::9 src 192.0.2.9"`,
		"ipv4 from ns/web src 192.0.2.9": "ns/web has its IPv4 by the prefix",
		"ipv4 from nobody src 192.0.2.9": `no workload is called "nobody"`,
	} {
		if got := run(t, socket, "explain", "-o", "json", words); !strings.Contains(got, want) {
			t.Errorf("%s: %s", words, got)
		}
	}
	if got := run(t, socket, "workloads", "show", "ns/old"); !strings.Contains(got, "inside: its interface has the address") {
		t.Error(got)
	}
}
