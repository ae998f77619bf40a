package registry

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

// changedRelay is a state without loans and with rules, and the delta that says so.
func changedRelay(t *testing.T, r lease.Relay, epoch uint64, gone []api.Loan, come ...api.Rule) (lease.Relay, api.RuleDelta) {
	t.Helper()
	var sum api.RuleSum
	for _, one := range r.Rules() {
		goes := false
		for _, l := range gone {
			goes = goes || l.IPv4 == one.IPv4
		}
		if !goes {
			sum.Add(one)
		}
	}
	for _, one := range come {
		sum.Add(one)
	}
	delta := api.RuleDelta{Base: r.Digest(), Digest: sum.String(), Epoch: epoch, Gone: gone, Rules: come}
	next, _, err := r.Change(delta, lease.RelayAsked{Boot: r.Boot})
	if err != nil {
		t.Fatal(err)
	}
	return next, delta
}

func ruleTo(n int, lease uint64) api.Rule {
	return api.Rule{IPv4: netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", n)), IPv6: netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/128", n)), Lease: lease}
}

func loanOf(r api.Rule) []api.Loan { return []api.Loan{{IPv4: r.IPv4, Lease: r.Lease}} }

// TestRelayOnDisk: rules that were told, whole and by changes, are there again whenever the process
// is killed; a change of which the disk has a part was told to nobody, and one that is damaged
// is not believed.
func TestRelayOnDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	r := &Registry{path: path}
	state := lease.NewRelay("b", 1, []api.Rule{ruleTo(1, 1), ruleTo(2, 2)}, nil)
	if err := r.SetRelay(state); err != nil {
		t.Fatal(err)
	}
	states, ends := []lease.Relay{state}, []int{len(read(t, path))}
	for n := range 20 {
		gone := []api.Loan(nil)
		if n > 10 {
			gone = loanOf(ruleTo(10+n-5, uint64(10+n-5)))
		}
		next, delta := changedRelay(t, state, uint64(n+2), gone, ruleTo(10+n, uint64(10+n)))
		if err := r.ChangeRelay(next, delta); err != nil {
			t.Fatal(err)
		}
		if state = next; !r.Relay().Same(state) {
			t.Fatalf("%+v", r.Relay())
		}
		states, ends = append(states, state), append(ends, len(read(t, path)))
	}
	if _, err := readRelay(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
	whole := read(t, path)
	last := len(states) - 1
	for cut := ends[last-2]; cut <= len(whole); cut++ {
		zeros := make([]byte, 512) // of a block of the disk that was never written
		for _, c := range []struct {
			torn []byte
			more int // of which the change is nothing
		}{{whole[:cut], 1}, {append(bytes.Clone(whole[:cut]), zeros...), 0}} {
			want := last - 2
			for want < last && cut >= ends[want+1]-c.more {
				want++
			}
			if got, err := decodeRelay(c.torn); err != nil || !got.Same(states[want]) {
				t.Fatalf("cut at %d of %d: epoch %d, want %d: %v", cut, len(whole), got.Epoch, states[want].Epoch, err)
			}
		}
	}
	for n := 1; n < len(ends); n++ { // what lacks blocks of the disk
		middle := ends[n] - ends[n]%sector
		if middle <= ends[n-1] {
			continue
		}
		for _, lost := range [][2]int{{ends[n-1], middle}, {middle, ends[n]}} {
			torn := bytes.Clone(whole[:ends[n]])
			clear(torn[lost[0]:lost[1]])
			if got, err := decodeRelay(torn); err != nil || !got.Same(states[n-1]) {
				t.Errorf("change %d without bytes %v: epoch %d, want %d: %v", n, lost, got.Epoch, states[n-1].Epoch, err)
			}
		}
	}
	for i := range whole {
		for bit := range 8 {
			if i < ends[last-2] && bit != i%8 {
				continue
			}
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			if got, err := decodeRelay(damaged); err == nil && !got.Same(state) {
				t.Errorf("bit %d of byte %d of %d: epoch %d of %d", bit, i, len(whole), got.Epoch, state.Epoch)
			}
		}
	}
	open := func() (*Registry, error) { return Open(Options{Path: path}) }
	r, err := open()
	if err != nil || !r.Relay().Same(state) {
		t.Fatalf("%+v, %v", r.Relay(), err)
	}
	next, delta := changedRelay(t, state, 50, nil, ruleTo(200, 200))
	third, another := changedRelay(t, next, 51, loanOf(ruleTo(200, 200)))
	if err := errors.Join(r.ChangeRelay(next, delta), r.ChangeRelay(third, another), r.Close()); err != nil {
		t.Fatal(err)
	}
	var before lease.Relay
	if err := readSummed(relayPath(path), &before); err != nil || !before.Same(third) {
		t.Errorf("a natlessd of before, after this one has stopped: %v", err)
	}
	if r, err = open(); err != nil || !r.Relay().Same(third) {
		t.Fatalf("%v", err)
	}
	r.Close()
	if err := os.WriteFile(relayPath(path), []byte(strings.Replace(string(whole), `"lease":12`, `"lease":13`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "have them told again") {
		t.Errorf("%v", err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(relayPath(path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRelayCompacts: what changes have written does not grow without an end.
func TestRelayCompacts(t *testing.T) {
	t.Parallel()
	r := &Registry{path: filepath.Join(t.TempDir(), "registry.db")}
	state := lease.NewRelay("b", 1, []api.Rule{ruleTo(1, 1)}, nil)
	if err := r.SetRelay(state); err != nil {
		t.Fatal(err)
	}
	most := 0
	for n := range uint64(2000) {
		next, delta := changedRelay(t, state, n+2, loanOf(ruleTo(1, n+1)), ruleTo(1, n+2))
		if err := r.ChangeRelay(next, delta); err != nil {
			t.Fatal(err)
		}
		state = next
		if most = max(most, len(read(t, r.path))); rand.IntN(100) == 0 {
			if got, err := readRelay(r.path); err != nil || !got.Same(state) {
				t.Fatalf("after %d changes: %v", n+1, err)
			}
		}
	}
	if most > 2*fewChanges {
		t.Errorf("%d bytes for one rule", most)
	}
}

// TestRelayNotWritten: what cannot be written is not believed, and the next change is.
func TestRelayNotWritten(t *testing.T) {
	t.Parallel()
	r := &Registry{path: filepath.Join(t.TempDir(), "registry.db")}
	state := lease.NewRelay("b", 1, []api.Rule{ruleTo(1, 1)}, nil)
	if err := r.SetRelay(state); err != nil {
		t.Fatal(err)
	}
	next, delta := changedRelay(t, state, 2, nil, ruleTo(2, 2))
	r.relayLog.file.Close()
	disk := new(WriteError)
	if err := r.ChangeRelay(next, delta); !errors.As(err, &disk) || !r.Relay().Same(state) {
		t.Errorf("%v", err)
	}
	if err := r.ChangeRelay(next, delta); err != nil || !r.Relay().Same(next) {
		t.Errorf("%v", err)
	}
	if got, err := readRelay(r.path); err != nil || !got.Same(next) {
		t.Errorf("%v", err)
	}
}

// TestRelayForm: what a natlessd has appended is read by those that come after it.
func TestRelayForm(t *testing.T) {
	t.Parallel()
	const form = "296d485a\n" +
		`{"boot":"b","epoch":7,"rules":[{"ipv4":"192.0.2.6/32","ports":[{"first":0,"last":1023}],"ipv6":"2001:db8::6/128","lease":5}],` +
		`"ended":[{"ipv4":"192.0.2.7/32","ports":[{"first":0,"last":1023}],"lease":6}]}` + "\n" +
		`7a847ace {"base":"c4f25b1466f4d360","digest":"347254238bdca081","epoch":8,"rules":[{"ipv4":"192.0.2.8/32","ports":[{"first":0,"last":1023}],` +
		`"ipv6":"2001:db8::8/128","lease":9}],"gone":[{"ipv4":"192.0.2.6/32","ports":[{"first":0,"last":1023}],"lease":5}]}` + "\n"
	got, err := decodeRelay([]byte(form))
	if err != nil || got.Epoch != 8 || got.Count() != 1 || got.LastLease() != 9 || len(got.Ended()) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	r := &Registry{path: filepath.Join(t.TempDir(), "registry.db")}
	before, err := decodeRelay([]byte(form[:strings.Index(form, "7a847ace")]))
	line, _, _ := strings.Cut(form[strings.Index(form, "7a847ace"):], "\n")
	delta, err2 := decodeRelayChange([]byte(line))
	if err := errors.Join(err, err2, r.SetRelay(before), r.ChangeRelay(got, delta)); err != nil {
		t.Fatal(err)
	}
	if is := string(read(t, r.path)); is != form {
		t.Errorf("it is written as\n%s", is)
	}
}
