package registry

import (
	"errors"
	"iter"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

func uplink(name, addr string, set ports.Set) Pool {
	return Pool{Name: name, IPv4: netip.MustParsePrefix(addr + "/32"), Uplink: true, PortsPerWorkload: 1024, Ports: set, Cooldown: time.Second}
}

// TestOutside: what pools have lost, and no more, is told at every change of
// them and while it lasts; workloads of the uplink's pool follow its address
// under every name, with those of other pools in the same registry.
func TestOutside(t *testing.T) {
	all, upper := ports.MustParse("10240-20479"), ports.MustParse("11264-20479")
	r, _ := start(t, uplink("host", "192.0.2.1", all), shared("198.51.100.8/31", 1024))
	host := request(1)
	host.Pool = "host"
	mustPut(t, r, 1, host)
	other := request(2)
	mustPut(t, r, 2, other)
	low := ports.MustParse("10240-11263")
	for _, c := range []struct {
		name    string
		pools   []Pool
		words   string
		outside []Share
	}{
		{"as before", []Pool{uplink("host", "192.0.2.1", all), shared("198.51.100.8/31", 1024)}, "192.0.2.1 10240-11263", nil},
		{"narrowed", []Pool{uplink("host", "192.0.2.1", upper), shared("198.51.100.8/31", 1024)}, "192.0.2.1 10240-11263",
			[]Share{{netip.MustParseAddr("192.0.2.1"), low}}},
		{"narrowed and moved", []Pool{uplink("host", "192.0.2.9", upper), shared("198.51.100.8/31", 1024)}, "192.0.2.9 10240-11263",
			[]Share{{netip.MustParseAddr("192.0.2.9"), low}}},
		{"renamed and moved at once", []Pool{uplink("other", "192.0.2.1", all), shared("198.51.100.8/31", 1024)}, "192.0.2.1 10240-11263", nil},
		{"renamed", []Pool{uplink("third", "192.0.2.1", all), shared("198.51.100.8/31", 1024)}, "192.0.2.1 10240-11263", nil},
		{"and moved", []Pool{uplink("third", "192.0.2.9", all), shared("198.51.100.8/31", 1024)}, "192.0.2.9 10240-11263", nil},
		{"removed", []Pool{shared("198.51.100.9/32", 1024)}, "192.0.2.9 10240-11263",
			[]Share{{netip.MustParseAddr("192.0.2.9"), low}, {netip.MustParseAddr("198.51.100.8"), ports.MustParse("1024-2047")}}},
	} {
		var told []Share
		err := reconfigure(r, c.pools, 10, func(_ iter.Seq[mapping.Mapping], outside []Share) error { told = outside; return nil })
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if a, err := r.Get(key(1)); err != nil || a.words() != c.words {
			t.Errorf("%s: %v, %v", c.name, a.words(), err)
		}
		for _, got := range [][]Share{told, r.Outside()} {
			if diff := cmp.Diff(c.outside, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: outside (-want +got)\n%s", c.name, diff)
			}
		}
	}
	for n := range 2 {
		if err := r.Delete(t.Context(), key(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.Outside(); got != nil {
		t.Errorf("given back, and still %v", got)
	}
}

// TestInUse: what the host uses is not given away, by any way to choose, and is
// as soon as it is free.
func TestInUse(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	r, clock := start(t, uplink("host", "192.0.2.1", ports.MustParse("10240-12287")))
	use := func(text string) { r.SetInUse(Share{addr, ports.MustParse(text)}) }
	expect := func(n int, q api.Request, want string) {
		t.Helper()
		a, err := r.Put(t.Context(), key(n), q)
		full := (*ExhaustedError)(nil)
		switch {
		case want == "" && !errors.As(err, &full):
			t.Errorf("got %v, %v", a, err)
		case want != "" && (err != nil || a.words() != want):
			t.Errorf("got %v, %v; want %s", a, err, want)
		}
	}
	use("10300")
	if u := r.Pools()[0]; u.PortsOfHost != 1 || u.Headroom != 1 {
		t.Errorf("%+v", u)
	}
	expect(1, request(1), "192.0.2.1 11264-12287")
	expect(2, request(2), "")
	extra := request(3)
	extra.Ports, extra.ExtraPorts = 16, []uint16{10300}
	expect(3, extra, "")
	use("")
	expect(2, request(2), "192.0.2.1 10240-11263")
	// What cools down, and what somebody had, is no exception.
	if err := r.Delete(t.Context(), key(2)); err != nil {
		t.Fatal(err)
	}
	use("10300")
	expect(2, request(2), "")
	clock.advance(time.Minute)
	expect(2, request(2), "")
	use("")
	expect(2, request(2), "192.0.2.1 10240-11263")
	if s := r.InUse(); s.Overlaps(addr, ports.Set{}) || !(Share{addr, ports.MustParse("5-6")}).Overlaps(addr, ports.MustParse("6-9")) {
		t.Error("overlaps")
	}
}

// TestBeside: a container's second interface gets the ports that its first has,
// of another address, as long as there is one; and both are found by container.
func TestBeside(t *testing.T) {
	r, _ := start(t, shared("198.51.100.8/30", 1024))
	put := func(container, iface string, n int, q api.Request) string {
		t.Helper()
		q.IPv6 = request(n).IPv6
		a, err := r.Put(t.Context(), api.Key{ContainerID: container, Interface: iface}, q)
		if err != nil {
			t.Fatal(err)
		}
		return a.words()
	}
	for i := range 5 { // five more places are taken, in a row
		put("x", "if"+string(rune('a'+i)), 10+i, api.Request{Ports: 64})
	}
	first := put("c", "eth0", 1, api.Request{})
	second := put("c", "net1", 2, api.Request{})
	if _, ports, _ := strings.Cut(first, " "); !strings.HasSuffix(second, " "+ports) || first == second {
		t.Errorf("%s and %s", first, second)
	}
	if third := put("c", "net2", 3, api.Request{Ports: 2048}); strings.HasSuffix(third, " 1024-2047") {
		t.Errorf("other wishes: %s", third)
	}
	put("c-longer", "eth0", 4, api.Request{})
	var got []string
	for after := ""; ; { // in pages
		page, next, err := r.List(api.Filter{Container: "c"}, after, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page {
			got = append(got, a.Key.String())
		}
		if after = next; after == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"c/eth0", "c/net1", "c/net2"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
