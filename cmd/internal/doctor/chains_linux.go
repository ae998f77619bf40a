package doctor

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/fastpath/survey"
)

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// Chains is Host's. The daemon's own tables are left out.
func (h ThisHost) Chains() ([]Chain, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	all, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains of nftables: %w", err)
	}
	accepts := map[[2]string]bool{} // by family and table
	var chains []Chain
	for _, n := range all {
		family, ours := families[n.Table.Family]
		if !ours || survey.OwnTable(n.Table.Name) {
			continue
		}
		rules, err := c.GetRules(n.Table, n)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("list rules of %s %s %s: %w", family, n.Table.Name, n.Name, err)
		}
		chain := Chain{Family: family, Table: n.Table.Name, Name: n.Name, Hook: hook(n)}
		chain.DropsByDefault = n.Policy != nil && *n.Policy == nftables.ChainPolicyDrop
		for _, r := range rules {
			chain.Masquerades = chain.Masquerades || masquerades(r)
			if h.accepted(r) {
				accepts[[2]string{family, n.Table.Name}] = true
			}
		}
		chains = append(chains, chain)
	}
	for i, c := range chains {
		chains[i].Accepts = accepts[[2]string{c.Family, c.Table}]
	}
	return chains, nil
}

// hook is where a base chain hangs, "" for others.
func hook(c *nftables.Chain) string {
	if c.Hooknum == nil {
		return ""
	}
	switch *c.Hooknum {
	case *nftables.ChainHookForward:
		return "forward"
	case *nftables.ChainHookPostrouting:
		return "postrouting"
	}
	return "other"
}

// accepted reports whether a rule accepts what comes from or goes to the device.
func (h ThisHost) accepted(r *nftables.Rule) bool {
	names, accepts := false, false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			names = names || string(bytes.TrimRight(e.Data, "\x00")) == h.Device
		case *expr.Verdict:
			accepts = accepts || e.Kind == expr.VerdictAccept
		}
	}
	return names && accepts
}

// sourceAddress is where an IPv4 header has it.
const sourceAddress = 12

// masquerades reports whether a rule masquerades packets whatever their source:
// that of a container engine, for its own containers, does no harm.
func masquerades(r *nftables.Rule) bool {
	does := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			if e.Base == expr.PayloadBaseNetworkHeader && e.Offset == sourceAddress {
				return false
			}
		case *expr.Masq:
			does = true
		case *expr.Target: // of iptables-nft
			does = does || e.Name == "MASQUERADE"
		}
	}
	return does
}
