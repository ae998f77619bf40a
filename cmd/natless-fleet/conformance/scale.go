package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// ScaleRelays has many relays follow changes of many blocks, and prints how long it takes until
// the last of them goes by each, and until the fleet knows. open gives a client of its own.
// What natlessd itself takes is not in it: the rules are applied, and nothing is written.
func ScaleRelays(t *testing.T, open func() fleet.Store, relays, blocks, changes int) {
	s := open()
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for n := w; n < blocks; n += 16 {
				b := block(n)
				b.Spec.State, b.Spec.IPv6 = fleet.Lent, fmt.Sprintf("2001:db8:0:1::%x/128", n+1)
				if _, err := fleet.Create(t.Context(), s, fleet.Blocks, b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer all.Wait()
	defer cancel()
	type told struct {
		relay int
		epoch uint64
	}
	applied := make(chan told, relays*changes*4)
	began := time.Now()
	for n := range relays {
		d := &Relayd{Applied: func(epoch uint64) { applied <- told{n, epoch} }}
		task := fleet.RelayTask{Beat: 10 * time.Second, Reread: time.Hour, RelayAgent: fleet.RelayAgent{Name: fmt.Sprintf("relay%03d", n), Store: open(), Natlessd: d,
			Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
		all.Go(func() { task.Run(ctx) })
	}
	acknowledged := func(b fleet.Block) bool {
		list, _, err := fleet.List[fleet.RelaySpec, fleet.RelayStatus](t.Context(), s, fleet.Relays)
		return err == nil && len(list) == relays && len(fleet.Unacknowledged(b, list)) == 0
	}
	first := get(t, s, block(0).Name)
	for end := time.Now().Add(patience * 3); !acknowledged(first); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not all relays have begun")
		}
	}
	t.Logf("%d relays begin at once with %d blocks each: all go by them, and have said so, after %v", relays, blocks, time.Since(began).Round(time.Millisecond))
	heard := hear(t, s)
	var force, known []time.Duration
	before := processor(t)
	for n := range changes {
		b := get(t, s, block(n%blocks).Name)
		if b.Spec.State = fleet.Ended; n/blocks%2 == 1 {
			b.Spec.State = fleet.Offered
		}
		began := time.Now()
		b, err := fleet.Update(t.Context(), s, fleet.Blocks, b)
		if err != nil {
			t.Fatal(err)
		}
		version, err := strconv.ParseUint(b.Version, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		have, deadline := map[int]bool{}, time.After(patience)
		for len(have) < relays {
			select {
			case one := <-applied:
				if one.epoch >= version {
					have[one.relay] = true
				}
			case <-deadline:
				t.Fatalf("change %d: %d of %d relays go by it", n, len(have), relays)
			}
		}
		force = append(force, time.Since(began))
		heard.until(t, s, version)
		known = append(known, time.Since(began))
	}
	t.Logf("processor time of a change, of all %d relays together, and of etcd, which is in this process (kube-apiserver is not): %v", relays,
		((processor(t) - before) / time.Duration(changes)).Round(100*time.Microsecond))
	says := func(what string, took []time.Duration) {
		slices.Sort(took)
		t.Logf("%d changes at %s: p50 %v, p99 %v, longest %v", changes, what, took[len(took)/2].Round(100*time.Microsecond),
			took[len(took)*99/100].Round(100*time.Microsecond), took[len(took)-1].Round(100*time.Microsecond))
	}
	load, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(load), " ")
	says("load "+one+", until a change is in force on the last relay (goal: p99 250ms)", force)
	says("load "+one+", until the fleet knows that it is in force on all", known)
}

// acks are the epochs that relays have acknowledged, as a watch tells it.
type acks struct {
	events <-chan fleet.Event
	of     map[string]uint64
}

func hear(t *testing.T, s fleet.Store) *acks {
	t.Helper()
	list, revision, err := fleet.List[fleet.RelaySpec, fleet.RelayStatus](t.Context(), s, fleet.Relays)
	a := &acks{of: map[string]uint64{}}
	if err == nil {
		a.events, err = s.Watch(t.Context(), fleet.Relays, "", revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		a.of[r.Name] = r.Status.Epoch
	}
	return a
}

// until waits until all have acknowledged a revision. A server ends a watch now and then.
func (a *acks) until(t *testing.T, s fleet.Store, revision uint64) {
	t.Helper()
	behind := func() (n int) {
		for _, epoch := range a.of {
			if epoch < revision {
				n++
			}
		}
		return n
	}
	for deadline := time.After(patience); behind() > 0; {
		select {
		case e, open := <-a.events:
			if !open {
				*a = *hear(t, s)
				continue
			}
			var st fleet.RelayStatus
			if err := json.Unmarshal(e.Object.Status, &st); err != nil {
				t.Fatal(err)
			}
			a.of[e.Object.Name] = st.Epoch
		case <-deadline:
			t.Fatalf("%d relays have not acknowledged %d", behind(), revision)
		}
	}
}

// processor is the processor time that this process has taken.
func processor(t *testing.T) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
