package api

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/natless/natless/translator/ports"
)

// Rule leads the addresses of a block to the host that a fleet has lent them, and says
// what that host may send as.
type Rule struct {
	IPv4  netip.Prefix `json:"ipv4"`
	Ports ports.Set    `json:"ports,omitzero"` // of an address that several hosts have; empty: all
	IPv6  netip.Prefix `json:"ipv6"`           // the host's for the block
	// Lease is the number of the loan: each time the addresses are lent to somebody it
	// is a higher one. A loan that has ended never begins again.
	Lease uint64 `json:"lease"`
}

// RuleSet is all rules that a relay has from now on. It may be told again, which says
// that it is what holds still.
type RuleSet struct {
	// Epoch is the age of the view that the set was made of: an older one than before
	// is refused.
	Epoch uint64 `json:"epoch"`
	Rules []Rule `json:"rules"`
	// Fenced are blocks that were taken from a host, or given back by it: that they are
	// missing is no surprise.
	Fenced []netip.Prefix `json:"fenced,omitempty"`
	// Shrink: an operator says that it is right that much is missing.
	Shrink bool `json:"shrink,omitempty"`
	// Rewind: an operator says that an older epoch is right.
	Rewind bool `json:"rewind,omitempty"`
}

// Loan is a block as it is lent once.
type Loan struct {
	IPv4  netip.Prefix `json:"ipv4"`
	Ports ports.Set    `json:"ports,omitzero"`
	Lease uint64       `json:"lease"`
}

// RuleDelta is a set of rules, told as what is another in it than in one that both sides know.
// Where the relay has not the rules of Base, the whole set is to be told: ErrStale, with Field
// "base". One whose answer was lost may be told again.
type RuleDelta struct {
	// Base is the digest of the rules before, and Digest that of the rules from now on.
	Base   string `json:"base"`
	Digest string `json:"digest"`
	Epoch  uint64 `json:"epoch"` // as a set's
	// Rules come, or take the place of that of the same block.
	Rules []Rule `json:"rules,omitempty"`
	// Gone are the loans whose rules go: taken from a host, or given back by it. What is only
	// missing does not go by a delta, but by a set.
	Gone []Loan `json:"gone,omitempty"`
}

// The states of a relay.
const (
	RelayServes      = "serves"
	RelayDrains      = "drains"      // it translates, and others are to be preferred
	RelayUnconfirmed = "unconfirmed" // it has been booted, and nobody has said since that its rules hold
	RelayNotReady    = "not-ready"   // it does not translate
)

// Relay is which rules a relay goes by, and how it stands. What it answers is durable and
// in force: whoever has heard of an epoch knows that no rule before it is followed.
type Relay struct {
	Epoch uint64 `json:"epoch"`
	State string `json:"state"`         // one of the RelayXxx
	Why   string `json:"why,omitempty"` // not RelayServes
	// Confirmed is how long ago, in seconds, somebody last told the rules; absent: never.
	Confirmed *float64 `json:"confirmed_seconds,omitempty"`
	Count     int      `json:"count"`
	// IPv4 is in what the blocks of its rules must lie.
	IPv4 []netip.Prefix `json:"ipv4"`
	// StaleAfter is how long, in seconds, it goes without being told before it drains.
	StaleAfter float64 `json:"stale_after_seconds"`
	// LastLease is the highest number of a loan that it knows of, ended ones included.
	LastLease uint64 `json:"last_lease"`
	// Digest is that of its rules, for a RuleDelta; "": it takes none.
	Digest string `json:"digest,omitempty"`
	Rules  []Rule `json:"rules,omitempty"` // not in the answer to a set
}

// ConfirmedAgo is how long ago somebody last told the rules.
func (r Relay) ConfirmedAgo() (ago time.Duration, ever bool) {
	if r.Confirmed == nil {
		return 0, false
	}
	return time.Duration(*r.Confirmed * float64(time.Second)), true
}

// Relay gives the rules that a relay goes by.
func (c *Client) Relay(ctx context.Context) (Relay, error) {
	return answer[Relay](ctx, c, http.MethodGet, "/v1/relay", nil)
}

// PutRules tells all rules of a relay. When it returns, they are durable and in force.
func (c *Client) PutRules(ctx context.Context, s RuleSet) (Relay, error) {
	if s.Rules == nil {
		s.Rules = []Rule{}
	}
	return answer[Relay](ctx, c, http.MethodPut, "/v1/relay", s)
}

// PatchRules tells a relay what is another in its rules. When it returns, that is durable and
// in force.
func (c *Client) PatchRules(ctx context.Context, d RuleDelta) (Relay, error) {
	return answer[Relay](ctx, c, http.MethodPatch, "/v1/relay", d)
}
