//go:build linux

package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// held is what the maps hold, in any order.
type held struct {
	by6    map[programKey6]programEntry6
	by4    map[programKey4]programEntry4
	ports  map[programKeyPort]programEntry4
	config programConfig
}

func (f *FastPath) held(t *testing.T) held {
	t.Helper()
	h := held{map[programKey6]programEntry6{}, map[programKey4]programEntry4{}, map[programKeyPort]programEntry4{}, programConfig{}}
	f.inner.by6.each(func(k programKey6, e programEntry6) { h.by6[k] = e })
	f.inner.by4.each(func(k programKey4, e programEntry4) { h.by4[k] = e })
	f.inner.ports.each(func(k programKeyPort, e programEntry4) { h.ports[k] = e })
	var current uint32
	if err := errors.Join(f.maps.Active.Lookup(uint32(0), &current), f.maps.Configs.Lookup(current, &h.config)); err != nil {
		t.Fatal(err)
	}
	return h
}

// wanted is what they are to hold.
func (f *FastPath) wanted(t *testing.T, tables *Tables) held {
	t.Helper()
	h := held{map[programKey6]programEntry6{}, map[programKey4]programEntry4{}, map[programKeyPort]programEntry4{}, programConfig{}}
	c, s := encode(tables)
	for i, k := range c.keys6 {
		h.by6[k] = c.entries6[i]
	}
	for i, k := range c.keys4 {
		h.by4[k] = c.entries4[i]
	}
	for i, k := range c.keysPort {
		h.ports[k] = c.ownerPort[i]
	}
	var err error
	if h.config, err = s.config(tables, f.fibFlags, f.inner.perMapping); err != nil {
		t.Fatal(err)
	}
	for i, word := range s.near {
		var has uint64
		if err := f.inner.near.Lookup(uint32(i), &has); err != nil || has&word != word {
			t.Fatalf("near[%d] is %x, lacks some of %x (%v)", i, has, word, err)
		}
	}
	return h
}

func (h held) same(o held) error {
	o.config.Generation = h.config.Generation // of which the tables know nothing
	for _, d := range []struct {
		name      string
		got, want any
	}{{"config", h.config, o.config}, {"by6", h.by6, o.by6}, {"by4", h.by4, o.by4}, {"ports", h.ports, o.ports}} {
		if got, want := fmt.Sprintf("%v", d.got), fmt.Sprintf("%v", d.want); got != want {
			return fmt.Errorf("%s holds\n%s\nwant\n%s", d.name, got, want)
		}
	}
	return nil
}

// tables is a table for tests, without a workload's interface.
func tables(t testing.TB, prefix string, mappings ...mapping.Mapping) Tables {
	t.Helper()
	table, err := mapping.New(netip.MustParsePrefix(prefix), mappings)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8:ffff::1"), AllowNonGlobal: true}, table)
	if err != nil {
		t.Fatal(err)
	}
	return Tables{Table: table, Config: tr.Config(), Interface: func(m mapping.Mapping) int { return m.IPv6.Bits() }}
}

// randomMapping is one out of few, so that they meet: of all kinds and lengths,
// in the prefix and out of it, sharing addresses and not.
func randomMapping(r *rand.Rand) mapping.Mapping {
	n := byte(r.IntN(24))
	v6 := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(r.IntN(2)), 15: n})
	v4 := netip.AddrFrom4([4]byte{10, 1 + n%3, n, n})
	switch r.IntN(4) {
	case 0:
		m := mapping.Mapping{IPv6: netip.PrefixFrom(v6, 96+r.IntN(4)*8), IPv4: netip.PrefixFrom(v4, 24+r.IntN(3)*4)}
		m.IPv6, m.IPv4 = m.IPv6.Masked(), m.IPv4.Masked()
		return m
	case 1:
		first := uint16(1024 * (1 + r.IntN(40)))
		return mapping.Mapping{IPv6: netip.PrefixFrom(v6, 128), IPv4: netip.PrefixFrom(v4, 32),
			Ports: ports.Of(ports.Range{First: first, Last: first + uint16(r.IntN(1024))})}
	case 2:
		first := uint16(2048 * (1 + r.IntN(20)))
		return mapping.Mapping{IPv6: netip.PrefixFrom(v6, 128), IPv4: netip.PrefixFrom(v4, 32),
			Ports: ports.Of(ports.Single(first), ports.Range{First: first + 7, Last: first + 200})}
	}
	return mapping.Mapping{IPv6: netip.PrefixFrom(v6, 128), IPv4: netip.PrefixFrom(v4, 32)}
}

// TestEdit makes random edits: the maps hold, after each, what they would hold
// were they written anew.
func TestEdit(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	f := loaded(t)
	if err := f.Edit(nil, nil, nil); err == nil {
		t.Error("tables that are not there can be edited")
	}
	now := tables(t, "2001:db8:1::/96")
	if err := f.Replace(now); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(6, 1))
	var in []mapping.Mapping
	var plan *Plan // begun at each 20th edit, and edited like what is in use
	for n := range 300 {
		f.crowded = n > 150
		switch n % 20 {
		case 0:
			plan = f.Plan(now)
		case 10:
			if err := plan.Commit(now); err != nil {
				t.Fatalf("plan, before edit %d: %v", n, err)
			}
			if err := f.held(t).same(f.wanted(t, &now)); err != nil {
				t.Fatalf("plan, before edit %d: %v", n, err)
			}
		}
		edit := now.Table.Edit()
		var removed, added []mapping.Mapping
		for range 1 + r.IntN(3) {
			if len(in) > 0 && r.IntN(100) < 40+len(in) {
				i := r.IntN(len(in))
				m := in[i]
				if err := edit.Remove(m); err != nil {
					t.Fatal(err)
				}
				in = append(in[:i], in[i+1:]...)
				removed = append(removed, m)
			}
		}
		for range r.IntN(4) {
			if m := randomMapping(r); edit.Insert(m) == nil {
				in, added = append(in, m), append(added, m)
			}
		}
		now.Table = edit.Table()
		if err := f.Edit(now.Table, removed, added); err != nil {
			t.Fatalf("edit %d: %v", n, err)
		}
		if err := f.held(t).same(f.wanted(t, &now)); err != nil {
			t.Fatalf("edit %d, without %v, with %v: %v", n, removed, added, err)
		}
		if n%20 < 10 {
			plan.Edit(now.Table, removed, added)
			continue
		}
		if n%3 > 0 {
			continue
		}
		now.Config = randomConfig(r, now.Config)
		if err := f.Configure(now.Config); err != nil {
			t.Fatalf("configuration %d: %v", n, err)
		}
		if err := f.held(t).same(f.wanted(t, &now)); err != nil {
			t.Fatalf("configuration %d, %+v: %v", n, now.Config, err)
		}
	}
}

// randomConfig is c with other blocks of addresses and MTUs.
func randomConfig(r *rand.Rand, c translator.Config) translator.Config {
	c.MTU4, c.Pools4, c.ICMPSource4 = 1400+r.IntN(100), nil, netip.Prefix{}
	for range r.IntN(4) {
		c.Pools4 = append(c.Pools4, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(5)), byte(r.IntN(3)), 0}), 14+r.IntN(3)*8).Masked())
	}
	if r.IntN(2) == 0 {
		c.ICMPSource4 = netip.MustParsePrefix("10.77.0.0/24")
	}
	return c
}

// TestUnsupported passes everything on, and says why.
func TestUnsupported(t *testing.T) {
	r := newRig(t)
	f := loaded(t)
	newPair(t, r, prefixed()[0], f)
	traffic(t, r, f, 1)
	good := *f.tables
	bare, err := mapping.New(netip.Prefix{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var many []mapping.Mapping
	for length := 32; length < 32+2*maxLengths; length += 2 {
		p := netip.PrefixFrom(netip.MustParseAddr("2001:db8::"), length)
		many = append(many, mapping.Mapping{IPv6: p, IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{9, 9, 9, byte(length)}), 32)})
	}
	many = append(many, mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8::/127"), IPv4: netip.MustParsePrefix("9.9.9.1/32")})
	for name, change := range map[string]func(*Tables){
		"no prefix":    func(t *Tables) { t.Table = bare },
		"client":       func(t *Tables) { t.Config.Client = true },
		"many lengths": func(n *Tables) { n.Table = tables(t, "64:ff9b::/96", many...).Table },
	} {
		if err := f.Replace(good); err != nil {
			t.Fatal(err)
		}
		traffic(t, r, f, 1)
		bad := good
		change(&bad)
		if err := f.Replace(bad); !errors.As(err, new(*UnsupportedError)) {
			t.Errorf("%s: %v", name, err)
		}
		r.Do(func() {
			run := newRunner(f.Uplink.FD(), r.up, r.upMAC)
			if a, _, err := run.run(reference.Packet{Bytes: udp4(20)}, 0); err != nil || a != actNext {
				t.Errorf("%s: action %d, %v", name, int32(a), err)
			}
		})
	}
}

// TestMillion writes a million mappings, and edits them at no greater cost than
// few.
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a GB and some seconds")
	}
	netns.Require(t, netns.Root)
	f := loaded(t)
	number := func(i uint32) mapping.Mapping {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 20<<24+i)
		b := [16]byte{0x20, 1, 0xd, 0xb8, 0, 7}
		binary.BigEndian.PutUint32(b[12:], i)
		return mapping.Mapping{IPv6: netip.PrefixFrom(netip.AddrFrom16(b), 128), IPv4: netip.PrefixFrom(netip.AddrFrom4(a), 32)}
	}
	for _, n := range []uint32{100, 1_000_000} {
		var list []mapping.Mapping
		for i := range n {
			list = append(list, number(i))
		}
		now := tables(t, "64:ff9b::/96", list...)
		began := time.Now()
		if err := f.Replace(now); err != nil {
			t.Fatal(err)
		}
		replaced := time.Since(began)
		began = time.Now()
		plan := f.Plan(now)
		planned := time.Since(began)
		began = time.Now()
		if err := plan.Commit(now); err != nil {
			t.Fatal(err)
		}
		committed := time.Since(began)
		began = time.Now()
		for i := range uint32(200) {
			m := number(2_000_000 + i)
			table, err := now.Table.Insert(m)
			if err != nil {
				t.Fatal(err)
			}
			now.Table = table
			if err := f.Edit(table, nil, []mapping.Mapping{m}); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d mappings: written in %v, planned in %v and committed in %v, one more in %v", n, replaced, planned, committed, time.Since(began)/200)
		if f.tables.Table.Len() != int(n)+200 {
			t.Error("tables lack what was added")
		}
	}
}
