package registry

import (
	"errors"
	"iter"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/translator/mapping"
)

// TestBarred: what others hold is assigned to nobody, also after a change of the
// pools; who has it keeps it, and does not get it again.
func TestBarred(t *testing.T) {
	for _, whole := range []bool{false, true} {
		p := shared("192.0.2.0/29", 32768)
		if whole {
			p = Pool{Name: "default", IPv4: netip.MustParsePrefix("192.0.2.0/29"), Whole: true}
		}
		uplink := Pool{Name: "uplink", IPv4: netip.MustParsePrefix("198.51.100.1/32"), Uplink: true, PortsPerWorkload: 1024}
		r, clock := start(t, p, uplink)
		old := mustPut(t, r, 1, request(1)) // the first address
		bar := map[netip.Addr]string{old.Address: "the network address", netip.MustParseAddr("192.0.2.1"): "the host's own",
			netip.MustParseAddr("192.0.2.2"): "a gateway", uplink.IPv4.Addr(): "the host's own"}
		r.Bar(bar)
		if again := mustPut(t, r, 1, request(1)); again.Address != old.Address || r.OnBarred()[old.Address] != 1 || len(r.OnBarred()) != 1 {
			t.Errorf("who has it has %v; counted %v", again.Address, r.OnBarred())
		}
		seen := map[netip.Addr]bool{}
		for i := 2; ; i++ {
			a, err := r.Put(t.Context(), key(i), request(i))
			if err != nil {
				if !errors.As(err, new(*ExhaustedError)) || !strings.Contains(err.Error(), "8 addresses (3 of them held by others") {
					t.Error(err)
				}
				break
			}
			if why := bar[a.Address]; why != "" {
				t.Errorf("%v is given, which is %s", a.Address, why)
			}
			seen[a.Address] = true
		}
		if len(seen) != 5 {
			t.Errorf("%d addresses given, want 5", len(seen))
		}
		usage := r.Pools()[0]
		if usage.Headroom != 0 || usage.Addresses[2].Barred != "a gateway" || usage.Addresses[2].Ports != 0 || usage.Addresses[3].Barred != "" {
			t.Errorf("usage %+v", usage)
		}
		q := request(99)
		q.Address = netip.MustParseAddr("192.0.2.2")
		if _, err := r.Put(t.Context(), key(99), q); err == nil || !strings.Contains(err.Error(), "192.0.2.2 cannot be assigned: it is a gateway") {
			t.Errorf("asked for: %v", err)
		}
		q = request(98)
		q.Pool = "uplink"
		if a := mustPut(t, r, 98, q); a.Address != uplink.IPv4.Addr() {
			t.Errorf("the host's own in its pool: %v", a.Address)
		}

		if err := r.Delete(t.Context(), key(2)); err != nil {
			t.Fatal(err)
		}
		if err := r.Delete(t.Context(), key(1)); err != nil {
			t.Fatal(err)
		}
		clock.advance(time.Hour)
		p.Cooldown = 2 * time.Minute
		swap := func(iter.Seq[mapping.Mapping], []Share) error { return nil }
		if err := reconfigure(r, []Pool{p, uplink}, 100, swap); err != nil {
			t.Fatal(err)
		}
		if a := mustPut(t, r, 1, request(1)); bar[a.Address] != "" {
			t.Errorf("whoever had it gets %v again", a.Address)
		}
		r.Bar(nil)
		if a := mustPut(t, r, 100, request(100)); bar[a.Address] == "" || r.Pools()[0].Addresses[2].Barred != "" {
			t.Errorf("when nobody holds them any more: %v", a.Address)
		}
	}
}

// TestAlone: only the first on an address is alone there.
func TestAlone(t *testing.T) {
	r, _ := start(t, shared("192.0.2.0/32", 1024))
	one := mustPut(t, r, 1, request(1))
	if !r.Alone(one) {
		t.Error("the first is not alone")
	}
	if two := mustPut(t, r, 2, request(2)); r.Alone(two) {
		t.Error("the second is alone")
	}
}
