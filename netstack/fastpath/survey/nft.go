//go:build linux

package survey

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// Rules are read as the kernel has them (include/uapi/linux/netfilter/nf_tables.h).
// A library that gives them as Go values leaves out expressions that it does not
// know, and what is not known is what matters here.

// rules are all of nftables, and of iptables where that is on top of it.
type rules struct {
	conn       *mdl.Conn
	generation uint32
	read       bool
	chains     map[chainKey]*chain
	dormant    map[chainKey]bool      // tables, by family and name
	sets       map[chainKey][]element // as far as they were asked for
	dynamic    map[chainKey]bool      // sets that packets change
}

type chainKey struct {
	family      byte
	table, name string
}

type chain struct {
	key      chainKey
	hooked   bool
	hook     uint32
	priority int32
	kind     string
	devices  []string // of hooks at an interface
	prefixes []string // of names of such interfaces
	drops    bool     // by policy
	rules    []rule
}

type rule struct {
	handle uint64
	exprs  []expression
}

type expression struct {
	name string
	data []byte // attributes
}

// element is one of a set or a map.
type element struct {
	key     []byte
	verdict verdict
	other   bool // an interval's end, or nothing that is understood
}

type verdict struct {
	code  int32
	chain string
}

func (r *rules) open() (err error) {
	if r.conn, err = mdl.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
		return fmt.Errorf("netfilter: %w", err)
	}
	return nil
}

func (r *rules) close() { r.conn.Close() }

// ask sends a request to nftables. Every message of the answer is given to each.
func (r *rules) ask(message uint16, family byte, flags mdl.HeaderFlags, attributes []byte,
	each func(family byte, d *mdl.AttributeDecoder) error,
) error {
	m := mdl.Message{
		Header: mdl.Header{Type: mdl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message), Flags: mdl.Request | flags},
		Data:   append([]byte{family, 0, 0, 0}, attributes...),
	}
	answers, err := dump.Messages(r.conn, m)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if len(a.Data) < 4 {
			continue
		}
		d, err := mdl.NewAttributeDecoder(a.Data[4:])
		if err != nil {
			return err
		}
		d.ByteOrder = binary.BigEndian
		if err := each(a.Data[0], d); err != nil {
			return err
		}
		if err := d.Err(); err != nil {
			return err
		}
	}
	return nil
}

// refresh reads everything, if anything has changed. After a change meanwhile it
// tries again.
func (r *rules) refresh() (changed bool, err error) {
	for range 5 {
		generation, err := r.current()
		if unsupported(err) {
			return false, nil // a kernel without it
		}
		if err != nil {
			return false, fmt.Errorf("rules of nftables: %w", err)
		}
		if r.read && generation == r.generation {
			return changed, nil
		}
		r.read, changed = false, true
		err = r.readAll()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return true, fmt.Errorf("rules of nftables: %w", err)
		}
		r.generation, r.read = generation, true
	}
	if generation, err := r.current(); err != nil || generation != r.generation {
		r.read = false // half of one state and half of another
		return true, fmt.Errorf("rules of nftables: %w", cmp.Or(err, dump.ErrInterrupted))
	}
	return true, nil
}

func (r *rules) current() (generation uint32, err error) {
	err = r.ask(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, 0, nil, func(_ byte, d *mdl.AttributeDecoder) error {
		for d.Next() {
			if d.Type() == 1 { // NFTA_GEN_ID
				generation = d.Uint32()
			}
		}
		return nil
	})
	return generation, err
}

func (r *rules) readAll() error {
	r.chains, r.dormant = map[chainKey]*chain{}, map[chainKey]bool{}
	r.sets, r.dynamic = map[chainKey][]element{}, map[chainKey]bool{}
	err := r.ask(unix.NFT_MSG_GETTABLE, unix.AF_UNSPEC, mdl.Dump, nil, func(family byte, d *mdl.AttributeDecoder) error {
		k := chainKey{family: family}
		for d.Next() {
			switch d.Type() {
			case unix.NFTA_TABLE_NAME:
				k.table = d.String()
			case unix.NFTA_TABLE_FLAGS:
				r.dormant[k] = d.Uint32()&1 != 0 // NFT_TABLE_F_DORMANT; the name comes first
			}
		}
		return nil
	})
	if err == nil {
		err = r.ask(unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC, mdl.Dump, nil, r.addChain)
	}
	if err == nil {
		err = r.ask(unix.NFT_MSG_GETRULE, unix.AF_UNSPEC, mdl.Dump, nil, r.addRule)
	}
	return err
}

func (r *rules) addChain(family byte, d *mdl.AttributeDecoder) error {
	c := &chain{key: chainKey{family: family}}
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.key.table = d.String()
		case unix.NFTA_CHAIN_NAME:
			c.key.name = d.String()
		case unix.NFTA_CHAIN_TYPE:
			c.kind = d.String()
		case unix.NFTA_CHAIN_POLICY:
			c.drops = d.Uint32() == 0 // NF_DROP
		case unix.NFTA_CHAIN_HOOK:
			c.hooked = true
			d.Nested(c.addHook)
		}
	}
	r.chains[c.key] = c
	return nil
}

func (c *chain) addHook(d *mdl.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_HOOK_HOOKNUM:
			c.hook = d.Uint32()
		case unix.NFTA_HOOK_PRIORITY:
			c.priority = int32(d.Uint32())
		case unix.NFTA_HOOK_DEV:
			c.devices = append(c.devices, d.String())
		case 4: // NFTA_HOOK_DEVS
			d.Nested(func(d *mdl.AttributeDecoder) error {
				for d.Next() {
					if d.Type() == 1 { // NFTA_DEVICE_NAME
						c.devices = append(c.devices, d.String())
					} else { // NFTA_DEVICE_PREFIX
						c.prefixes = append(c.prefixes, d.String())
					}
				}
				return nil
			})
		}
	}
	return nil
}

func (r *rules) addRule(family byte, d *mdl.AttributeDecoder) error {
	k, u := chainKey{family: family}, rule{}
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_RULE_TABLE:
			k.table = d.String()
		case unix.NFTA_RULE_CHAIN:
			k.name = d.String()
		case unix.NFTA_RULE_HANDLE:
			u.handle = d.Uint64()
		case unix.NFTA_RULE_EXPRESSIONS:
			d.Nested(func(d *mdl.AttributeDecoder) error {
				for d.Next() {
					var e expression
					d.Nested(e.decode)
					u.exprs = append(u.exprs, e)
					if e.name == "dynset" {
						r.dynamic[chainKey{family, k.table, text(e.attributes()[1])}] = true // NFTA_DYNSET_SET_NAME
					}
				}
				return nil
			})
		}
	}
	if c := r.chains[k]; c != nil {
		c.rules = append(c.rules, u)
	}
	return nil
}

func (e *expression) decode(d *mdl.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_EXPR_NAME:
			e.name = d.String()
		case unix.NFTA_EXPR_DATA:
			e.data = append([]byte(nil), d.Bytes()...)
		}
	}
	return nil
}

// attributes are those of an expression, by type.
func (e *expression) attributes() map[uint16][]byte {
	all := map[uint16][]byte{}
	if d, err := mdl.NewAttributeDecoder(e.data); err == nil {
		for d.Next() {
			all[d.Type()] = d.Bytes()
		}
	}
	return all
}

func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// elements are those of a set or a map.
func (r *rules) elements(k chainKey) ([]element, error) {
	if list, ok := r.sets[k]; ok {
		return list, nil
	}
	e := mdl.NewAttributeEncoder()
	e.String(1, k.table) // NFTA_SET_ELEM_LIST_TABLE
	e.String(2, k.name)  // NFTA_SET_ELEM_LIST_SET
	attributes, err := e.Encode()
	if err != nil {
		return nil, err
	}
	var list []element
	err = r.ask(unix.NFT_MSG_GETSETELEM, k.family, mdl.Dump, attributes, func(_ byte, d *mdl.AttributeDecoder) error {
		for d.Next() {
			if d.Type() != 3 { // NFTA_SET_ELEM_LIST_ELEMENTS
				continue
			}
			d.Nested(func(d *mdl.AttributeDecoder) error {
				for d.Next() {
					var e element
					d.Nested(e.decode)
					list = append(list, e)
				}
				return nil
			})
		}
		return nil
	})
	if err == nil {
		r.sets[k] = list
	}
	return list, err
}

func (e *element) decode(d *mdl.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case 1: // NFTA_SET_ELEM_KEY
			d.Nested(func(d *mdl.AttributeDecoder) error {
				for d.Next() {
					e.key = append([]byte(nil), d.Bytes()...)
				}
				return nil
			})
		case 2: // NFTA_SET_ELEM_DATA
			d.Nested(func(d *mdl.AttributeDecoder) error {
				for d.Next() {
					e.verdict = decodeVerdict(d.Type(), d.Bytes())
				}
				return nil
			})
		case 3, 10: // NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY_END
			e.other = true
		}
	}
	return nil
}

// decodeVerdict reads an attribute of NFTA_DATA_VERDICT.
func decodeVerdict(kind uint16, b []byte) (v verdict) {
	v.code = verdictNone
	d, err := mdl.NewAttributeDecoder(b)
	if kind != unix.NFTA_DATA_VERDICT || err != nil {
		return v
	}
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.code = int32(number(d.Bytes()))
		case unix.NFTA_VERDICT_CHAIN:
			v.chain = text(d.Bytes())
		}
	}
	return v
}
