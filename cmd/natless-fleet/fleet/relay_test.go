package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/config/api"
)

// shop is a store with blocks in it, and a relay.
type shop struct {
	*testing.T
	store *cutStore
	d     *conformance.Relayd
	agent *fleet.RelayAgent
}

// cutStore is a store that can be away.
type cutStore struct {
	fleet.Store
	away bool
}

var errAway = errors.New("the store is away")

func (c *cutStore) List(ctx context.Context, k fleet.Kind) ([]fleet.Object, uint64, error) {
	if c.away {
		return nil, 0, errAway
	}
	return c.Store.List(ctx, k)
}

func (c *cutStore) UpdateStatus(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	if c.away {
		return o, errAway
	}
	return c.Store.UpdateStatus(ctx, o)
}

func newShop(t *testing.T) *shop {
	s := &shop{T: t, store: &cutStore{Store: fleet.NewMemory()}, d: new(conformance.Relayd)}
	s.begin()
	return s
}

// begin has another agent begin, which knows nothing.
func (s *shop) begin() {
	s.agent = &fleet.RelayAgent{Name: "east", Store: s.store, Natlessd: s.d, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
}

func prefixOf(n int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("198.51.%d.%d/32", 100+n/256, n%256))
}

func (s *shop) block(n int, state fleet.BlockState) {
	s.Helper()
	p := prefixOf(n)
	b := fleet.Block{Name: fleet.NameOf(p.String()), Spec: fleet.BlockSpec{Pool: "lent", IPv4: p.String(), IPv6: fmt.Sprintf("2001:db8:0:1::%x/128", n), Host: "one",
		Lease: uint64(n + 1), State: fleet.Reserved}}
	b, err := fleet.Create(s.Context(), s.store, fleet.Blocks, b)
	if b.Spec.State = state; err == nil {
		_, err = fleet.Update(s.Context(), s.store, fleet.Blocks, b)
	}
	if err != nil {
		s.Fatal(err)
	}
}

func (s *shop) change(n int, f func(*fleet.BlockSpec)) {
	s.Helper()
	b, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](s.Context(), s.store, fleet.Blocks, fleet.NameOf(prefixOf(n).String()))
	if err == nil && f == nil {
		err = fleet.Delete(s.Context(), s.store, fleet.Blocks, b)
	} else if err == nil {
		f(&b.Spec)
		_, err = fleet.Update(s.Context(), s.store, fleet.Blocks, b)
	}
	if err != nil {
		s.Fatal(err)
	}
}

func (s *shop) ended(n int) { s.change(n, func(b *fleet.BlockSpec) { b.State = fleet.Ended }) }

func (s *shop) relay() fleet.Relay {
	s.Helper()
	r, err := fleet.Get[fleet.RelaySpec, fleet.RelayStatus](s.Context(), s.store, fleet.Relays, "east")
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// steps has the agent read and step.
func (s *shop) steps() fleet.RelayStatus {
	s.Helper()
	var err error
	for range 3 { // an operator's word is seen by a conflict
		if err = s.agent.Read(s.Context()); err == nil {
			err = s.agent.Step(s.Context(), true)
		}
	}
	if err != nil {
		s.Fatal(err)
	}
	return s.relay().Status
}

func (s *shop) leads(want int) {
	s.Helper()
	if got := len(s.d.Rules()); got != want {
		s.Errorf("%d rules, want %d", got, want)
	}
}

func (s *shop) follow() {
	s.Helper()
	r := s.relay()
	if r.Status.Refused == nil {
		s.Fatalf("nothing is refused: %+v", r.Status)
	}
	r.Spec.Follow = &fleet.Follow{Epoch: r.Status.Refused.Epoch, Lacks: r.Status.Refused.Lacks}
	if _, err := fleet.Update(s.Context(), s.store, fleet.Relays, r); err != nil {
		s.Fatal(err)
	}
}

// TestRules: a relay leads to hosts what is offered and lent, nothing that is reserved, routed
// or ended, and says by what view; an agent that begins anew changes nothing.
func TestRules(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for n, state := range []fleet.BlockState{fleet.Lent, fleet.Offered, fleet.Reserved, fleet.Ended, fleet.Lent} {
		s.block(n, state)
	}
	st := s.steps()
	s.leads(3)
	_, revision, err := s.store.List(t.Context(), fleet.Blocks)
	if err != nil || st.Epoch == 0 || st.Epoch > revision || st.Rules != 3 || st.Lease != 5 || st.State != "serves" {
		t.Errorf("%+v at %d, %v", st, revision, err)
	}
	s.begin()
	if again := s.steps(); again.Epoch != st.Epoch || again.Error != "" {
		t.Errorf("after a restart of the agent: %+v, was %+v", again, st)
	}
	s.ended(0)
	s.change(3, nil)
	if st = s.steps(); st.Rules != 2 || st.Error != "" {
		t.Errorf("%+v", st)
	}
	s.leads(2)
}

// TestOtherAddresses: what a relay does not serve it is not told, and is acknowledged all the
// same.
func TestOtherAddresses(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.d.IPv4 = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/31")}
	s.block(0, fleet.Lent)
	before := s.steps().Epoch
	s.block(2, fleet.Offered)
	if st := s.steps(); st.Epoch <= before || st.Error != "" || len(fleet.Unacknowledged(s.get(2), []fleet.Relay{s.relay()})) > 0 {
		t.Errorf("%+v, before %d", st, before)
	}
	s.leads(1)
}

func (s *shop) get(n int) fleet.Block {
	s.Helper()
	b, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](s.Context(), s.store, fleet.Blocks, fleet.NameOf(prefixOf(n).String()))
	if err != nil {
		s.Fatal(err)
	}
	return b
}

// TestSilent: without the store a relay is not told that its rules hold.
func TestSilent(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.block(0, fleet.Lent)
	s.steps()
	told := s.d.Told()
	s.store.away = true
	for range 3 {
		if err := s.agent.Step(t.Context(), true); !errors.Is(err, errAway) {
			t.Errorf("%v", err)
		}
	}
	if s.d.Told() != told {
		t.Error("it was told that its rules hold by who sees nothing")
	}
	s.store.away = false
	if s.steps(); s.d.Told() == told {
		t.Error("it was not told that its rules hold")
	}
	s.leads(1)
	r := s.relay()
	r.Spec.Fenced = true
	if _, err := fleet.Update(t.Context(), s.store, fleet.Relays, r); err != nil {
		t.Fatal(err)
	}
	s.agent.Step(t.Context(), true)
	told = s.d.Told()
	if st := s.steps(); s.d.Told() != told || !strings.Contains(st.Error, "off") {
		t.Errorf("it is told though it is fenced: %+v", st)
	}
}

// TestShrinks: what is gone and was not seen to end is kept, however slowly it goes, until an
// operator says that it is right; of that once. All else goes on meanwhile.
func TestShrinks(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for n := range 16 {
		s.block(n, fleet.Lent)
	}
	s.steps()
	for n := range 6 {
		s.change(n, nil)
		s.steps()
	}
	s.begin() // which knows nothing of that
	st := s.steps()
	if st.Refused == nil || st.Refused.Lacks != 6 || st.Refused.Of != 16 || !strings.Contains(st.Error, "natless-fleet follow east") {
		t.Fatalf("%+v", st)
	}
	s.leads(16)
	s.block(20, fleet.Offered)
	s.ended(6)
	if st = s.steps(); st.Rules != 16 || len(fleet.Unacknowledged(s.get(6), []fleet.Relay{s.relay()})) > 0 {
		t.Errorf("the rest does not go on: %+v", st)
	}
	s.follow()
	s.change(7, nil) // more than the word is about
	if st = s.steps(); st.Refused == nil || st.Refused.Lacks != 7 || st.Rules != 16 {
		t.Errorf("%+v", st)
	}
	s.follow()
	if st = s.steps(); st.Rules != 9 || st.Refused != nil || st.Error != "" {
		t.Errorf("after the word: %+v", st)
	}
	s.change(8, nil)
	if st = s.steps(); st.Refused == nil || st.Rules != 9 {
		t.Errorf("the word is followed a second time: %+v", st)
	}
	// Somebody else's by now, in a block of another size.
	b := fleet.Block{Name: "wide", Spec: fleet.BlockSpec{Pool: "wide", IPv4: "198.51.100.8/31", IPv6: "2001:db8:0:2::8/127", Host: "two", Lease: 99, State: fleet.Reserved}}
	b, err := fleet.Create(t.Context(), s.store, fleet.Blocks, b)
	s.ended(9)
	s.steps()
	s.change(9, nil)
	if b.Spec.State = fleet.Offered; err == nil {
		_, err = fleet.Update(t.Context(), s.store, fleet.Blocks, b)
	}
	if st = s.steps(); err != nil || st.Error != "" || st.Rules != 8 {
		t.Errorf("%+v, %v", st, err)
	}
	if rule, _ := s.d.Has(netip.MustParsePrefix("198.51.100.8/31")); rule.Lease != 99 {
		t.Errorf("%+v", s.d.Rules())
	}
}

// TestOlderStore: a store that was restored is older than its relays. Nothing is acknowledged
// by revisions of before, and it is followed when an operator says so.
func TestOlderStore(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for n := range 5 {
		s.block(n, fleet.Lent)
	}
	before := s.steps()
	s.ended(1)
	before = s.steps()
	s.store.Store = fleet.NewMemory()
	s.block(0, fleet.Lent)
	s.block(1, fleet.Lent) // which has ended since
	s.begin()
	st := s.steps()
	if st.Epoch != 0 || st.Refused == nil || before.Epoch == 0 {
		t.Fatalf("%+v, before %+v", st, before)
	}
	s.leads(4)
	s.follow()
	st = s.steps()
	if st.Epoch == 0 || st.Refused != nil || !strings.Contains(st.Error, "left out") {
		t.Errorf("%+v", st)
	}
	s.leads(1)
	s.change(1, nil)
	if st = s.steps(); st.Error != "" {
		t.Errorf("%+v", st)
	}
}

// TestRelayName: of two relays that are called the same one is told rules.
func TestRelayName(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.agent.Machine = "first"
	s.steps()
	s.begin()
	s.agent.Machine = "second"
	if err := s.agent.Step(t.Context(), true); err == nil || !strings.Contains(err.Error(), "first") {
		t.Errorf("%v", err)
	}
	s.agent.Replaces = true
	s.steps()
	if m := s.relay().Status.Machine; m != "second" {
		t.Errorf("it is %s", m)
	}
}

// TestUnfit: a rule that natlessd does not take is left out, and said so; all others are followed,
// and what it goes by already stays.
func TestUnfit(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	unfit := map[netip.Prefix]bool{prefixOf(1): true, prefixOf(6): true}
	s.d.Check = func(r api.Rule) (string, error) {
		if unfit[r.IPv4] {
			return "ipv6", errors.New("overlaps the prefix")
		}
		return "", nil
	}
	for n := range 4 {
		s.block(n, fleet.Lent)
	}
	st := s.steps()
	s.leads(3)
	if st.Epoch == 0 || !strings.Contains(st.Error, ": 1 blocks") || !strings.Contains(st.Error, "overlaps the prefix") {
		t.Errorf("%+v", st)
	}
	s.block(5, fleet.Offered)
	s.block(6, fleet.Offered)
	if next := s.steps(); next.Epoch <= st.Epoch || !strings.Contains(next.Error, ": 2 blocks") {
		t.Errorf("%+v", next)
	}
	s.leads(4)
	s.ended(1)
	s.ended(6)
	if st = s.steps(); st.Error != "" {
		t.Errorf("%+v", st)
	}
	unfit[prefixOf(0)] = true // as it is configured from now on
	s.block(7, fleet.Lent)
	s.steps()
	if _, leads := s.d.Has(prefixOf(0)); !leads {
		t.Error("what it goes by is left out")
	}
	s.d.Check = nil
	s.begin()
	s.steps()
	s.leads(5)
}
