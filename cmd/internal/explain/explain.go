// Package explain says what the translator makes of a packet that is written
// in words: it builds the packet, runs the real translator on it, and puts
// what comes out into words again. No rule of translation may enter here.
package explain

import (
	"fmt"
	"net/netip"
	"strings"

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
	e.Verdict, e.Rule, e.Policy, e.Output = run(t, data, from)
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
func run(t *translator.Translator, data []byte, from *mapping.Entry) (verdict, rule, held string, output []string) {
	var o outputs
	p := o.Buffer()
	p.End = p.Start + copy(p.Buf[p.Start:], data)
	// The packet is of nobody, and its answer at nobody's cost.
	trial := t.NewTrial()
	driver := dataplane.NewDriver(trial, &o, nil)
	var v translator.Verdict
	if from != nil {
		v = driver.Pass(p, from.Tag())
	} else {
		v = driver.Move(p)
	}
	if r := trial.Rule(); r != nil {
		held = r.ID()
	}
	return v.String(), v.Section(), held, o.described
}

// outputs is the port that only says what leaves.
type outputs struct {
	tun.Buffers
	described []string
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
	switch v4, ok := extract(t, a); {
	case ok:
		return fmt.Sprintf("prefix %s, for %s", table.Prefix(), v4)
	case a.Is4() && table.Prefix().IsValid():
		return "prefix " + table.Prefix().String()
	}
	return "no mapping and no prefix covers it"
}

func text(e *api.Explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "in       %s\n", e.Packet)
	for _, m := range e.Mappings {
		fmt.Fprintf(&b, "         %s\n", m)
	}
	v, _ := translator.ParseVerdict(e.Verdict)
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
