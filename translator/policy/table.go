package policy

import (
	"errors"
	"fmt"
	"slices"
)

// Table is compiled policies. It is immutable: every method may be called by any
// number of goroutines.
type Table struct {
	trie
	ledger    *Ledger
	of        *byte    // a compilation's own
	policies  []Policy // ordered
	rules     []*Rules
	classes   []class
	rows      []uint32 // by number: where its pages begin in pages; noRow: it was not compiled
	pages     []uint32 // of a row: one for pageLen classes, numbers of leaves
	leaves    []leaf   // cells by class
	cells     []cell
	ranges    []uint32 // ports, see ref
	decisions []Decision
	plainTable
}

// Rules is a rule of a table as others see it. Its number, from 1 on, is in decisions.
type Rules struct {
	Policy    *Policy
	Direction Direction
	Rule
	Index    int // among those of its direction
	position int // of its policy
	*Counter
}

// ID names a rule: "web egress rest", or by its place where it has no name.
func (r *Rules) ID() string {
	if r.Name != "" {
		return fmt.Sprintf("%s %v %s", r.Policy.Name, r.Direction, r.Name)
	}
	return fmt.Sprintf("%s %v[%d]", r.Policy.Name, r.Direction, r.Index)
}

// Decision is what policies say of a class, a protocol and a port.
type Decision struct {
	Rule   uint32 // that decides; 0: none matches
	Audit  uint32 // that would decide if what is audited were in force
	Allow  bool
	Would  bool // allow, if what is audited were in force
	Answer Answer
}

// The decisions that every table has.
const (
	accepted = 0 // no rule matches
	unjudged = 1 // denied for what a packet does not say
	unknown  = 2 // denied: nobody compiled what applies
)

const (
	pageBits = 6
	pageLen  = 1 << pageBits
	noRow    = ^uint32(0)
)

type leaf [pageLen]uint32

// cell is what one set of policies says of one class: for each direction and protocol
// a ref.
type cell [numDirections][8]ref

// ref is a decision for all ports or, with the top bit, where in ranges there are, first
// how many and then, in order, a range's first port in the upper half and its decision
// in the lower.
type ref uint32

const byPort ref = 1 << 31

// plainly is set beside a decision for all ports that allows, and would.
const plainly ref = 1 << 30

// maxDecisions is how many the lower half of a range can name.
const maxDecisions = 1 << 16

// ErrMany says that policies differ in more ways than a table can have.
var ErrMany = errors.New("policies come to more than 65,536 different decisions: use fewer rules")

func (t *Table) cell(number uint16, remote uint32) *cell {
	if int(number) >= len(t.rows) || t.rows[number] == noRow {
		return &t.cells[0] // which denies: the engine compiles what it gives a number to
	}
	class := t.class(remote)
	return &t.cells[t.leaves[t.pages[t.rows[number]+class>>pageBits]][class&(pageLen-1)]]
}

func (t *Table) decide(c *cell, d Direction, slot uint8, port uint16) *Decision {
	r := c[d][slot&7]
	if r&byPort != 0 {
		r = search(t.ranges, r&^byPort, port)
	}
	return &t.decisions[r&^plainly]
}

// search finds the last range that begins at a port or before it.
func search(ranges []uint32, at ref, port uint16) ref {
	list := ranges[at+1:][:ranges[at]]
	low, high := 0, len(list)
	for low+1 < high {
		if middle := (low + high) / 2; uint16(list[middle]>>16) <= port {
			low = middle
		} else {
			high = middle
		}
	}
	return ref(list[low] & 0xffff)
}

// spread is what is said of all ports together.
type spread struct {
	all, none, allWould bool      // allowed; and if what is audited were in force
	first               *Decision // of port 0
	audited             *Decision // the first that would be denied; nil: none
}

func (t *Table) spread(c *cell, d Direction, slot uint8) (s spread) {
	r := c[d][slot&7]
	list := []uint32{uint32(r &^ plainly)}
	if r&byPort != 0 {
		list = t.ranges[r&^byPort+1:][:t.ranges[r&^byPort]]
	}
	s = spread{all: true, none: true, allWould: true, first: &t.decisions[list[0]&0xffff]}
	for _, one := range list {
		o := &t.decisions[one&0xffff]
		s.all, s.none, s.allWould = s.all && o.Allow, s.none && !o.Allow, s.allWould && o.Would
		if s.audited == nil && o.Allow && !o.Would {
			s.audited = o
		}
	}
	return s
}

// Rule is the rule of a number in a decision, or nil.
func (t *Table) Rule(number uint32) *Rules {
	if number == 0 || int(number) > len(t.rules) {
		return nil
	}
	return t.rules[number-1]
}

// All are the rules in the order in which they are asked, egress first in each policy.
func (t *Table) All() []*Rules { return t.rules }

// Policies are in the order in which they are asked.
func (t *Table) Policies() []Policy { return t.policies }

// Selecting are the positions of the policies that select a workload.
func (t *Table) Selecting(w Workload) (positions []int) {
	for i := range t.policies {
		if t.policies[i].Subject.Selects(w) {
			positions = append(positions, i)
		}
	}
	return positions
}

// Number is the number of what selects a workload, 0 for nothing. It stays the same
// from one table to the next as long as policies of the same names do.
func (t *Table) Number(w Workload) (uint16, error) {
	if t == nil {
		return 0, nil
	}
	var names []string
	for _, i := range t.Selecting(w) {
		names = append(names, t.policies[i].Name)
	}
	return t.ledger.number(names)
}

// Has reports whether a table has what a number stands for.
func (t *Table) Has(number uint16) bool {
	return number == 0 || t != nil && int(number) < len(t.rows) && t.rows[number] != noRow
}

// Same reports whether two tables are of the same compilation, whatever numbers they have.
func (t *Table) Same(o *Table) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.of == o.of
}

// With is t with what numbers stand for, which is t if it has them.
func (t *Table) With(numbers ...uint16) (*Table, error) {
	missing := slices.DeleteFunc(slices.Clone(numbers), t.Has)
	if t == nil || len(missing) == 0 {
		return t, nil
	}
	b := newBuilder(t)
	for _, n := range missing {
		if !b.table.Has(n) {
			if err := b.row(n); err != nil {
				return nil, err
			}
		}
	}
	return b.table, nil
}

// positions are those of the policies with names that a number stands for. One that is
// gone is in no table.
func (t *Table) positions(number uint16) (in []bool) {
	in = make([]bool, len(t.policies))
	for _, name := range t.ledger.names(number) {
		for i := range t.policies {
			if t.policies[i].Name == name {
				in[i] = true
			}
		}
	}
	return in
}

// Idle are the names of the policies that are in no number that was compiled: they have
// selected nobody since the table was made.
func (t *Table) Idle() (names []string) {
	used := make([]bool, len(t.policies))
	for n := range t.rows {
		if t.rows[n] == noRow {
			continue
		}
		for i, in := range t.positions(uint16(n)) {
			used[i] = used[i] || in
		}
	}
	for i := range t.policies {
		if !used[i] {
			names = append(names, t.policies[i].Name)
		}
	}
	return names
}

// Size is what a table has, for people.
func (t *Table) Size() (classes, cells, bytes int) {
	return len(t.classes), len(t.cells), 4*(4*len(t.top)+len(t.values)+len(t.rows)+len(t.pages)+len(t.ranges)+len(t.plainOf)+len(t.plainRanges)) +
		40*len(t.chunks) + 4*pageLen*(len(t.leaves)+len(t.plainLeaves)) + 64*(len(t.cells)+len(t.plains))
}
