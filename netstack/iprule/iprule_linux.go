// Package iprule adds and removes policy rules (linux/fib_rules.h). It is here since
// vishvananda/netlink says FRA_IP_PROTO with four bytes (its pull request 1190): the
// kernel wants one, takes the first, and complains in its log of each rule. Reading
// rules, and which there should be, may not enter.
package iprule

import (
	"encoding/binary"
	"fmt"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Add adds a rule in the namespace of a routing connection. Of the rule, Family,
// Priority, Table, Protocol, Dst, IPProto, Dport, Mark and IifName count. The error is
// EEXIST where there is such a rule.
func Add(c *mdl.Conn, r *netlink.Rule) error {
	return execute(c, unix.RTM_NEWRULE, mdl.Create|mdl.Excl, r)
}

// Delete removes a rule. The error is ENOENT where there is none such.
func Delete(c *mdl.Conn, r *netlink.Rule) error { return execute(c, unix.RTM_DELRULE, 0, r) }

func execute(c *mdl.Conn, kind mdl.HeaderType, flags mdl.HeaderFlags, r *netlink.Rule) error {
	data, err := encode(r, kind == unix.RTM_NEWRULE)
	if err != nil {
		return fmt.Errorf("rule %d: %w", r.Priority, err)
	}
	_, err = c.Execute(mdl.Message{Header: mdl.Header{Type: kind, Flags: mdl.Request | mdl.Acknowledge | flags}, Data: data})
	return err
}

// encode gives a struct fib_rule_hdr and the attributes.
func encode(r *netlink.Rule, add bool) ([]byte, error) {
	family, length, action := uint8(r.Family), 0, uint8(0)
	if add {
		action = nl.FR_ACT_TO_TBL
	}
	a := mdl.NewAttributeEncoder()
	if r.Dst != nil {
		length, _ = r.Dst.Mask.Size()
		dst := r.Dst.IP
		if family == unix.AF_INET {
			dst = dst.To4()
		}
		a.Bytes(nl.FRA_DST, dst)
	}
	a.Uint32(nl.FRA_PRIORITY, uint32(r.Priority))
	a.Uint32(nl.FRA_TABLE, uint32(r.Table))
	if r.Protocol != 0 {
		a.Uint8(nl.FRA_PROTOCOL, r.Protocol)
	}
	if r.Mark != 0 {
		a.Uint32(nl.FRA_FWMARK, r.Mark)
	}
	if r.IifName != "" {
		a.String(nl.FRA_IIFNAME, r.IifName)
	}
	if r.IPProto != 0 {
		a.Uint8(nl.FRA_IP_PROTO, uint8(r.IPProto))
	}
	if r.Dport != nil {
		a.Bytes(nl.FRA_DPORT_RANGE, binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, r.Dport.Start), r.Dport.End))
	}
	attributes, err := a.Encode()
	return append([]byte{family, uint8(length), 0, 0, 0, 0, 0, action, 0, 0, 0, 0}, attributes...), err
}
