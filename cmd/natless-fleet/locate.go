package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// place is where an address is in the fleet, as its store knows it.
type place struct {
	Asked   netip.Addr   `json:"asked"`
	Address netip.Addr   `json:"address,omitzero"` // the IPv4 address that it is, or leads to
	Pool    string       `json:"pool,omitempty"`
	Host    string       `json:"host,omitempty"`
	Held    bool         `json:"held,omitempty"` // the host says that it has the block
	Block   *fleet.Block `json:"block,omitempty"`
	Text    string       `json:"text"`
}

// The lengths that blocks may have.
const shortest, longest = 16, 32

// blockOf is the block that has an address, its own or by which relays lead it; nil: none
// has. Blocks are called by their addresses, so that of a fleet of any size a few are read.
func blockOf(ctx context.Context, s fleet.Store, a netip.Addr) (*fleet.Block, error) {
	var got [longest + 1]fleet.Block
	var errs [longest + 1]error
	var all sync.WaitGroup
	for bits := shortest; bits <= longest; bits++ {
		p, err := inIPv4(a).Prefix(bits)
		if err != nil {
			return nil, err
		}
		all.Go(func() {
			got[bits], errs[bits] = fleet.Get[fleet.BlockSpec, fleet.BlockStatus](ctx, s, fleet.Blocks, fleet.NameOf(p.String()))
		})
	}
	all.Wait()
	for bits := longest; bits >= shortest; bits-- {
		if errs[bits] != nil {
			if !errors.Is(errs[bits], fleet.ErrNotFound) {
				return nil, errs[bits]
			}
			continue
		}
		if a.Is4() || contains(got[bits].Spec.IPv6, a) {
			return &got[bits], nil
		}
	}
	return nil, nil
}

// inIPv4 is an address, or the one that an address of a fabric ends with.
func inIPv4(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

func contains(prefix string, a netip.Addr) bool {
	p, err := netip.ParsePrefix(prefix)
	return err == nil && p.Contains(a)
}

// locate says whose an address is, by loans.
func locate(ctx context.Context, s fleet.Store, a netip.Addr) (p place, err error) {
	p.Asked = a
	if p.Block, err = blockOf(ctx, s, a); err != nil {
		return p, err
	}
	if p.Block == nil {
		return p.outside(ctx, s)
	}
	b := p.Block.Spec
	p.Address, p.Pool = inIPv4(a), b.Pool
	h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts, b.Host)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return p, err
	}
	p.Held = slices.ContainsFunc(h.Status.Held, func(h fleet.Held) bool { return h.IPv4 == b.IPv4 && h.Lease == b.Lease })
	if p.Text = a.String(); a != p.Address {
		p.Text = fmt.Sprintf("%v is where relays lead %v, which", a, p.Address)
	}
	held := "which does not hold it yet"
	switch {
	case b.State == fleet.Ended:
		p.Text += fmt.Sprintf(" is in block %s of pool %s, whose loan to host %s (lease %d) has ended; it is free when no relay has it", b.IPv4, b.Pool, b.Host, b.Lease)
		return p, nil
	case b.State == fleet.Reserved:
		held = "for which it is reserved"
	case b.State == fleet.Offered && !p.Held:
		held = "which gets it when all relays have it"
	case p.Held:
		held = "which holds it"
	}
	p.Host = b.Host
	p.Text += fmt.Sprintf(" is in block %s of pool %s, lent to host %s (lease %d), %s", b.IPv4, b.Pool, b.Host, b.Lease, held)
	return p, nil
}

// outside says what there is to say of an address that is in no block.
func (p place) outside(ctx context.Context, s fleet.Store) (place, error) {
	if p.Asked.Is6() {
		return p.inFabric(ctx, s)
	}
	pools, err := all[fleet.PoolSpec, fleet.PoolStatus](ctx, s, fleet.Pools)
	if err != nil {
		return p, err
	}
	p.Address, p.Text = p.Asked, fmt.Sprintf("%v is in no pool of the fleet", p.Asked)
	for _, pool := range pools {
		if slices.ContainsFunc(pool.Spec.IPv4, func(prefix string) bool { return contains(prefix, p.Asked) }) {
			p.Pool, p.Text = pool.Name, fmt.Sprintf("%v is in pool %s, and lent to nobody", p.Asked, pool.Name)
		}
	}
	return p, nil
}

func (p place) inFabric(ctx context.Context, s fleet.Store) (place, error) {
	hosts, err := all[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts)
	if err != nil {
		return p, err
	}
	p.Text = fmt.Sprintf("%v is no block's address in the fabric: it may be a workload's own", p.Asked)
	for _, h := range hosts {
		if contains(h.Spec.Fabric, p.Asked) {
			p.Text = fmt.Sprintf("%v is in the prefix of the fabric that leads to host %s (%s), which has no block with %v", p.Asked, h.Name, h.Spec.Fabric, inIPv4(p.Asked))
		}
	}
	return p, nil
}
