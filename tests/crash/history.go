// Package crash kills natlessd with SIGKILL at any moment, while workloads come
// and go, and judges what is there afterwards by what was answered before. The
// judge is in this file and is judged itself. What is not about a crash may not enter.
package crash

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// share is what a workload was given. The zero share is nothing.
type share struct {
	address netip.Addr
	ports   string // as api.PortsText has it
}

func shareOf(w api.Workload) share { return share{w.Address, api.PortsText(w.Ports)} }

func (s share) String() string {
	if s == (share{}) {
		return "nothing"
	}
	return s.address.String() + " " + s.ports
}

// overlaps reports whether two shares have a port in common.
func (s share) overlaps(o share) bool {
	if s == (share{}) || o == (share{}) || s.address != o.address {
		return false
	}
	if s.ports == "all" || o.ports == "all" {
		return true
	}
	return ports.MustParse(s.ports).Overlaps(ports.MustParse(o.ports))
}

// event is something that a client saw, in the order in which it saw it.
type event struct {
	key  int
	what what
	got  share         // given: what
	all  map[int]share // found: everything
}

type what int

const (
	putting  what = iota // asked for a share
	deleting             // asked to take it back
	given                // was answered
	deleted
	refused // was answered that nothing has changed
	lost    // got no answer: it may have happened or not
	found   // what is there when nobody asks for anything
)

// workload is what the judge knows of one.
type workload struct {
	may     map[share]bool // what it may have
	any     bool           // or anything, since a put was not answered
	pending what           // putting or deleting while it waits for an answer, else found
}

// judge goes through a history and says what must not have been: an
// acknowledged share that is gone, or another; a share that two have.
func judge(history []event) (wrong []string) {
	known := map[int]*workload{}
	of := func(key int) *workload {
		if known[key] == nil {
			known[key] = &workload{may: map[share]bool{{}: true}, pending: found}
		}
		return known[key]
	}
	say := func(i int, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("event %d: ", i)+fmt.Sprintf(format, args...))
	}
	for i, e := range history {
		w := of(e.key)
		switch e.what {
		case putting, deleting:
			w.pending = e.what
			continue
		case given:
			w.may, w.any = map[share]bool{e.got: true}, false
			for key, other := range known {
				if key != e.key && other.pending == found && !other.any && len(other.may) == 1 {
					for has := range other.may {
						if has.overlaps(e.got) {
							say(i, "%d is given %v while %d has %v", e.key, e.got, key, has)
						}
					}
				}
			}
		case deleted:
			w.may, w.any = map[share]bool{{}: true}, false
		case lost:
			if w.pending == putting {
				w.any = true
			} else {
				w.may[share{}] = true
			}
		case found:
			wrong = append(wrong, judgeFound(i, e, of, known)...)
			continue
		}
		w.pending = found
	}
	return wrong
}

func judgeFound(i int, e event, of func(int) *workload, known map[int]*workload) (wrong []string) {
	for key := range e.all {
		of(key)
	}
	keys := slices.Sorted(maps.Keys(known))
	for n, key := range keys {
		w, has := known[key], e.all[key]
		if !w.any && !w.may[has] {
			wrong = append(wrong, fmt.Sprintf("event %d: %d has %v, and was told %v", i, key, has, slices.Collect(maps.Keys(w.may))))
		}
		for _, other := range keys[:n] {
			if e.all[other].overlaps(has) {
				wrong = append(wrong, fmt.Sprintf("event %d: %d has %v, and %d has %v", i, key, has, other, e.all[other]))
			}
		}
		w.may, w.any = map[share]bool{has: true}, false // from now on
	}
	return wrong
}
