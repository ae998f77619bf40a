//go:build linux

// Package wiring is what a container has whose IPv4 is inside: an address, routes,
// and, where others have ports of the address, policy rules that send what is for
// their ports out of the container. The CNI plugin makes, checks and removes it, the
// doctor looks at it. Everything here works in the network namespace of the calling
// thread; which container that is, and what it was assigned, may not enter here.
package wiring

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/natless/natless/translator/ports"
)

// Wiring is what a container should have.
type Wiring struct {
	Interface string
	Address   netip.Addr
	Ports     ports.Set    // of the address; empty: all
	Gateway   netip.Addr   // the next hop, which is the IPv6 one: no ARP, no IPv4 address on the host
	Prefix    netip.Prefix // the translation prefix, if there is one
}

// The numbers of the rules stand before those that others are likely to use, and
// their order is what makes ports decide. Rules, routes and the table have the
// daemon's own number, by which they are known again.
const (
	own        = 110 // rtm_protocol, FRA_PROTOCOL, and the table
	prefIn     = 29  // what comes in was judged by the host
	prefOwn    = 30  // own ports are here
	prefOthers = 31  // all other ports of the address are not
	prefLocal  = 40  // the local table, in the place of the kernel's rule 0
)

// ports 0 and 65535 cannot stand in a rule (fib_rule_port_range_valid): what the
// container sends to its own port 65535 takes the way by the host.
var inRules = ports.Of(ports.Range{First: 1, Last: 65534})

// object is a piece of it. Two are the same when their texts are.
type object interface {
	String() string
	add() error
	remove() error
	rank() int // objects of a lower rank are made first and go last
}

// wanted are the objects of a wiring.
func (w Wiring) wanted() (all []object) {
	all = append(all, address{w.Interface, w.Address}, route{iface: w.Interface, via: w.Gateway, src: w.Address, table: mainTable})
	if w.Prefix.IsValid() {
		all = append(all, unreachable{w.Prefix})
	}
	if w.Ports.IsZero() {
		return all
	}
	all = append(all, route{iface: w.Interface, via: w.Gateway, src: w.Address, table: own}, rule{pref: prefLocal, table: localTable},
		rule{pref: prefOthers, to: w.Address, iif: "lo", table: own}, rule{pref: prefIn, to: w.Address, iif: w.Interface, table: localTable},
		noKernelRule{})
	for r := range w.Ports.Intersect(inRules).Runs() {
		for _, proto := range protocols {
			all = append(all, rule{pref: prefOwn, to: w.Address, iif: "lo", proto: proto, ports: r, table: localTable})
		}
	}
	return all
}

// Apply makes it so, whatever was there of an earlier one. Where it fails, nothing
// of it is left.
func (w Wiring) Apply() error { return w.apply(func(object) error { return nil }) }

// apply asks before each step whether it may be made; tests say no.
func (w Wiring) apply(may func(object) error) (err error) {
	ours, err := present(w.Interface)
	if err != nil {
		return err
	}
	if err := foreign(w.Interface, w.Address, ours); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Remove())
		}
	}()
	want := w.wanted()
	slices.SortStableFunc(want, func(a, b object) int { return cmp.Compare(a.rank(), b.rank()) })
	stale := maps.Clone(ours)
	for _, o := range want {
		delete(stale, o.String())
	}
	if err := removeAll(stale); err != nil {
		return err
	}
	if err := announce(w.Interface); err != nil {
		return err
	}
	for _, o := range want {
		if ours[o.String()] != nil {
			continue
		}
		if err := may(o); err != nil {
			return err
		}
		if err := o.add(); err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
	}
	return nil
}

// announce has the container's kernel tell its neighbours when the interface gets
// another MAC address. All that comes to the container goes to the neighbour that its
// IPv6 address names; a container that speaks IPv4 alone asks for its gateway with its
// link-local address, and the host would learn nothing of the other one until it doubts
// what it knows, up to a minute later (RFC 4861 7.2.6, 7.3).
func announce(iface string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+iface+"/ndisc_notify", []byte("1\n"), 0)
	if err != nil {
		return fmt.Errorf("sysctl net.ipv6.conf.%s.ndisc_notify: %w", iface, err)
	}
	return nil
}

// Remove takes away what there is of a wiring at the interface. Without the address,
// it is known by what names the interface; one at another interface stays.
func (w Wiring) Remove() error {
	ours, err := present(w.Interface)
	if err != nil {
		return err
	}
	if !w.Address.IsValid() && !at(w.Interface, ours) {
		return nil
	}
	if w.Address.IsValid() {
		if has, err := (address{w.Interface, w.Address}).there(); err == nil && has {
			a := address{w.Interface, w.Address}
			ours[a.String()] = a
		}
	}
	return removeAll(ours)
}

func at(iface string, ours map[string]object) bool {
	for _, o := range ours {
		switch o := o.(type) {
		case route:
			return true
		case rule:
			if o.pref == prefIn && o.iif == iface {
				return true
			}
		}
	}
	return false
}

// removeAll takes things away in the order opposite to that in which they are made.
func removeAll(all map[string]object) error {
	list := slices.SortedFunc(maps.Values(all), func(a, b object) int { return cmp.Compare(b.rank(), a.rank()) })
	var errs []error
	for _, o := range list {
		if err := o.remove(); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", o, err))
		}
	}
	return errors.Join(errs...)
}

// Differences say what is not as it should be: what is missing, and what of ours is
// there that should not be.
func (w Wiring) Differences() (words []string, err error) {
	ours, err := present(w.Interface)
	if err != nil {
		return nil, err
	}
	a := address{w.Interface, w.Address}
	if has, err := a.there(); err != nil {
		return nil, err
	} else if has {
		ours[a.String()] = a
	}
	for _, o := range w.wanted() {
		if ours[o.String()] == nil {
			words = append(words, "missing: "+o.String())
		}
		delete(ours, o.String())
	}
	for _, text := range slices.Sorted(maps.Keys(ours)) {
		words = append(words, "not of this share: "+text)
	}
	return words, nil
}

// ForeignError says what of others in the container stands in the way.
type ForeignError struct{ What string }

func (e *ForeignError) Error() string { return e.What }
