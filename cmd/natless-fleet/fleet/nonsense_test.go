package fleet

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// writes has somebody write an object as no program of ours does.
func (d *desk) writes(k Kind, name, spec, status string) {
	d.Helper()
	o, err := d.store.Get(d.Context(), k, name)
	if err != nil {
		d.Fatal(err)
	}
	if o.Status = json.RawMessage(status); spec != "" {
		o.Spec = json.RawMessage(spec)
		if o, err = d.store.Update(d.Context(), o); err != nil {
			d.Fatal(err)
		}
		o.Status = json.RawMessage(status)
	}
	if _, err := d.store.UpdateStatus(d.Context(), o); err != nil {
		d.Fatal(err)
	}
}

// TestNonsense: whatever a host writes of itself, the others are lent what they want, and what
// it was lent is nobody else's.
func TestNonsense(t *testing.T) {
	for name, c := range map[string]struct{ spec, status string }{
		"no object":                {"", `"x"`},
		"a list":                   {"", `[]`},
		"a negative epoch":         {"", `{"epoch":-1}`},
		"an epoch of a fraction":   {"", `{"epoch":1.5}`},
		"the last epoch":           {"", `{"epoch":18446744073709551615}`},
		"the last epoch of int64":  {"", `{"epoch":9223372036854775807}`},
		"too large an epoch":       {"", `{"epoch":1e300}`},
		"room for nobody":          {"", `{"pools":[{"pool":"lent","perAddress":72057594037927936,"wanted":5}]}`},
		"less than none":           {"", `{"pools":[{"pool":"lent","perAddress":-9223372036854775808,"wanted":9223372036854775807}]}`},
		"all that there is":        {"", `{"pools":[{"pool":"lent","perAddress":1,"wanted":9223372036854775807}]}`},
		"no such pool":             {"", `{"pools":[{"pool":"ünï\u0000","perAddress":1,"wanted":1}],"held":[{"ipv4":"198.51.100.9/32","pool":"ünï","lease":1}]}`},
		"an IPv6 block":            {"", `{"held":[{"ipv4":"2001:db8::/32","pool":"lent","lease":1},{"ipv4":"::ffff:198.51.100.9/128","pool":"lent","lease":1}]}`},
		"a block of the last loan": {"", `{"held":[{"ipv4":"198.51.100.9/32","pool":"lent","lease":18446744073709551615}]}`},
		"a spec that is none":      {`"x"`, `{"pools":[{"pool":"lent","perAddress":1,"wanted":1}]}`},
		"a spec of the last epoch": {`{"epoch":-1}`, `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.8/29"}, BlockLength: 32, MaxBlocksPerHost: 2})
			had := d.says("liar", HostStatus{Pools: []HostPool{{Pool: "lent", PerAddress: 1, Wanted: 1}}}).Spec.Blocks
			if len(had) != 1 {
				t.Fatalf("it was lent %v", had)
			}
			d.writes(Hosts, "liar", c.spec, c.status)
			d.passes()
			got := d.says("honest", HostStatus{Pools: []HostPool{{Pool: "lent", PerAddress: 1, Wanted: 1}}}).Spec.Blocks
			if len(got) != 1 || got[0].IPv4 == had[0].IPv4 || got[0].Lease <= had[0].Lease || got[0].Lease > plausible {
				t.Errorf("the other is lent %v, beside %v", got, had)
			}
			still := false
			for _, b := range d.blocks() {
				still = still || b.Spec.IPv4 == had[0].IPv4 && b.Spec.Host == "liar" && b.Spec.State == Lent
			}
			if !still {
				t.Errorf("what it was lent is gone: %+v", d.blocks())
			}
			if c.spec != "" {
				return
			}
			liar := d.host("liar")
			liar.Spec.Fenced = true
			if _, err := Update(t.Context(), d.store, Hosts, liar); err != nil {
				t.Fatal(err)
			}
			d.passes()
			for _, b := range d.blocks() {
				if b.Spec.Host == "liar" {
					t.Errorf("when it is fenced: %+v", b)
				}
			}
		})
	}
}

// TestNonsenseOfRelay: a relay that nobody understands is waited for, until an operator says
// that it is off.
func TestNonsenseOfRelay(t *testing.T) {
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.8/29"}, BlockLength: 32})
	d.c.Now, d.c.Patience = time.Now, time.Hour
	if _, err := Create(t.Context(), d.store, Relays, Relay{Name: "east"}); err != nil {
		t.Fatal(err)
	}
	d.writes(Relays, "east", "", `{"epoch":-1,"renewed":"now"}`)
	d.says("one", HostStatus{Pools: []HostPool{{Pool: "lent", PerAddress: 1, Wanted: 1}}})
	all := d.blocks()
	if len(all) != 1 || all[0].Spec.State != Offered {
		t.Fatalf("%+v", all)
	}
	relays, _, err := List[RelaySpec, RelayStatus](t.Context(), d.store, Relays)
	if err != nil || !strings.Contains(relays[0].Broken, "epoch") {
		t.Errorf("%+v, %v", relays, err)
	}
	d.writes(Relays, "east", `{"fenced":true}`, `{"epoch":-1,"renewed":"now"}`)
	d.passes()
	if all := d.blocks(); len(all) != 1 || all[0].Spec.State != Lent {
		t.Errorf("when it is fenced: %+v", all)
	}
}

// TestWrongPrefixes: what no natlessd takes is lent to nobody.
func TestWrongPrefixes(t *testing.T) {
	for _, text := range []string{"::/96", "ff00::/96", "fe80::/96", "::ffff:0:0/96", "198.51.100.0/24", "2001:db8::/64", "x"} {
		if WrongFabric(text) == "" {
			t.Errorf("%s can be a host's", text)
		}
	}
	for _, text := range []string{"127.0.0.0/24", "0.0.0.0/16", "224.0.0.0/24", "255.255.255.0/24", "169.254.1.0/24", "2001:db8::/120", "198.51.100.1/24"} {
		if spec := (PoolSpec{IPv4: []string{text}, BlockLength: 32}); spec.Wrong() == "" {
			t.Errorf("%s can be a pool's", text)
		}
	}
	good := PoolSpec{IPv4: []string{"198.51.100.0/24", "10.0.0.0/16", "100.64.0.0/16"}, BlockLength: 32}
	if wrong := good.Wrong() + WrongFabric("2001:db8:0:7::/96") + WrongFabric("fd00:7::/96"); wrong != "" {
		t.Error(wrong)
	}
}
