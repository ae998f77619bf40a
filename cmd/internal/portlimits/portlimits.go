// Package portlimits says by which sysctls a container's kernel picks only
// ports that are the container's own, and whether they still hold: the CNI
// plugin sets and checks them, the doctor looks at them. How they are read and
// written may not enter here.
package portlimits

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/natless/natless/config/api"
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
func For(set api.PortSet, keepTimeWait bool) []Sysctl {
	if len(set) == 0 {
		return nil // a whole address
	}
	first, last, holes := span(set)
	list := []Sysctl{{Range, fmt.Sprintf("%d\t%d", first, last)}}
	if holes != nil {
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
func Common(sets ...api.PortSet) (common api.PortSet, ok bool) {
	choice := false // some set has more than single ports
	for _, s := range sets {
		if len(s) == 0 {
			continue
		}
		choice = choice || runs(s)
		if common == nil {
			common = s
		} else if common = intersect(common, s); len(common) == 0 {
			return nil, false
		}
	}
	return common, !choice || runs(common)
}

// runs says whether a set has more than single ports.
func runs(s api.PortSet) bool {
	return slices.ContainsFunc(s, func(r api.PortRange) bool { return r.Size() > 1 })
}

func intersect(a, b api.PortSet) (both api.PortSet) {
	for _, r := range a {
		for _, o := range b {
			if first, last := max(r.First, o.First), min(r.Last, o.Last); first <= last {
				both = append(both, api.PortRange{First: first, Last: last})
			}
		}
	}
	return both
}

// span is the range from the first to the last port that the kernel may pick
// by itself, and what lies between and is not in the set. Single ports are
// meant for servers and are left out where there is anything else.
func span(set api.PortSet) (first, last uint16, holes api.PortSet) {
	var runs api.PortSet
	for _, r := range set {
		if r.Size() > 1 {
			runs = append(runs, r)
		}
	}
	if runs == nil {
		runs = set
	}
	for i, r := range runs[1:] {
		holes = append(holes, api.PortRange{First: runs[i].Last + 1, Last: r.First - 1})
	}
	return runs[0].First, runs[len(runs)-1].Last, holes
}

// Overridden lists the limits that do not hold, by read, which gives the
// present value of a sysctl. A narrower range is the container's good right,
// and so is what becomes of its TIME_WAIT.
func Overridden(set api.PortSet, read func(name string) (string, error)) ([]string, error) {
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
	a, okA := parseRange(inner)
	b, okB := parseRange(outer)
	return okA && okB && b.First <= a.First && a.Last <= b.Last
}

func parseRange(s string) (r api.PortRange, ok bool) {
	fields := strings.Fields(s)
	if len(fields) != 2 {
		return r, false
	}
	first, err1 := strconv.ParseUint(fields[0], 10, 16)
	last, err2 := strconv.ParseUint(fields[1], 10, 16)
	return api.PortRange{First: uint16(first), Last: uint16(last)}, err1 == nil && err2 == nil
}
