//go:build linux

package engine

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// diverted is a fast path that notes what it is told.
type diverted struct {
	said  []bool
	until atomic.Pointer[time.Time]
	wrong error
}

func (f *diverted) divert(during time.Duration) error {
	if f.wrong == nil {
		f.said = append(f.said, during > 0)
		until := time.Now().Add(during)
		f.until.Store(&until)
	}
	return f.wrong
}

// on says that packets go by the daemon just now.
func (f *diverted) on() bool { return f.until.Load().After(time.Now()) }

func TestDiversion(t *testing.T) {
	var none Diversion
	if end, err := none.All(); err != nil || none.Note(true) != "" {
		t.Error(err, none.Note(true))
	} else {
		end()
	}
	none.Sample()()
	var f diverted
	d := Diversion{divert: f.divert, interfaces: func() int { return 3 }}
	for _, sampled := range []bool{false, true} {
		if note := d.Note(sampled); !strings.Contains(note, "on 3 interfaces") || strings.Contains(note, "--all") != sampled {
			t.Error(note)
		}
	}
	first, err1 := d.All()
	second, err2 := d.All()
	if err1 != nil || err2 != nil || d.Note(true) != "" {
		t.Error(err1, err2, d.Note(true))
	}
	first()
	if len(f.said) != 1 || !f.said[0] {
		t.Error(f.said)
	}
	second()
	if len(f.said) != 2 || f.said[1] {
		t.Error(f.said)
	}
	if f.wrong = errors.New("no map"); d.Note(true) == "" {
		t.Error("no note")
	}
	if _, err := d.All(); !errors.Is(err, f.wrong) || d.all != 0 {
		t.Error(err, d.all)
	}
}

// TestSample: few packets are seen all, of many no more than a sample in each period,
// however many look; somebody who wants all gets all; in the end no packet is diverted.
func TestSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f diverted
		var rate, translated atomic.Uint64 // packets of a millisecond; those that the daemon gets
		d := Diversion{divert: f.divert, interfaces: func() int { return 1 }, daemon: translated.Load}
		flows := func(duration time.Duration) (seen uint64) {
			before := translated.Load()
			for range duration / time.Millisecond {
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if f.on() {
					translated.Add(rate.Load())
				}
			}
			return translated.Load() - before
		}
		end, other := d.Sample(), d.Sample()
		synctest.Wait()
		rate.Store(0)
		flows(10 * time.Millisecond)
		rate.Store(1) // 1000 a second, but for the last of a period
		if seen := flows(5 * time.Second); seen < 4900 {
			t.Errorf("of 5000 packets in 5 s %d were seen", seen)
		}
		rate.Store(100)
		flows(time.Second) // the period in which there become many
		if seen := flows(10 * time.Second); seen < 10*sampleMost || seen > 10*(sampleMost+100*6) {
			t.Errorf("of 1,000,000 packets in 10 s %d were seen", seen)
		}
		other()
		all, err := d.All()
		if err != nil {
			t.Fatal(err)
		}
		if seen := flows(5 * divertFor); seen != uint64(5*divertFor/time.Millisecond)*100 {
			t.Errorf("who wants all sees %d packets, 100 a millisecond", seen)
		}
		end()
		if !f.on() {
			t.Error("who wants all gets none when the sampling ends")
		}
		all()
		if seen := flows(time.Second); seen != 0 || f.on() {
			t.Errorf("%d are diverted when nobody looks", seen)
		}
	})
}
