//go:build linux

package daemon

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator"
)

// newUse is first use of a pool, with a registry and no host.
func newUse(t *testing.T, rules config.FirstUse) *firstUse {
	t.Helper()
	pool := registry.Pool{Name: "a", IPv4: netip.MustParsePrefix("198.51.100.0/28"), Whole: true}
	r, err := registry.Open(registry.Options{Path: filepath.Join(t.TempDir(), "registry.db"), Pools: []registry.Pool{pool}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	k := &keeper{Registry: r, log: slog.New(slog.DiscardHandler), put: make(chan struct{}, 1)}
	c := &config.Config{Pools: []config.Pool{{Name: "a", FirstUse: rules}}}
	return newFirstUse(k, func() *config.Config { return c }, k.log)
}

func useOf(sources ...string) config.FirstUse {
	f := config.FirstUse{Idle: time.Hour, MostPerPrefix: 2, Rate: 10}
	for _, s := range sources {
		f.Sources = append(f.Sources, netip.MustParsePrefix(s))
	}
	return f
}

// from is a packet from an address, of a length.
func from(a string, length int) *translator.Packet {
	b := make([]byte, translator.Headroom+length+translator.Tailroom)
	b[translator.Headroom] = 6 << 4
	src := netip.MustParseAddr(a).As16()
	copy(b[translator.Headroom+8:], src[:])
	return &translator.Packet{Buf: b, Start: translator.Headroom, End: translator.Headroom + length}
}

// TestFirstUseHolds: what waits is bounded for each sender, for each /64 in rate, and in all;
// who is beyond that in rate hears of it, who has packets that wait does not.
func TestFirstUseHolds(t *testing.T) {
	f := newUse(t, useOf("2001:db8:7::/48"))
	for i := range 2 * firstUsePackets {
		if !f.offer(from("2001:db8:7::1", 100)) {
			t.Fatalf("packet %d of one sender was refused", i)
		}
	}
	if got := len(f.waiting[netip.MustParseAddr("2001:db8:7::1")].packets); got != firstUsePackets || f.counts.Dropped != firstUsePackets {
		t.Errorf("%d packets wait, %d were dropped; want %d of each", got, f.counts.Dropped, firstUsePackets)
	}
	taken := 0
	for i := range 500 {
		a := netip.MustParseAddr("2001:db8:7::1:0").As16()
		a[14], a[15] = byte(i>>8), byte(i)
		if f.offer(from(netip.AddrFrom16(a).String(), 100)) {
			taken++
		}
	}
	if taken < 5 || taken > 100 { // 20 at once, and what comes meanwhile
		t.Errorf("%d of 500 sources of one /64 were taken", taken)
	}
	if !f.offer(from("2001:db8:7:1::1", 100)) {
		t.Error("one source's /64 has no budget, since another's is used up")
	}
	if f.offer(from("2001:db8:8::1", 100)) {
		t.Error("a source that is none of the configuration's was taken")
	}
	if refused := f.counts.Refused[refusedRate]; refused < 400 {
		t.Errorf("%d were refused for their rate", refused)
	}
	if len(f.queue) != len(f.waiting) || len(f.waiting) > firstUseSenders {
		t.Errorf("%d in the queue, %d wait", len(f.queue), len(f.waiting))
	}
}

func TestFirstUseHoldsBytes(t *testing.T) {
	f := newUse(t, config.FirstUse{Sources: []netip.Prefix{netip.MustParsePrefix("2001:db8:7::/48")}, Idle: time.Hour, MostPerPrefix: 100, Rate: 1000})
	for i := range 200 {
		a := netip.MustParseAddr("2001:db8:7::").As16()
		a[7] = byte(i)
		f.offer(from(netip.AddrFrom16(a).String(), 60_000))
	}
	if f.bytes > firstUseBytes || f.bytes < firstUseBytes-60_000 {
		t.Errorf("%d bytes wait", f.bytes)
	}
}

// given puts an assignment into the registry as first use would.
func given(t *testing.T, f *firstUse, a string) *registry.Assignment {
	t.Helper()
	addr := netip.MustParseAddr(a)
	got, err := f.keeper.Registry.Put(t.Context(), firstUseKey(addr), api.Request{IPv6: []netip.Addr{addr}, Inside: api.IPv4Prefix})
	if err != nil {
		t.Fatal(err)
	}
	f.changed(registry.Change{New: got})
	return got
}

// TestFirstUseReserve: one /64 has no more than it may, and all together leave others as much
// as they have.
func TestFirstUseReserve(t *testing.T) {
	f := newUse(t, useOf("2001:db8:7::/48"))
	pool := &f.running().Pools[0]
	given(t, f, "2001:db8:7::1")
	two := given(t, f, "2001:db8:7::2")
	if reason := f.reserve(pool, netip.MustParseAddr("2001:db8:7::3")); reason != refusedPrefix {
		t.Errorf("a third of one /64: %q", reason)
	}
	if err := f.keeper.Registry.Delete(t.Context(), two.Key); err != nil { // by hand
		t.Fatal(err)
	}
	f.changed(registry.Change{Old: two})
	if reason := f.reserve(pool, netip.MustParseAddr("2001:db8:7::3")); reason != "" {
		t.Errorf("when one is gone: %q", reason)
	}
	f.made("a", netip.MustParseAddr("2001:db8:7::3"))
	for i, room := 0, f.headroom("a"); ; i++ {
		a := netip.MustParseAddr("2001:db8:7:100::").As16()
		a[7] = byte(i)
		addr := netip.AddrFrom16(a)
		if reason := f.reserve(pool, addr); reason == refusedMost {
			if left := f.headroom("a"); left < room/2-1 || left > room/2+2 {
				t.Errorf("%d of %d are left for others", left, room)
			}
			return
		} else if reason != "" || i > room {
			t.Fatalf("source %d: %q", i, reason)
		}
		if n := f.of("a"); n != i+1 || f.status()[0].Workloads != n {
			t.Errorf("%d are said to have something before source %d is given it", n, i)
		}
		given(t, f, addr.String())
		if n := f.of("a"); n != i+2 {
			t.Errorf("%d are said to have something when source %d has just been given it", n, i)
		}
		f.made("a", addr)
	}
}

// TestFirstUseReserveTogether: half of the pool is left also by those who begin at once.
func TestFirstUseReserveTogether(t *testing.T) {
	f := newUse(t, useOf("2001:db8:7::/48"))
	pool, room := &f.running().Pools[0], f.headroom("a")
	var all sync.WaitGroup
	var taken atomic.Int64
	for i := range room {
		all.Go(func() {
			a := netip.MustParseAddr("2001:db8:7:100::").As16()
			a[7] = byte(i)
			if f.reserve(pool, netip.AddrFrom16(a)) == "" {
				taken.Add(1)
			}
		})
	}
	all.Wait()
	if n := int(taken.Load()); n != room/2 {
		t.Errorf("%d of %d are reserved by those who begin at once, want half", n, room)
	}
}

// TestFirstUseUnknownIsNotIdle: who cannot be counted, or has just come, or was there when the
// daemon began, is in use; who was counted and did nothing for long enough is idle.
func TestFirstUseUnknownIsNotIdle(t *testing.T) {
	f := newUse(t, useOf("2001:db8:7::/48"))
	a := given(t, f, "2001:db8:7::1")
	packets, known := uint64(7), true
	f.activity = func(netip.Prefix) (uint64, bool) { return packets, known }
	now := time.Now()
	looks := func(after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		if got := len(f.idle(now)) == 1; got != want {
			t.Errorf("%v later it is idle: %v", after, got)
		}
	}
	looks(2*time.Hour, false) // counted for the first time
	looks(59*time.Minute, false)
	packets++
	looks(59*time.Minute, false)
	looks(59*time.Minute, false)
	known = false
	looks(2*time.Hour, false)
	known = true
	looks(2*time.Hour, false) // what happened meanwhile nobody knows
	looks(59*time.Minute, false)
	looks(time.Minute, true)
	again := newFirstUse(f.keeper, f.running, f.log) // the daemon begins anew
	again.activity = f.activity
	if len(again.users()) != 1 || again.byPool["a"] != 1 || len(again.idle(time.Now().Add(2*time.Hour))) != 0 {
		t.Errorf("after a restart: %v, %v", again.users(), again.byPool)
	}
	if !byFirstUse(a.Key) || byFirstUse(api.Key{ContainerID: "c", Interface: firstUseInterface}) {
		t.Error("keys of first use are not told from others")
	}
}
