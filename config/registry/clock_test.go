package registry

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClockIsSet: whatever the clock does while no daemon runs or while one does,
// a set cools down for its cooldown at most, and nothing ends before it began.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	year := 365 * 24 * time.Hour
	for _, jump := range []time.Duration{-40 * year, -time.Hour, 0, time.Hour, 40 * year} {
		path := filepath.Join(t.TempDir(), "r.db")
		pool := Pool{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/32"), Whole: true, Cooldown: time.Minute}
		c := &clock{time.Unix(1_700_000_000, 0)}
		o := Options{Path: path, History: 10, Pools: []Pool{pool}, Now: c.Now}
		r, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		a := mustPut(t, r, 1, request(1))
		c.advance(time.Second)
		if err := r.Delete(t.Context(), key(1)); err != nil {
			t.Fatal(err)
		}
		r.Close()
		c.advance(jump)
		if r, err = Open(o); err != nil {
			t.Fatal(err)
		}
		_, err = r.Put(t.Context(), key(2), request(2))
		if full := (*ExhaustedError)(nil); jump < time.Minute && !errors.As(err, &full) || jump > time.Minute && err != nil {
			t.Errorf("%v: at once: %v", jump, err)
		}
		c.advance(time.Minute)
		mustPut(t, r, 2, request(2)) // which waits for a year where the clock is believed
		c.advance(jump)
		if err := r.Delete(t.Context(), key(2)); err != nil {
			t.Fatal(err)
		}
		port := netip.AddrPortFrom(a.Address, 1)
		if o, err := r.Whois(port, time.Unix(1_700_000_000, 1)); jump == 0 && (err != nil || o.Key != key(1)) {
			t.Errorf("%v: who had it: %v, %v", jump, o, err)
		}
		r.Close()
		if _, err := Check(path); err != nil {
			t.Error(err)
		}
	}
}

// When the clock was set back, two may have had a port at the same time by it:
// then whois says so instead of naming one of them.
func TestWhoisAfterClockWasSetBack(t *testing.T) {
	t.Parallel()
	r, c := start(t, Pool{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/32"), Whole: true})
	begin := c.Time
	a := mustPut(t, r, 1, request(1))
	port := netip.AddrPortFrom(a.Address, 80)
	c.advance(time.Hour)
	if err := r.Delete(t.Context(), key(1)); err != nil {
		t.Fatal(err)
	}
	c.advance(-30 * time.Minute)
	mustPut(t, r, 2, request(2)) // from the half of the first's hour, by the clock
	whois := func(after time.Duration) string {
		at := begin.Add(after)
		o, err := r.Whois(port, at)
		var two *AmbiguousError
		switch {
		case errors.As(err, &two):
			return "ambiguous"
		case err != nil:
			return err.Error()
		}
		return o.Key.String()
	}
	for after, want := range map[time.Duration]string{
		time.Minute: key(1).String(), 45 * time.Minute: "ambiguous", 61 * time.Minute: key(2).String(),
		-time.Minute: port.String() + ": not found",
	} {
		if got := whois(after); got != want {
			t.Errorf("after %v: %s, want %s", after, got, want)
		}
	}
	c.advance(-20 * time.Minute) // before the second began
	if got := whois(10*time.Minute + time.Second); got != "ambiguous" {
		t.Errorf("now, before it began: %s", got)
	}
	if err := r.Delete(t.Context(), key(2)); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(dump(t, r), "\n") {
		if strings.HasPrefix(line, "history") && strings.Contains(line, key(2).String()) && !strings.Contains(line, " 1700001800 1700001800 ") {
			t.Errorf("ended before it began: %s", line)
		}
	}
}
