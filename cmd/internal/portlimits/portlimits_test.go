package portlimits

import (
	"strings"
	"testing"

	"github.com/natless/natless/translator/ports"
)

func TestFor(t *testing.T) {
	for _, c := range []struct {
		name string
		set  ports.Set
		keep bool
		want string
	}{
		{"whole address", ports.Set{}, false, ""},
		{"one run", ports.MustParse("2048-3071"), false, "ip_local_port_range=2048\t3071 tcp_tw_reuse=1"},
		{"time wait kept", ports.MustParse("2048-3071"), true, "ip_local_port_range=2048\t3071"},
		{"a server's port beside it", ports.MustParse("443,2048-3071"), true, "ip_local_port_range=2048\t3071"},
		{"holes", ports.MustParse("1024-1039,2048-2063,4096-4111"), true,
			"ip_local_port_range=1024\t4111 ip_local_reserved_ports=1040-2047,2064-4095"},
		{"single ports alone", ports.MustParse("80,443"), true,
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
	set := ports.MustParse("1024-1039,2048-2063")
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
	low, both, high := ports.MustParse("1024-2047"), ports.MustParse("443,1500-3071"), ports.MustParse("4096-5119")
	for _, c := range []struct {
		name string
		sets []ports.Set
		want string
	}{
		{"none", nil, ""},
		{"whole addresses", []ports.Set{{}, {}}, ""},
		{"one", []ports.Set{low}, "1024-2047"},
		{"the same", []ports.Set{low, low}, "1024-2047"},
		{"some", []ports.Set{low, {}, both}, "1500-2047"},
		{"nothing", []ports.Set{low, high}, "refused"},
		{"nothing, in three", []ports.Set{low, both, high}, "refused"},
		{"a server's port alone", []ports.Set{ports.MustParse("443,1024-1030"), ports.MustParse("443,2048-2050")}, "refused"},
		{"single ports, which all of them are", []ports.Set{ports.MustParse("443"), ports.MustParse("443")}, "443"},
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
