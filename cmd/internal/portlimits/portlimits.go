// Package portlimits says by which sysctls a container's kernel picks only
// ports that are the container's own, and whether they still hold: the CNI
// plugin sets and checks them, the doctor looks at them. How they are read and
// written may not enter here.
package portlimits

import (
	"fmt"
	"strings"

	"github.com/natless/natless/translator/ports"
)

// The names of the sysctls, below net.ipv4.
const (
	Range         = "ip_local_port_range"
	Reserved      = "ip_local_reserved_ports"
	TimeWaitReuse = "tcp_tw_reuse"
)

// Sysctl is a value below net.ipv4, as the kernel writes it.
type Sysctl struct{ Name, Value string }

// For keeps the container's own choice of ports inside its set. A small set
// meets its ports in TIME_WAIT early, so that they are reused (timestamps tell
// old segments from new, RFC 6191) unless keepTimeWait.
func For(set ports.Set, keepTimeWait bool) []Sysctl {
	if set.IsZero() {
		return nil // a whole address
	}
	choice := choice(set)
	span := ports.Range{First: choice.Min(), Last: choice.Run(choice.Len() - 1).Last}
	list := []Sysctl{{Range, fmt.Sprintf("%d\t%d", span.First, span.Last)}}
	if holes := ports.Of(span).Subtract(choice); !holes.IsZero() {
		list = append(list, Sysctl{Reserved, holes.String()})
	}
	if !keepTimeWait {
		list = append(list, Sysctl{TimeWaitReuse, "1"})
	}
	return list
}

// Common is what all sets have in common: a network namespace has one range of
// ports, whatever its interfaces. No set, and whole addresses, limit nothing. ok
// is false where nothing is left to choose from.
func Common(sets ...ports.Set) (common ports.Set, ok bool) {
	runs := false // some set has more than single ports
	for _, s := range sets {
		if s.IsZero() {
			continue
		}
		runs = runs || s.Longest().Size() > 1
		if common.IsZero() {
			common = s
		} else if common = common.Intersect(s); common.IsZero() {
			return common, false
		}
	}
	return common, !runs || common.Longest().Size() > 1
}

// choice is what of a set the kernel may pick by itself. Single ports are meant
// for servers and are left out where there is anything else.
func choice(set ports.Set) ports.Set {
	var longer ports.Builder
	for r := range set.Runs() {
		if r.Size() > 1 {
			longer.Add(r)
		}
	}
	if longer.IsZero() {
		return set
	}
	return longer.Set()
}

// Overridden lists the limits that do not hold, by read, which gives the
// present value of a sysctl. A narrower range is the container's good right,
// and so is what becomes of its TIME_WAIT.
func Overridden(set ports.Set, read func(name string) (string, error)) ([]string, error) {
	var list []string
	for _, s := range For(set, true) {
		now, err := read(s.Name)
		if err != nil {
			return nil, err
		}
		if now == s.Value || s.Name == Range && narrower(now, s.Value) {
			continue
		}
		list = append(list, fmt.Sprintf("net.ipv4.%s is %q instead of %q", s.Name, now, s.Value))
	}
	return list, nil
}

// narrower says that one port range lies inside another, both as the kernel
// writes them.
func narrower(inner, outer string) bool {
	a, errA := parseRange(inner)
	b, errB := parseRange(outer)
	return errA == nil && errB == nil && b.Contains(a.First) && b.Contains(a.Last)
}

func parseRange(s string) (ports.Range, error) {
	return ports.ParseRange(strings.Join(strings.Fields(s), "-"))
}
