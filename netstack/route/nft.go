package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/natless/natless/translator/ports"
)

// nftTableName is the name of our tables, one in each family that is needed.
const nftTableName = "natless"

// nftTable is one of our tables. Its text has a line for each rule; in the
// kernel each rule carries its line as its comment, so that "nft list table"
// explains itself, and a missing or foreign rule shows. Adding it replaces what
// has its family, in one transaction.
type nftTable struct{ family, text string }

func (t nftTable) String() string { return "nft " + t.family + "\n" + indent(t.text) }
func (nftTable) rank() int        { return 4 }

func indent(s string) string { return "\t" + strings.ReplaceAll(s, "\n", "\n\t") }

// nftDef is what a table consists of.
type nftDef struct {
	family nftables.TableFamily
	chains []nftables.Chain
	rules  []nftRule
	sets   []nftSet
}

type nftSet struct {
	nftables.Set
	content  string // of a set of intervals: see nftContent
	elements []nftables.SetElement
}

type nftRule struct {
	chain, text string // text: at most 127 bytes, which is what nft(8) prints
	exprs       []expr.Any
}

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyINet {
		return "inet"
	}
	return "ip"
}

func familyOf(name string) nftables.TableFamily {
	if name == "inet" {
		return nftables.TableFamilyINet
	}
	return nftables.TableFamilyIPv4
}

func (d *nftDef) add(chain, text string, exprs ...[]expr.Any) {
	d.rules = append(d.rules, nftRule{chain, text, slices.Concat(exprs...)})
}

func (d nftDef) object() nftTable { return nftTable{familyName(d.family), nftText(d.rules)} }

// nftText orders by chain; within a chain the order stays.
func nftText(rules []nftRule) string {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b nftRule) int { return cmp.Compare(a.chain, b.chain) })
	lines := make([]string, len(rules))
	for i, r := range rules {
		lines[i] = r.chain + ": " + r.text
	}
	return strings.Join(lines, "\n")
}

// nftDefs gives the tables that the desired state needs.
func nftDefs(device string, d Desired, facts facts) []nftDef {
	var defs []nftDef
	if d.AntiSpoofing {
		defs = append(defs, spoofDef(device, d, facts))
	}
	if d.HostPool.Addr.IsValid() && facts.device != 0 {
		defs = append(defs, hostPoolDef(d, facts))
	}
	return defs
}

// The smallest words of nftables, of which the rules are made. All use
// register 1.

func load(base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}}
}

func mask(m []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(m)), Mask: m, Xor: make([]byte, len(m))}}
}

func is(value ...byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func isNot(value ...byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value}}
}

func within(p ports.Range) []expr.Any {
	return []expr.Any{&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: be16(p.First), ToData: be16(p.Last)}}
}

func oneOf(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set}}
}

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func counted(kind expr.VerdictKind) []expr.Any {
	return append([]expr.Any{&expr.Counter{}}, verdict(kind)...)
}

func be16(v uint16) []byte { return []byte{byte(v >> 8), byte(v)} }

// MissingFeatureError says that the kernel lacks something; Since is the first
// Linux that has it.
type MissingFeatureError struct{ Feature, Since, Remedy string }

func (e *MissingFeatureError) Error() string {
	return fmt.Sprintf("the kernel lacks %s (Linux %s or later): %s", e.Feature, e.Since, e.Remedy)
}
