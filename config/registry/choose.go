package registry

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
)

// choose finds address and ports for a new assignment: what the workload had
// last if it can be had, else the emptiest address that has what is wanted.
// old is what the workload has now, or nil; it is not given up here.
func (t *txn) choose(a, old *Assignment) error {
	p, err := t.open(a.Request)
	if err != nil {
		return err
	}
	if a.size, err = p.wish(a.Request); err != nil {
		return err
	}
	a.Pool = p.Name
	if old != nil && fits(old, a, p) {
		a.Address, a.Ports = old.Address, old.Ports
		return nil
	}
	if t.beside(a, p) || t.again(a, p) {
		return nil
	}
	if !a.Request.Address.IsValid() {
		addr, set := p.find(a.size, a.Request.ExtraPorts)
		if addr == nil {
			return &ExhaustedError{Usage: p.usage(nil, func() {}), Want: a.size, Extra: a.Request.ExtraPorts}
		}
		a.Address, a.Ports = addr.addr, set
		return nil
	}
	a.Address = a.Request.Address
	addr := t.state.address(a.Address)
	if addr.barred != "" {
		return field("address", "%s cannot be assigned: it is %s", a.Address, addr.barred)
	}
	set, ok := addr.find(p, a.size, a.Request.ExtraPorts)
	if !ok {
		if err := addr.conflict(a); err != nil {
			return err
		}
		return &ExhaustedError{Usage: p.usage(nil, func() {}), Want: a.size, Extra: a.Request.ExtraPorts, Address: a.Address}
	}
	a.Ports = set
	return nil
}

// conflict says who has an extra port that the assignment wants, or the whole
// address that it wants, or nil.
func (a *address) conflict(wants *Assignment) error {
	for o := range look(a.owners) {
		if wants.size == maxPorts || o.Ports.IsZero() {
			return &ConflictError{Field: "address", What: a.addr.String(), Owner: o.Key, Name: o.Request.Name}
		}
		for _, port := range wants.Request.ExtraPorts {
			if o.has(port) {
				what := netip.AddrPortFrom(a.addr, port).String()
				return &ConflictError{Field: "extra_ports", What: what, Owner: o.Key, Name: o.Request.Name}
			}
		}
	}
	return nil
}

// beside gives a container that has ports of one address already, by another
// interface, the same of another. Its kernel has one range of ports for all
// interfaces (ip_local_port_range).
func (t *txn) beside(a *Assignment, p *pool) bool {
	c := t.tx.Bucket(bucketAssignments).Cursor()
	prefix := []byte(a.Key.ContainerID + "/")
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		o := t.state.assignment(api.Key{ContainerID: a.Key.ContainerID, Interface: string(k[len(prefix):])})
		if o == nil || o.Key == a.Key || o.Ports.IsZero() || !sameSet(o, a, p) {
			continue
		}
		for _, addr := range p.addresses {
			want := a.Request.Address
			if (!want.IsValid() || want == addr.addr) && addr.barred == "" && addr.free(o.Ports) && addr.freeOfHost(o.Ports) {
				a.Address, a.Ports = addr.addr, o.Ports
				return true
			}
		}
	}
	return false
}

// again gives a returning workload its last set, if that is what it would be
// given today and nobody else has it. A set that cools down is only for the
// very workload that had it: packets for it may still be under way.
func (t *txn) again(a *Assignment, p *pool) bool {
	if c := t.state.lastCooled[a.Key]; c != nil && fits(c.Assignment, a, p) && t.state.address(c.Address).freeOfHost(c.Ports) &&
		t.state.address(c.Address).barred == "" {
		a.Address, a.Ports = c.Address, c.Ports
		return true
	}
	had := []string{"k" + a.Key.String()}
	if a.Request.Name != "" {
		had = append(had, "n"+a.Request.Name)
	}
	for _, k := range had {
		last := lastOf(t.tx, k)
		if last == nil || !fits(last, a, p) {
			continue
		}
		if addr := t.state.address(last.Address); addr.free(last.Ports) && addr.freeOfHost(last.Ports) && addr.barred == "" {
			a.Address, a.Ports = last.Address, last.Ports
			return true
		}
	}
	return false
}

// fits says whether what an assignment had is what another asks for.
func fits(last, a *Assignment, p *pool) bool {
	if last.Pool != p.Name || !p.Contains(last.Address) {
		return false
	}
	if want := a.Request.Address; want.IsValid() && want != last.Address {
		return false
	}
	return sameSet(last, a, p)
}

// sameSet says whether the ports that one has are what another asks for, on any
// address of the pool.
func sameSet(last, a *Assignment, p *pool) bool {
	if last.size != a.size || p.Whole != last.Ports.IsZero() {
		return false
	}
	if !slices.Equal(last.Request.ExtraPorts, a.Request.ExtraPorts) {
		return false
	}
	extra := singles(a.Request.ExtraPorts)
	return p.Whole || !p.never.Overlaps(last.Ports) && !p.closed.Overlaps(last.Ports.Subtract(extra))
}
