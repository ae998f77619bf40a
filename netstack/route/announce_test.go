package route

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heard is what a made-up link hears.
type heard struct {
	*announcer
	now  time.Time
	all  []netip.Addr
	at   map[netip.Addr][]time.Duration
	fail error
}

func newHeard() *heard {
	h := &heard{now: time.Unix(1e9, 0), at: map[netip.Addr][]time.Duration{}}
	start := h.now
	h.announcer = newAnnouncer(func(_ uplinkLink, a netip.Addr) error {
		if h.fail == nil {
			h.all = append(h.all, a)
			h.at[a] = append(h.at[a], h.now.Sub(start))
		}
		return h.fail
	}, slog.New(slog.DiscardHandler))
	return h
}

// pass lets time go by as run does.
func (h *heard) pass(d time.Duration) {
	for end := h.now.Add(d); h.now.Before(end); h.now = h.now.Add(announceTick) {
		h.batch(h.now)
	}
}

func (h *heard) took() []netip.Addr {
	defer func() { h.all = nil }()
	return h.all
}

var upLink = uplinkLink{index: 2, mac: [6]byte{2, 0, 0, 0, 0, 1}, up: true, source6: netip.MustParseAddr("fe80::1")}

func answered(addrs ...string) (out []proxy) {
	for _, a := range addrs {
		out = append(out, proxy{"eth0", netip.MustParseAddr(a)})
	}
	return out
}

func times(n int, addrs ...string) (out []netip.Addr) {
	for range n {
		for _, p := range answered(addrs...) {
			out = append(out, p.addr)
		}
	}
	return out
}

// TestAnnouncements goes through what makes an address be announced.
func TestAnnouncements(t *testing.T) {
	h := newHeard()
	two := answered("192.0.2.5", "2001:db8::1")
	other, down, later := upLink, upLink, upLink
	other.mac[5], down.up, later.index = 2, false, 7
	no6 := later
	no6.source6 = netip.Addr{}
	for _, step := range []struct {
		what string
		do   func()
		want []netip.Addr
	}{
		{"start", func() { h.follow(upLink, two) }, times(3, "192.0.2.5", "2001:db8::1")},
		{"the same again", func() { h.follow(upLink, two) }, nil},
		{"a new one", func() { h.follow(upLink, answered("192.0.2.5", "2001:db8::1", "192.0.2.6")) }, times(3, "192.0.2.6")},
		{"one that goes", func() { h.follow(upLink, two) }, nil},
		{"and comes back", func() { h.follow(upLink, answered("192.0.2.5", "2001:db8::1", "192.0.2.6")) }, times(3, "192.0.2.6")},
		{"another MAC address", func() { h.follow(other, two) }, times(3, "192.0.2.5", "2001:db8::1")},
		{"no carrier", func() { h.follow(down, two) }, nil},
		{"a new one meanwhile", func() { h.follow(down, answered("192.0.2.5", "192.0.2.7")) }, nil},
		{"up again", func() { h.follow(upLink, answered("192.0.2.5", "192.0.2.7")) }, times(3, "192.0.2.5", "192.0.2.7")},
		{"another interface of the name", func() { h.follow(later, two) }, times(3, "192.0.2.5", "2001:db8::1")},
		{"told by the kernel", func() { h.again.Store(true); h.follow(later, two) }, times(3, "192.0.2.5", "2001:db8::1")},
		{"without an IPv6 source", func() { h.follow(no6, two) }, nil},
		{"and with one", func() { h.follow(later, two) }, times(3, "2001:db8::1")},
		{"a first workload", func() { h.assigned(netip.MustParseAddr("192.0.2.5")) }, times(3, "192.0.2.5")},
		{"of an address that is not answered for", func() { h.assigned(netip.MustParseAddr("192.0.2.99")) }, nil},
	} {
		step.do()
		h.pass(10 * time.Second)
		if got := h.took(); !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
}

// TestAnnouncementsPaced: the largest uplink's addresses do not storm, what is
// newest comes first, and each comes three times, apart.
func TestAnnouncementsPaced(t *testing.T) {
	h := newHeard()
	var all []proxy
	for a := netip.MustParseAddr("10.0.0.0"); len(all) < maxProxies; a = a.Next() {
		all = append(all, proxy{"eth0", a})
	}
	h.follow(upLink, all[1:])
	h.pass(time.Second)
	perSecond := announceBatch * int(time.Second/announceTick)
	if n := len(h.took()); n == 0 || n > perSecond {
		t.Errorf("%d announcements in the first second, want some and at most %d", n, perSecond)
	}
	h.follow(upLink, append(all[1:], all[0]))
	h.pass(announceTick)
	if got := h.took(); len(got) != announceBatch || got[0] != all[0].addr {
		t.Errorf("after a new address: %v", got)
	}
	h.pass(30 * time.Second)
	for _, p := range all {
		at := h.at[p.addr]
		if len(at) != announceRounds || at[1]-at[0] < announceInterval || at[2]-at[1] < announceInterval {
			t.Fatalf("%v was announced at %v", p.addr, at)
		}
	}
}

// TestAnnouncementsBounded: an address whose workloads come and go is announced
// now and then, and a link that is gone asks for nothing until it is back.
func TestAnnouncementsBounded(t *testing.T) {
	h := newHeard()
	h.follow(upLink, answered("192.0.2.5"))
	h.pass(10 * time.Second)
	h.took()
	for range 100 {
		h.assigned(netip.MustParseAddr("192.0.2.5"))
	}
	h.pass(10 * time.Second)
	if got := h.took(); !slices.Equal(got, times(3, "192.0.2.5")) {
		t.Errorf("a hundred workloads one after the other: %v", got)
	}
	h.fail = unix.ENXIO
	h.follow(upLink, answered("192.0.2.5", "192.0.2.6"))
	if wait := h.batch(h.now); wait != 0 {
		t.Errorf("a link that is gone is asked for again in %v", wait)
	}
	h.fail = nil
	h.follow(upLink, answered("192.0.2.5", "192.0.2.6"))
	h.pass(10 * time.Second)
	if got := h.took(); !slices.Equal(got, times(3, "192.0.2.5", "192.0.2.6")) {
		t.Errorf("when it is back: %v", got)
	}
}
