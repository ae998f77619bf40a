// Package explain says what the translator makes of a packet that is written
// in words: it builds the packet, runs the real translator on it, and puts
// what comes out into words again. No rule of translation may enter here.
package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Packet explains the packet that words describe, as t would treat it now. The
// error says which word is wrong.
func Packet(t *translator.Translator, words string) (api.Explanation, error) {
	return Beside(t, words, nil)
}

// Beside is Packet beside what else becomes of packets: shed says why such a packet is
// dropped before it is translated, or nothing. The tag is of whoever has IPv4 inside and
// sends it.
func Beside(t *translator.Translator, words string, shed func(packet []byte, from mapping.Tag) string) (api.Explanation, error) {
	k, err := parse(words)
	if err != nil {
		return api.Explanation{}, err
	}
	data, err := k.bytes()
	if err != nil {
		return api.Explanation{}, err
	}
	e := api.Explanation{Packet: Describe(data)}
	e.Mappings = k.mappings(t)
	var from *mapping.Entry
	if k.from.IsValid() {
		if from = t.Table().Lookup6(mapping.Addr6From(k.from)); from == nil || !from.Inside() {
			return api.Explanation{}, fmt.Errorf("from %v: no workload with IPv4 inside has this address", k.from)
		}
		e.Packet += fmt.Sprintf(" from %v", k.from)
		e.Mappings = append([]string{fmt.Sprintf("from %v: mapping %v", k.from, from.Mapping())}, e.Mappings...)
	}
	e.Verdict, e.Rule, e.Policy, e.Between, e.Output = run(t, data, from)
	if shed != nil {
		tag := mapping.Tag(0)
		if from != nil {
			tag = from.Tag()
		}
		e.Shed = shed(data, tag)
	}
	e.Text = text(&e)
	return e, nil
}

// run moves the packet, of a workload with IPv4 inside where from is not nil, and
// describes what comes out.
func run(t *translator.Translator, data []byte, from *mapping.Entry) (verdict, rule, held, between string, output []string) {
	var o outputs
	p := o.Buffer()
	p.End = p.Start + copy(p.Buf[p.Start:], data)
	// The packet is of nobody, and its answer at nobody's cost.
	trial := t.NewTrial()
	var see dataplane.Observer
	if t.EdgeTable() != nil {
		see = &o
	}
	driver := dataplane.NewDriver(trial, &o, see)
	var v translator.Verdict
	if from != nil {
		v = driver.Pass(p, from.Tag())
	} else {
		v = driver.Move(p)
	}
	if r := trial.Rule(); r != nil {
		held = r.ID()
	}
	if len(o.described) == 0 || data[0]>>4 != 6 {
		o.between = "" // it did not leave, or was IPv4 anyway
	}
	return v.String(), v.Section(), held, o.between, o.described
}

// outputs is the port that only says what leaves.
type outputs struct {
	tun.Buffers
	described []string
	between   string // what a packet was as IPv4, between the halves of an edge
}

// Begin is the observer's.
func (o *outputs) Begin(int, time.Time) {}

// Read is the observer's.
func (o *outputs) Read(_ int, p *translator.Packet) { o.pass(p) }

// Translated is the observer's.
func (o *outputs) Translated(_ int, p *translator.Packet, v translator.Verdict, _ uint32) {
	if v.Leaves() {
		o.pass(p)
	}
}

func (o *outputs) pass(p *translator.Packet) {
	if b := p.Bytes(); len(b) > 0 && b[0]>>4 == 4 && o.between == "" {
		o.between = Describe(b)
	}
}

// Send is the port's.
func (o *outputs) Send(p *translator.Packet, _ translator.Verdict) {
	o.described = append(o.described, Describe(p.Bytes()))
	o.Release(p)
}

// Deliver is the port's.
func (o *outputs) Deliver(p *translator.Packet, _ mapping.Tag, v translator.Verdict) { o.Send(p, v) }

// Local is the port's.
func (o *outputs) Local(p *translator.Packet) { o.Release(p) }

// mappings says for both addresses what decides about them.
func (k *packet) mappings(t *translator.Translator) []string {
	src, dst := k.sport, k.dport
	if k.icmp && k.quoted == nil {
		src, dst = uint16(k.rest>>16), uint16(k.rest>>16) // the identifier counts as port
	}
	if k.quoted != nil { // and in an error, what is quoted, which went the other way
		src, dst = k.quoted.dport, k.quoted.sport
	}
	lines := []string{
		"source " + k.src.String() + ": " + decider(t, k.src, src),
		"destination " + k.dst.String() + ": " + decider(t, k.dst, dst),
	}
	if v4, ok := ofBlock(t, k.dst); ok {
		if m := lookup(t.Table(), v4, dst); m != "" {
			lines = append(lines, "workload "+v4.String()+": "+m)
		}
	}
	if v4, ok := extract(t, k.dst); ok {
		m := lookup(t.Table(), v4, dst)
		if m == "" {
			m = t.Config().Rules.Describe(v4, dst)
		}
		if m != "" {
			lines = append(lines, "hairpin "+v4.String()+": "+m)
		}
	}
	return lines
}

// decider names what decides about an address: the translator itself, the
// mapping with the longest prefix, a rule of MAP-T, or the RFC 6052 prefix.
func decider(t *translator.Translator, a netip.Addr, port uint16) string {
	table, c := t.Table(), t.Config()
	if a == c.IPv4 || a == c.IPv6 {
		return "the translator's own address"
	}
	if e := lookup(table, a, port); e != "" {
		return e
	}
	if ce := c.Rules.Describe(a, port); ce != "" {
		return ce
	}
	fabric := onFabric(t, a)
	switch v4, ok := extract(t, a); {
	case ok:
		return fmt.Sprintf("prefix %s, for %s", table.Prefix(), v4)
	case fabric != "":
		return fabric
	case a.Is4() && table.Prefix().IsValid():
		return "prefix " + table.Prefix().String()
	}
	return "no mapping and no prefix covers it"
}

// onFabric names what an address is on the fabric of an edge, if anything.
func onFabric(t *translator.Translator, a netip.Addr) string {
	table := t.EdgeTable()
	if table == nil || !a.Is6() {
		return ""
	}
	if v4, ok := ofBlock(t, a); ok {
		return fmt.Sprintf("this host's address on the fabric, for %v", v4)
	}
	if v4, within := table.Extract(mapping.Addr6From(a)); within {
		return fmt.Sprintf("the fabric's prefix %s, for %v", table.Prefix(), mapping.Addr4(v4))
	}
	return ""
}

// ofBlock is the IPv4 address that one of this host's on the fabric is for.
func ofBlock(t *translator.Translator, a netip.Addr) (netip.Addr, bool) {
	table := t.EdgeTable()
	if table == nil || !a.Is6() {
		return netip.Addr{}, false
	}
	six := mapping.Addr6From(a)
	e := table.Lookup6(six)
	if e == nil {
		return netip.Addr{}, false
	}
	return mapping.Addr4(e.To4(six)), true
}

func text(e *api.Explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "in       %s\n", e.Packet)
	for _, m := range e.Mappings {
		fmt.Fprintf(&b, "         %s\n", m)
	}
	v, _ := translator.ParseVerdict(e.Verdict)
	if e.Between != "" {
		fmt.Fprintf(&b, "as IPv4  %s\n", e.Between)
	}
	label := "out      "
	if v.Replied() {
		label = "answer   "
	}
	for _, o := range e.Output {
		fmt.Fprintf(&b, "%s%s\n", label, o)
	}
	fmt.Fprintf(&b, "verdict  %s: %s (%s)\n", e.Verdict, meaning[v.Reason()], e.Rule)
	switch {
	case e.Policy != "" && v.IsDrop():
		fmt.Fprintf(&b, "policy   %s\n", e.Policy)
	case e.Policy != "":
		fmt.Fprintf(&b, "policy   %s would deny it: it is only audited\n", e.Policy)
	}
	if e.Shed != "" {
		fmt.Fprintf(&b, "shed     %s\n", e.Shed)
	}
	if v.IsDrop() && !v.Replied() {
		b.WriteString("         no answer is sent\n")
	}
	return b.String()
}
