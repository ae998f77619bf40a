package portlimits

import (
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

func TestFor(t *testing.T) {
	for _, c := range []struct {
		name string
		set  api.PortSet
		keep bool
		want string
	}{
		{"whole address", nil, false, ""},
		{"one run", api.PortSet{{First: 2048, Last: 3071}}, false, "ip_local_port_range=2048\t3071 tcp_tw_reuse=1"},
		{"time wait kept", api.PortSet{{First: 2048, Last: 3071}}, true, "ip_local_port_range=2048\t3071"},
		{"a server's port beside it", api.PortSet{{First: 443, Last: 443}, {First: 2048, Last: 3071}}, true, "ip_local_port_range=2048\t3071"},
		{"holes", api.PortSet{{First: 1024, Last: 1039}, {First: 2048, Last: 2063}, {First: 4096, Last: 4111}}, true,
			"ip_local_port_range=1024\t4111 ip_local_reserved_ports=1040-2047,2064-4095"},
		{"single ports alone", api.PortSet{{First: 80, Last: 80}, {First: 443, Last: 443}}, true,
			"ip_local_port_range=80\t443 ip_local_reserved_ports=81-442"},
	} {
		var got []string
		for _, s := range For(c.set, c.keep) {
			got = append(got, s.Name+"="+s.Value)
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: got %q, want %q", c.name, g, c.want)
		}
	}
}

func TestOverridden(t *testing.T) {
	set := api.PortSet{{First: 1024, Last: 1039}, {First: 2048, Last: 2063}}
	for _, c := range []struct{ ports, reserved, want string }{
		{"1024\t2063", "1040-2047", ""},
		{"1030\t1034", "1040-2047", ""},
		{"32768\t60999", "1040-2047", `net.ipv4.ip_local_port_range is "32768\t60999" instead of "1024\t2063"`},
		{"1024\t2063", "", `net.ipv4.ip_local_reserved_ports is "" instead of "1040-2047"`},
		{"nonsense", "1040-2047", `net.ipv4.ip_local_port_range is "nonsense" instead of "1024\t2063"`},
	} {
		got, err := Overridden(set, func(name string) (string, error) {
			return map[string]string{Range: c.ports, Reserved: c.reserved}[name], nil
		})
		if g := strings.Join(got, " "); err != nil || g != c.want {
			t.Errorf("%q %q: got %q, %v, want %q", c.ports, c.reserved, g, err, c.want)
		}
	}
}

func TestCommon(t *testing.T) {
	low, both, high := api.PortSet{{First: 1024, Last: 2047}}, api.PortSet{{First: 443, Last: 443}, {First: 1500, Last: 3071}}, api.PortSet{{First: 4096, Last: 5119}}
	for _, c := range []struct {
		name string
		sets []api.PortSet
		want string
	}{
		{"none", nil, "all"},
		{"whole addresses", []api.PortSet{nil, nil}, "all"},
		{"one", []api.PortSet{low}, "1024-2047"},
		{"the same", []api.PortSet{low, low}, "1024-2047"},
		{"some", []api.PortSet{low, nil, both}, "1500-2047"},
		{"nothing", []api.PortSet{low, high}, "refused"},
		{"nothing, in three", []api.PortSet{low, both, high}, "refused"},
		{"a server's port alone", []api.PortSet{{{First: 443, Last: 443}, {First: 1024, Last: 1030}}, {{First: 443, Last: 443}, {First: 2048, Last: 2050}}}, "refused"},
		{"single ports, which all of them are", []api.PortSet{{{First: 443, Last: 443}}, {{First: 443, Last: 443}}}, "443"},
	} {
		common, ok := Common(c.sets...)
		got := common.String()
		if !ok {
			got = "refused"
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
