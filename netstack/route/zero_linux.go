package route

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/translator/ports"
)

// Policy rules are read and copied as raw messages: a rule of somebody else
// must come out of it with every attribute, also with those that no library
// knows.

// sizeofFibRuleHdr is that of struct fib_rule_hdr of linux/fib_rules.h: family,
// dst_len, src_len, tos, table, res1, res2, action, flags (32 bits).
const sizeofFibRuleHdr = 12

const (
	ruleInvert = 0x2 // FIB_RULE_INVERT; the other flags are the kernel's to say
	toTable    = 1   // FR_ACT_TO_TBL
)

// rawRule is a policy rule as the kernel gives it.
type rawRule struct {
	data     []byte
	priority uint32
	table    uint32
	protocol uint8
	all      bool // it is for all packets, and looks up a table
	known    rule // what of it we have words for
}

func (r *rawRule) ours() bool       { return r.protocol == Protocol }
func (r *rawRule) looksLocal() bool { return r.table == unix.RT_TABLE_LOCAL && r.data[7] == toTable }

func parseRule(data []byte) (*rawRule, error) {
	if len(data) < sizeofFibRuleHdr {
		return nil, fmt.Errorf("rule of %d bytes", len(data))
	}
	r := &rawRule{data: bytes.Clone(data), table: uint32(data[4])}
	flags := binary.NativeEndian.Uint32(data[8:]) & ruleInvert
	binary.NativeEndian.PutUint32(r.data[8:], flags)
	r.all = flags == 0 && data[3] == 0 && data[7] == toTable
	ad, err := mdl.NewAttributeDecoder(data[sizeofFibRuleHdr:])
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.FRA_PRIORITY:
			r.priority = ad.Uint32()
		case unix.FRA_TABLE:
			r.table = ad.Uint32()
		case unix.FRA_PROTOCOL:
			r.protocol = ad.Uint8()
		case unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
			r.all = r.all && ad.Uint32() == 0xffffffff // none
		case unix.FRA_DST, unix.FRA_SRC, unix.FRA_IIFNAME, unix.FRA_OIFNAME, unix.FRA_FWMARK, unix.FRA_TUN_ID,
			unix.FRA_L3MDEV, unix.FRA_UID_RANGE, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
			r.all = false
			r.known.note(ad)
		}
	}
	r.known.priority, r.known.table = int(r.priority), int(r.table)
	return r, ad.Err()
}

// note takes over an attribute that rules of ours have.
func (r *rule) note(ad *mdl.AttributeDecoder) {
	switch ad.Type() {
	case unix.FRA_DST:
		r.to, _ = netip.AddrFromSlice(ad.Bytes())
	case unix.FRA_IIFNAME:
		r.iif = ad.String()
	case unix.FRA_FWMARK:
		r.mark = ad.Uint32()
	case unix.FRA_IP_PROTO:
		r.proto = ad.Uint8()
	case unix.FRA_DPORT_RANGE: // struct fib_rule_port_range
		if b := ad.Bytes(); len(b) == 4 {
			r.ports = ports.Range{First: binary.NativeEndian.Uint16(b), Last: binary.NativeEndian.Uint16(b[2:])}
		}
	}
}

// rules lists the policy rules for IPv4, in their order.
func (k *linuxKernel) rules() ([]*rawRule, error) {
	request := make([]byte, sizeofFibRuleHdr)
	request[0] = unix.AF_INET
	msgs, err := dump.Messages(k.conn, mdl.Message{
		Header: mdl.Header{Type: unix.RTM_GETRULE, Flags: mdl.Request | mdl.Dump},
		Data:   request,
	})
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	out := make([]*rawRule, len(msgs))
	for i, m := range msgs {
		if out[i], err = parseRule(m.Data); err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
	}
	return out, nil
}

func (k *linuxKernel) readRules(_ Desired, o *observed) error {
	rules, err := k.rules()
	if err != nil {
		return err
	}
	for _, r := range rules {
		switch {
		case r.ours():
			o.have.add(r.known)
		case r.looksLocal():
			o.have.add(kernelLocalRule{})
		case r.priority == 0:
			o.zeroth++
		}
	}
	if local := firstLocal(rules); local < 0 || !slices.ContainsFunc(rules[local:], (*rawRule).ours) {
		o.have.add(localBehind{})
	}
	if len(spare(rules)) > 0 {
		o.have.add(spareRules{})
	}
	return nil
}

// firstLocal is the place of the first rule of priority 0 that has the local
// table looked up for all; -1 where there is none.
func firstLocal(rules []*rawRule) int {
	return slices.IndexFunc(rules, func(r *rawRule) bool {
		return r.priority == 0 && !r.ours() && r.all && r.looksLocal()
	})
}

// copyZeroRules makes the local table's rule and all of others behind it anew,
// behind ours.
func (k *linuxKernel) copyZeroRules() error {
	rules, err := k.rules()
	if err != nil {
		return err
	}
	for i := firstLocal(rules); i >= 0 && i < len(rules) && rules[i].priority == 0; i++ {
		if rules[i].ours() {
			continue
		}
		if err := k.sendRule(unix.RTM_NEWRULE, mdl.Create, rules[i]); err != nil {
			return err
		}
	}
	return nil
}

// spare are the rules of others of priority 0 that stand there again further
// behind, the last first: in this order each step leaves the order of the rest.
func spare(rules []*rawRule) (out []*rawRule) {
	for i, r := range slices.Backward(rules) {
		if r.priority == 0 && !r.ours() &&
			slices.ContainsFunc(rules[i+1:], func(o *rawRule) bool { return bytes.Equal(o.data, r.data) }) {
			out = append(out, r)
		}
	}
	return out
}

// removeSpareRules removes them. Of equal rules the kernel takes the first.
func (k *linuxKernel) removeSpareRules() error {
	rules, err := k.rules()
	if err != nil {
		return err
	}
	for _, r := range spare(rules) {
		if err := ignore(k.sendRule(unix.RTM_DELRULE, 0, r), unix.ENOENT); err != nil {
			return err
		}
	}
	return nil
}

// sendRule adds a rule, also where there is an equal one, or deletes it.
func (k *linuxKernel) sendRule(kind mdl.HeaderType, flags mdl.HeaderFlags, r *rawRule) error {
	// The kernel gives no priority when it is 0, and takes none for another.
	ae := mdl.NewAttributeEncoder()
	ae.Uint32(unix.FRA_PRIORITY, 0)
	priority, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = k.conn.Execute(mdl.Message{
		Header: mdl.Header{Type: kind, Flags: mdl.Request | mdl.Acknowledge | flags},
		Data:   append(bytes.Clone(r.data), priority...),
	})
	return err
}
