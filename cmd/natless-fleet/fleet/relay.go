package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
)

// Relayd is what the agent of a relay asks of its natlessd. *api.Client is one.
type Relayd interface {
	Relay(context.Context) (api.Relay, error)
	PutRules(context.Context, api.RuleSet) (api.Relay, error)
	PatchRules(context.Context, api.RuleDelta) (api.Relay, error)
}

// RelayAgent tells the natlessd of a relay which block leads to which host, and the fleet by
// which view of it the relay goes. It may die at any moment, and two may run at once: an
// epoch is acknowledged when natlessd goes by that very epoch, and natlessd goes back to none.
type RelayAgent struct {
	Name     string
	Machine  string // no other machine has it; "": nobody looks whether two have one name
	Replaces bool   // the machine that had the name is gone for good
	Store    Store
	Natlessd Relayd
	Now      func() time.Time
	Log      *slog.Logger

	view   map[string]offer        // the blocks by their names; nil: not read
	epoch  uint64                  // the revision that the view is of
	own    *Relay                  // as it was seen or written last; nil: to be read
	again  bool                    // an operator may have said something since the last step
	later  bool                    // that it goes by another epoch is told by another step
	is     *api.Relay              // what natlessd last said of itself; nil: to be asked
	rules  held                    // that natlessd goes by
	course *course                 // how they stand to the view; nil: to be found
	barred map[netip.Prefix]uint64 // rules that natlessd takes never again
	unfit  map[netip.Prefix]uint64 // rules that natlessd does not take as it is configured
	left   int                     // of the view's rules, for these reasons
	why    string                  // the last of them
}

// offer is a block as a relay sees it.
type offer struct {
	name  string
	rule  api.Rule
	state BlockState
	at    uint64 // the revision that it was written in
}

// offerOf is a block to a relay. One that is routed to its host has a rule without IPv6.
func offerOf(b Block) (o offer, ok bool) {
	ipv4, err := netip.ParsePrefix(b.Spec.IPv4)
	rule := api.Rule{IPv4: ipv4, Lease: max(b.Spec.Lease, b.Spec.Rule)}
	if err == nil && b.Spec.IPv6 != "" {
		rule.IPv6, err = netip.ParsePrefix(b.Spec.IPv6)
	}
	return offer{b.Name, rule, b.Spec.State, revisionOf(b.Version)}, err == nil
}

// Read takes the view anew.
func (a *RelayAgent) Read(ctx context.Context) error {
	all, revision, err := List[BlockSpec, BlockStatus](ctx, a.Store, Blocks)
	if err != nil {
		return err
	}
	a.view, a.epoch, a.course = make(map[string]offer, len(all)), revision, nil
	for _, b := range all {
		if o, ok := offerOf(b); ok {
			a.view[b.Name] = o
		}
	}
	return nil
}

// See notes a change behind the view. A change that nobody understands is an error: the
// view is to be read anew.
func (a *RelayAgent) See(e Event) error {
	b, err := parse[BlockSpec, BlockStatus](Object{Kind: Blocks, Name: e.Object.Name, Version: e.Object.Version, Spec: e.Object.Spec})
	if err != nil && !e.Gone {
		return err
	}
	at := revisionOf(e.Object.Version)
	if a.view == nil || at <= a.epoch {
		return nil
	}
	a.epoch = at
	before, had := a.view[e.Object.Name]
	delete(a.view, e.Object.Name)
	now, has := offerOf(b)
	if has = has && !e.Gone; has {
		a.view[e.Object.Name] = now
	}
	if a.course != nil && !a.sees(before, had, now, has) {
		a.course = nil
	}
	return nil
}

// SeeOwn notes that the relay's own object is another.
func (a *RelayAgent) SeeOwn(e Event) {
	if a.own == nil || revisionOf(e.Object.Version) > revisionOf(a.own.Version) {
		a.own = nil
	}
}

// Step has natlessd go by the view, if it does not, and the fleet know. With beat it says
// besides that the relay lives, and to natlessd that its rules hold. Without a word of the
// store nothing is said to natlessd: its view becomes stale, and others see that.
func (a *RelayAgent) Step(ctx context.Context, beat bool) error {
	a.again = false
	if mine, err := a.claim(ctx); !mine || err != nil {
		return err
	}
	if a.own.Status.Renewed == "" { // nobody waits for this relay yet
		beat, a.view = true, nil
	}
	if beat {
		// Who can write sees what there is: only then is it said that the rules hold.
		st := a.own.Status
		st.Renewed = a.Now().UTC().Format(time.RFC3339Nano)
		if err := a.tell(ctx, st); err != nil {
			return err
		}
	}
	// What was done while nobody waited for this relay, since it had not said that it is
	// there or an operator had said that it is off, is in a view that is read now.
	if a.view == nil {
		if err := a.Read(ctx); err != nil {
			return err
		}
	}
	if a.is == nil {
		if err := a.ask(ctx); err != nil {
			return err
		}
	}
	st := a.own.Status
	st.Refused, st.Error = nil, ""
	if a.own.Spec.Fenced {
		a.view = nil
		st.Error = "an operator has said that this relay is off: its rules are not confirmed, and it drains"
	} else if err := a.push(ctx, &st, beat); err != nil {
		a.is = nil
		return err
	}
	a.stands(&st)
	was := a.own.Status
	if a.later {
		was.Epoch, was.Lease, was.Rules = st.Epoch, st.Lease, st.Rules
	}
	if reflect.DeepEqual(st, was) {
		return nil
	}
	return a.tell(ctx, st)
}

// stands writes how natlessd stands into a status.
func (a *RelayAgent) stands(st *RelayStatus) {
	if st.Epoch = a.is.Epoch; st.Epoch > max(1, a.epoch) {
		st.Epoch = 0 // of what the store was before it was restored: nothing is acknowledged by that
	}
	st.Lease, st.Rules, st.State, st.IPv4 = a.is.LastLease, a.is.Count, a.is.State, nil
	for _, p := range a.is.IPv4 {
		st.IPv4 = append(st.IPv4, p.String())
	}
	if st.Error == "" && a.left > 0 {
		st.Error = fmt.Sprintf("left out, as this relay does not take their rules: %d blocks (%s)", a.left, a.why)
	}
	now := a.Now()
	st.Conditions = with(st.Conditions, now, Ready, st.State == api.RelayServes, reasonOf(st.State), a.is.Why)
	switch {
	case a.own.Spec.Fenced:
		st.Conditions = with(st.Conditions, now, Following, false, "Fenced", st.Error)
	case st.Refused != nil:
		st.Conditions = with(st.Conditions, now, Following, false, "Refused", st.Error)
	case st.Error != "":
		st.Conditions = with(st.Conditions, now, Following, false, "Error", st.Error)
	default:
		st.Conditions = with(st.Conditions, now, Following, true, "Follows", "")
	}
	if st.Error != "" && st.Error != a.own.Status.Error {
		a.Log.Error("this relay does not go by what the fleet has", "error", st.Error)
	}
}

// reasonOf is a state of natlessd as a reason: NotReady.
func reasonOf(state string) (reason string) {
	for part := range strings.SplitSeq(state, "-") {
		if part != "" {
			reason += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return reason
}

// ask has natlessd say by what it goes.
func (a *RelayAgent) ask(ctx context.Context) error {
	is, err := a.Natlessd.Relay(ctx)
	if err != nil {
		return fmt.Errorf("natlessd: %w", err)
	}
	a.rules, a.course = heldOf(is.Rules), nil
	is.Rules = nil
	a.is = &is
	return nil
}

// claim has the relay's own object at hand, and says whether the name is this machine's.
func (a *RelayAgent) claim(ctx context.Context) (mine bool, err error) {
	if a.own == nil {
		own, err := Get[RelaySpec, RelayStatus](ctx, a.Store, Relays, a.Name)
		if errors.Is(err, ErrNotFound) {
			own, err = Create(ctx, a.Store, Relays, Relay{Name: a.Name, Finalizers: []string{Finalizer}})
		}
		if err != nil {
			return false, err
		}
		a.own = &own
	}
	switch had := a.own.Status.Machine; {
	case a.Machine == "" || had == a.Machine:
		return true, nil
	case had != "" && !a.Replaces:
		a.own = nil
		return false, fmt.Errorf("another machine (%s) is called %s in the fleet: give this one another name, or say that the other is gone for good (--replaces)",
			had, a.Name)
	}
	st := a.own.Status
	st.Machine = a.Machine
	err = a.tell(ctx, st)
	return err == nil, err
}

// errAgain says that the relay's object was changed meanwhile.
var errAgain = errors.New("the relay's object was changed: once more")

// tell writes the relay's status. What an operator has said meanwhile is for the next step.
func (a *RelayAgent) tell(ctx context.Context, st RelayStatus) error {
	for range 5 {
		next := *a.own
		next.Status = st
		next, err := UpdateStatus(ctx, a.Store, Relays, next)
		if err == nil {
			a.own = &next
			return nil
		}
		before := a.own
		if a.own = nil; !errors.Is(err, ErrConflict) {
			return err
		}
		now, err := Get[RelaySpec, RelayStatus](ctx, a.Store, Relays, a.Name)
		if err != nil {
			return err
		}
		if now.Spec.Fenced != before.Spec.Fenced || now.Status.Machine != before.Status.Machine {
			return errAgain
		}
		a.own, a.again = &now, true
	}
	return errAgain
}

// push has natlessd go by the view, where it does not, or where confirm says so.
func (a *RelayAgent) push(ctx context.Context, st *RelayStatus, confirm bool) error {
	if done, err := a.pushDelta(ctx, st, confirm); done || err != nil {
		return err
	}
	return a.pushSet(ctx, st, confirm)
}

// pushSet is push by the whole set.
func (a *RelayAgent) pushSet(ctx context.Context, st *RelayStatus, confirm bool) error {
	for again := false; ; again = true {
		set, lacks, news := a.set(false)
		word := a.word(lacks)
		if word && (lacks > 0 || set.Epoch < a.is.Epoch) {
			set, _, news = a.set(true)
			set.Shrink, set.Rewind = true, set.Epoch < a.is.Epoch
			a.Log.Warn("an operator's word is followed", "epoch", set.Epoch, "before", a.is.Epoch, "lacks", lacks)
		} else if lacks > 0 {
			a.refuse(st, lacks, fmt.Sprintf("%d of %d blocks are gone, and were not seen to end", lacks, a.rules.Len()))
		}
		if !news && !confirm {
			return nil
		}
		if !news {
			set.Epoch = a.is.Epoch // the same rules hold: nothing is written
		}
		problem, err := a.put(ctx, set)
		switch {
		case err != nil:
			return err
		case problem == nil:
			if a.chart() {
				a.delta() // nothing is another yet: what is from now on is found by itself
			}
			return nil
		case !again && problem.Code == api.CodeStale: // by another agent, or since this one looked last
			if err := errors.Join(a.ask(ctx), a.Read(ctx)); err != nil {
				return err
			}
			continue
		case problem.Code == api.CodeShrinks, problem.Code == api.CodeStale && problem.Field == "epoch":
			a.refuse(st, lacks, problem.Detail)
		default:
			st.Error = problem.Error()
		}
		return nil
	}
}

// word reports whether an operator has let through what is refused now.
func (a *RelayAgent) word(lacks int) bool {
	said, no := a.own.Spec.Follow, a.own.Status.Refused
	return said != nil && no != nil && said.Epoch == no.Epoch && lacks <= said.Lacks
}

// refuse notes what is not followed without a word. It keeps its name for as long as it
// stands.
func (a *RelayAgent) refuse(st *RelayStatus, lacks int, why string) {
	st.Refused = &Refusal{Epoch: max(1, a.epoch), Lacks: lacks, Of: a.rules.Len(), Why: why}
	if before := a.own.Status.Refused; before != nil {
		st.Refused.Epoch = before.Epoch
	}
	st.Error = fmt.Sprintf("the view of the fleet is not followed: %s. If it is right: natless-fleet follow %s", why, a.Name)
}

// put has natlessd go by a set, but for rules that it takes never again. problem is why it
// does not.
func (a *RelayAgent) put(ctx context.Context, set api.RuleSet) (problem *api.Problem, err error) {
	for range 64 {
		is, err := a.Natlessd.PutRules(ctx, set)
		switch {
		case err == nil:
			a.took(set, is)
			return nil, nil
		case !errors.As(err, &problem) || problem.Code == api.CodeUnavailable || problem.Code == api.CodeStarting:
			return nil, fmt.Errorf("natlessd: %w", err)
		case !a.bar(&set, problem):
			return problem, nil
		}
	}
	return problem, nil
}

var ruleField = regexp.MustCompile(`^rules\[(\d+)\]\.`)

// bar leaves out a rule that natlessd does not take: since it has seen it end, as when the
// store was restored from a backup, or since there can be no such rule there, as where a host's
// prefix of the fabric is wrong. All others are followed. What it goes by already is not left out.
func (a *RelayAgent) bar(set *api.RuleSet, problem *api.Problem) bool {
	m := ruleField.FindStringSubmatch(problem.Field)
	if m == nil || problem.Code != api.CodeStale && problem.Code != api.CodeInvalid {
		return false
	}
	i, err := strconv.Atoi(m[1])
	if err != nil || i >= len(set.Rules) {
		return false
	}
	rule, in := set.Rules[i], &a.barred
	if problem.Code == api.CodeInvalid {
		if in = &a.unfit; a.rules.Get(rule.IPv4).Lease == rule.Lease {
			return false
		}
	}
	a.Log.Error("this relay does not take a rule of the fleet", "block", rule.IPv4, "error", problem.Detail)
	if *in == nil {
		*in = map[netip.Prefix]uint64{}
	}
	(*in)[rule.IPv4] = rule.Lease
	a.left, a.why = a.left+1, problem.Detail
	set.Rules = slices.Delete(set.Rules, i, i+1)
	return true
}

// leaves reports whether a rule is left out.
func (a *RelayAgent) leaves(r api.Rule) bool {
	return a.barred[r.IPv4] == r.Lease || a.unfit[r.IPv4] == r.Lease
}

// took notes what natlessd goes by now.
func (a *RelayAgent) took(set api.RuleSet, is api.Relay) {
	a.rules, a.course = heldOf(set.Rules), nil
	a.goes(is)
	maps.DeleteFunc(a.barred, func(p netip.Prefix, lease uint64) bool { return a.rules.Get(p).Lease > lease })
}

// goes notes how natlessd stands now.
func (a *RelayAgent) goes(is api.Relay) {
	if is.Epoch != a.is.Epoch {
		a.Log.Info("the rules of this epoch are in force", "epoch", is.Epoch, "rules", is.Count)
	}
	a.is = &is
}
