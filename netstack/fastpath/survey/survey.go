//go:build linux

// Package survey finds which of a host's own settings packets would bypass if the
// kernel's fast path took them: filters and programs behind it at an interface,
// rules of netfilter, transformations of IPsec. What the fast path asks the
// kernel about for each packet (routes, rules by interface, sources) is not its
// business, nor is what is done about what it finds.
package survey

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath"
)

// Ours is which packets the fast path is about.
type Ours struct {
	Device    string   // the translator's
	Uplinks   []string // where IPv4 comes in
	Workloads []string // where IPv6 comes in
	Prefix    netip.Prefix
	// Elsewhere is behind interfaces that are not uplinks; GlobalOnly says that
	// only addresses that are reachable globally are translated.
	Elsewhere  []netip.Prefix
	GlobalOnly bool
	// Relays is the prefix of an edge's fabric, where nothing is IPv4, and Blocks is what the
	// host has there.
	Relays netip.Prefix
	Blocks []netip.Prefix
	// Mapped4 and Mapped6 cover all addresses of workloads. nil: they may be any.
	Mapped4, Mapped6 []netip.Prefix
}

// Passed is what packets would bypass, in words for people; nothing is "".
type Passed struct {
	Host       string         // by what would concern all of them
	Interfaces map[int]string // by what stands at the ingress of one
}

// Survey looks at one network namespace, that of the thread that made it. It is
// for one goroutine.
type Survey struct {
	handle *netlink.Handle // of rtnetlink
	xfrm   *netlink.Handle
	nft    rules
	judged judged
}

// New makes a survey. handle stays the caller's.
func New(handle *netlink.Handle) (*Survey, error) {
	s := &Survey{handle: handle}
	var err error
	if s.xfrm, err = netlink.NewHandle(netlinkXFRM); err != nil {
		s.xfrm = nil // a kernel without IPsec
	}
	if err := s.nft.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Survey) Close() {
	s.nft.close()
	if s.xfrm != nil {
		s.xfrm.Close()
	}
}

// Look finds what is there now. What cannot be read is an error: it may be
// anything, and so nothing should be bypassed.
func (s *Survey) Look(o Ours) (Passed, error) {
	p := Passed{Interfaces: map[int]string{}}
	links, err := dump.Whole(s.handle.LinkList)
	if err != nil {
		return p, fmt.Errorf("interfaces: %w", err)
	}
	l := interfaces{}
	for _, link := range links {
		l[link.Attrs().Name] = link.Attrs().Index
	}
	return p, errors.Join(s.trafficControl(o, l, &p), s.netfilter(o, l, &p), legacy(&p), s.ipsec(&p), programs(&p))
}

// interfaces are indexes by name.
type interfaces map[string]int

// host notes the first thing that concerns all packets.
func (p *Passed) host(format string, args ...any) {
	if p.Host == "" {
		p.Host = fmt.Sprintf(format, args...)
	}
}

// at notes the first thing at an interface.
func (p *Passed) at(ifindex int, format string, args ...any) {
	if p.Interfaces[ifindex] == "" {
		p.Interfaces[ifindex] = fmt.Sprintf(format, args...)
	}
}

// programs looks for programs at the hooks of netfilter.
func programs(p *Passed) error {
	err := fastpath.EachLink(func(all *link.Iterator) {
		info, err := all.Link.Info()
		if err != nil || info.Type != link.NetfilterType || info.Netfilter() == nil {
			return
		}
		if h := info.Netfilter().Hook; h != unix.NF_INET_LOCAL_IN && h != unix.NF_INET_LOCAL_OUT {
			p.host("BPF program %d at a hook of netfilter", info.Program)
		}
	})
	if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("links of BPF programs: %w", err)
	}
	return nil // who may not look, sees those of nobody
}

// ipsec looks for policies: a packet that is forwarded may have to be encrypted.
func (s *Survey) ipsec(p *Passed) error {
	if s.xfrm == nil {
		return nil
	}
	all, err := dump.Whole(func() ([]netlink.XfrmPolicy, error) { return s.xfrm.XfrmPolicyList(netlink.FAMILY_ALL) })
	if unsupported(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("policies of IPsec: %w", err)
	}
	if i := slices.IndexFunc(all, func(x netlink.XfrmPolicy) bool {
		return x.Dir == netlink.XFRM_DIR_OUT || x.Dir == netlink.XFRM_DIR_FWD
	}); i >= 0 {
		p.host("an IPsec policy for packets from %v to %v", all[i].Src, all[i].Dst)
	}
	return nil
}
