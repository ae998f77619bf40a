package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// An object is one thing in the kernel that we make or change: comparable,
// and with a text that people and tests read.
type object interface {
	fmt.Stringer
	// rank orders changes: what is added first is removed last.
	rank() int
}

// sysctl is a value under /proc/sys; key has slashes.
type sysctl struct{ key, value string }

func (s sysctl) String() string { return "sysctl " + s.name() + " = " + s.value }
func (sysctl) rank() int        { return 0 }

// name is the key as sysctl(8) writes it: dots between, slashes within names.
func (s sysctl) name() string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, s.key)
}

// link is how the device must be. Adding it sets it; it is never removed.
type link struct {
	up              bool
	mtu, txQueueLen int
}

func (l link) String() string {
	return fmt.Sprintf("link up=%t mtu %d txqueuelen %d", l.up, l.mtu, l.txQueueLen)
}
func (link) rank() int { return 1 }

// route leads dst to the device.
type route struct {
	dst    netip.Prefix
	table  int // 0 is main
	metric int // 0: the kernel's default
}

func (r route) String() string {
	if r.table != 0 {
		text := fmt.Sprintf("route %v table %d", r.dst, r.table)
		if r.metric != 0 {
			text += fmt.Sprintf(" metric %d", r.metric)
		}
		return text
	}
	return fmt.Sprintf("route %v", r.dst)
}
func (route) rank() int { return 2 }

// proxy is a proxy neighbour: dev answers for addr, ARP or neighbour discovery.
type proxy struct {
	dev  string
	addr netip.Addr
}

func (p proxy) String() string { return fmt.Sprintf("proxy %v dev %s", p.addr, p.dev) }
func (proxy) rank() int        { return 3 }

// state is a set of objects.
type state map[object]bool

func (s state) add(o ...object) {
	for _, o := range o {
		s[o] = true
	}
}

func (s state) String() string {
	lines := make([]string, 0, len(s))
	for _, o := range sorted(s) {
		lines = append(lines, o.String())
	}
	return strings.Join(lines, "\n")
}

// sorted gives the objects by rank, then by text.
func sorted(s state) []object {
	objects := make([]object, 0, len(s))
	for o := range s {
		objects = append(objects, o)
	}
	slices.SortFunc(objects, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.String(), b.String()))
	})
	return objects
}

// change is one step from what is there to what should be.
type change struct {
	remove bool
	object object
}

func (c change) String() string {
	if c.remove {
		return "- " + c.object.String()
	}
	return "+ " + c.object.String()
}

// diff gives the steps that make want of have: first what is missing, in the
// order of the ranks, then what is too much, in the opposite order. Each step
// may be done twice, and between any two the host keeps its connectivity.
func diff(have, want state) []change {
	var changes []change
	for _, o := range sorted(want) {
		if !have[o] {
			changes = append(changes, change{object: o})
		}
	}
	surplus := sorted(have)
	slices.Reverse(surplus)
	for _, o := range surplus {
		if !want[o] && !replaced(o, want) {
			changes = append(changes, change{remove: true, object: o})
		}
	}
	return changes
}

// replaced reports whether o goes by adding what is wanted, or never.
func replaced(o object, want state) bool {
	switch o := o.(type) {
	case link, kernelLocalRule, localBehind:
		return true
	case nftTable:
		for w := range want {
			if t, ok := w.(nftTable); ok && t.family == o.family {
				return true
			}
		}
	case nftContent: // it goes with its table
		return true
	}
	return false
}
