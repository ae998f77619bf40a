package policy

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
)

// Ledger is what must outlive a table: what numbers stand for, so that an edit may be
// judged by the table in force and by the one that is made beside it; and what was
// counted.
type Ledger struct {
	mu       sync.Mutex // guards what follows
	numbers  map[string]uint16
	list     [][]string // names, by number; number 0 is none
	counters map[string]*Counter
	rules    []string // IDs of rules, by serial
}

// Counter counts packets by a rule, and has the number that the rule is known by,
// whatever tables come: no other rule has it while the process lives. 0 is none.
type Counter struct {
	Serial          uint32
	Denied, Audited atomic.Uint64
}

var errNumbers = errors.New("workloads are selected by more than 65,535 different sets of policies since the start: restart natlessd")

// NewLedger makes one with nothing in it.
func NewLedger() *Ledger {
	return &Ledger{numbers: map[string]uint16{}, list: [][]string{nil}, counters: map[string]*Counter{}, rules: []string{""}}
}

func (l *Ledger) number(names []string) (uint16, error) {
	if len(names) == 0 {
		return 0, nil
	}
	key := strings.Join(names, "\x00")
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.numbers[key]
	if !ok {
		if len(l.list) > 1<<16-1 {
			return 0, errNumbers
		}
		n = uint16(len(l.list))
		l.list = append(l.list, names)
		l.numbers[key] = n
	}
	return n, nil
}

func (l *Ledger) names(number uint16) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(number) >= len(l.list) {
		return nil
	}
	return l.list[number]
}

// counter is that of a rule, by its ID: it never falls, whatever tables come.
func (l *Ledger) counter(id string) *Counter {
	c := l.counters[id]
	if c == nil {
		c = &Counter{Serial: uint32(len(l.rules))}
		l.counters[id] = c
		l.rules = append(l.rules, id)
	}
	return c
}

// RuleName is the ID of the rule that a serial is of, whether or not a table still has
// it; "": of none.
func (l *Ledger) RuleName(serial uint32) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(serial) >= len(l.rules) {
		return ""
	}
	return l.rules[serial]
}
