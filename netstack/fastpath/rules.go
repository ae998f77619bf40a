//go:build linux

package fastpath

import (
	"fmt"
	"sync"

	"github.com/natless/natless/translator/mapt"
)

// ruled is what was counted by rules of MAP-T before those in force: the map is by a
// rule's place. Nobody who asks for a figure waits for who writes tables.
type ruled struct {
	mu     sync.Mutex
	rules  *mapt.Rules
	before [mapt.Most]Traffic
}

// putRules writes rules as a packet is held against them.
func putRules(c *programConfig, rules *mapt.Rules) {
	for i, n := range rules.Numbers() {
		r := &c.Rules[i]
		r.Hi6, r.Mask6, r.Ea, r.V4, r.Mask4 = n.Hi6, n.Mask6, n.EA, n.IPv4, n.Mask4
		r.EaAt, r.More, r.K, r.M, r.A, r.Psid = n.EAAt, n.More, n.K, n.M, n.Offset, n.PSID
		c.CountRules++
	}
}

// beginRules has the rules that are in force now count from 0, if they are others.
func (f *FastPath) beginRules(rules *mapt.Rules) {
	r := &f.ruled
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rules.Same(rules) {
		r.rules = rules
		return
	}
	r.rules, r.before = rules, [mapt.Most]Traffic{}
	for i := range rules.All() {
		r.before[i], _ = f.ruledAt(i) // what cannot be read counts as 0
	}
}

// RuleTraffic is what was translated for CEs by a rule of MAP-T since it came into force.
func (f *FastPath) RuleTraffic(rules *mapt.Rules, index int) (t Traffic, err error) {
	r := &f.ruled
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.rules.Same(rules) {
		return t, nil // the programs do not go by them yet
	}
	if t, err = f.ruledAt(index); err != nil {
		return Traffic{}, err
	}
	b := &r.before[index]
	return Traffic{t.Sent.since(b.Sent), t.Received.since(b.Received)}, nil
}

func (c Count) since(b Count) Count { return Count{c.Packets - b.Packets, c.Bytes - b.Bytes} }

func (f *FastPath) ruledAt(index int) (t Traffic, err error) {
	var perCPU []programTraffic
	if err := f.maps.Ruled.Lookup(uint32(index), &perCPU); err != nil {
		return t, fmt.Errorf("counters of a rule in the fast path: %w", err)
	}
	for _, n := range perCPU {
		t.add(n)
	}
	return t, nil
}
