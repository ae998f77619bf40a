// Package packets puts what the daemon saw of packets before people: as lines,
// and as pcapng files. Asking the daemon, flags and signals may not enter here.
package packets

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator"
)

// Style is how lines look.
type Style struct {
	ASCII  bool         // no arrows but those of ASCII
	Color  bool         // for a terminal
	Words  bool         // each packet in the words of natless explain, on lines of its own
	Prefix netip.Prefix // whose addresses are written with the IPv4 address in them
}

const (
	red, green, yellow, dim, plain = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
)

func (s *Style) paint(color, text string) string {
	if !s.Color {
		return text
	}
	return color + text + plain
}

func (s *Style) pick(unicode, ascii string) string {
	if s.ASCII {
		return ascii
	}
	return unicode
}

// Line is a packet in a line, or in several with Words; with a newline behind.
func (s *Style) Line(e *api.Event) string {
	v, _ := translator.ParseVerdict(e.Verdict)
	direction := strings.ReplaceAll(e.Direction, "to", s.pick("→", ">"))
	color := green
	switch {
	case v.Replied():
		color = yellow
	case v.IsDrop():
		color = red
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", s.paint(dim, e.Time.Local().Format("15:04:05.000")), direction, s.paint(color, fmt.Sprintf("%-8s", e.Verdict)))
	switch {
	case s.Words:
		s.words(&b, e, v)
		return b.String()
	case e.In == nil && e.Out != nil:
		fmt.Fprintf(&b, "  (held)  %s  %s%s", s.pick("⇒", "=>"), s.side(e.Out, ""), size(e.Out, 0))
	case e.In != nil && e.Out == nil:
		fmt.Fprintf(&b, "  %s%s", s.side(e.In, ""), size(e.In, e.GSOSize))
		if v != translator.Local {
			fmt.Fprintf(&b, "  %s", s.paint(color, strings.TrimPrefix(explain.Meaning(v), "dropped: ")))
		}
	case e.In != nil && e.Out != nil:
		fmt.Fprintf(&b, "  %s  %s  %s%s", s.side(e.In, ""), s.pick("⇒", "=>"), s.side(e.Out, e.In.Proto), size(e.In, e.GSOSize))
		if v.Replied() {
			fmt.Fprintf(&b, ", answered %s", strings.TrimSpace(about(e.Out)))
		}
	}
	if e.Policy != "" {
		fmt.Fprintf(&b, ", %s", held(e, v))
	}
	if e.Workload != "" {
		fmt.Fprintf(&b, "  %s", s.paint(dim, "("+e.Workload+")"))
	}
	b.WriteByte('\n')
	return b.String()
}

// words says it as natless explain does.
func (s *Style) words(b *strings.Builder, e *api.Event, v translator.Verdict) {
	fmt.Fprintf(b, "  %s (%s)\n", explain.Meaning(v), v.Section())
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(b, "    %-9s%s\n", name, text)
		}
	}
	row("workload", e.Workload)
	row("mapping", e.Mapping)
	row("policy", held(e, v))
	if e.In != nil {
		row("in", e.In.Words)
	}
	if e.Out != nil {
		row(map[bool]string{false: "out", true: "answer"}[v.Replied()], e.Out.Words)
	}
	if e.GSOSize > 0 {
		row("", fmt.Sprintf("a superpacket, for packets with %d bytes of payload", e.GSOSize))
	}
}

// held says by which rule of a policy a packet was denied, or would be.
func held(e *api.Event, v translator.Verdict) string {
	switch {
	case e.Policy == "":
		return ""
	case v.IsDenied():
		return "by " + e.Policy
	}
	return e.Policy + " would deny it"
}

// side is who sends to whom. A protocol that is the same as before is left out.
func (s *Style) side(p *api.Side, before string) string {
	if !p.Src.IsValid() {
		return fmt.Sprintf("%d bytes that are not an IP packet", p.Length)
	}
	text := fmt.Sprintf("%s %s %s", s.end(p.Src, p.SrcPort), s.pick("→", "->"), s.end(p.Dst, p.DstPort))
	if p.Proto == before {
		return text
	}
	if strings.Trim(p.Proto, "0123456789") == "" {
		return "proto " + p.Proto + " " + text
	}
	return p.Proto + " " + text
}

// end is an address and port as tcpdump writes them, for people's eyes.
func (s *Style) end(a netip.Addr, port uint16) string {
	text := a.String()
	if s.Prefix.Bits() == 96 && s.Prefix.Contains(a) {
		b := a.As16()
		text = strings.TrimSuffix(s.Prefix.Addr().String(), "::") + "::" + netip.AddrFrom4([4]byte(b[12:])).String()
		if back, err := netip.ParseAddr(text); err != nil || back != a { // a prefix without :: at its end
			text = a.String()
		}
	}
	if port == 0 {
		return text
	}
	return fmt.Sprintf("%s.%d", text, port)
}

func size(p *api.Side, gso int) string {
	text := fmt.Sprintf("  len %d", p.Length)
	if gso > 0 {
		text += fmt.Sprintf(" gso %d", gso)
	}
	return text + about(p)
}

// about is what else one looks at: the flags of TCP, or which ICMP message it
// is.
func about(p *api.Side) string {
	if p.TCPFlags != "" {
		return " " + p.TCPFlags
	}
	_, message, _ := strings.Cut(p.Words, " icmp")
	for _, behind := range []string{" hlim ", " ttl "} {
		message, _, _ = strings.Cut(message, behind)
	}
	return message
}

// Gap says how many packets are not shown, and why; "" when all are.
func (s *Style) Gap(limited, lost uint64) string {
	var words []string
	if limited > 0 {
		words = append(words, Number(limited)+" more")
	}
	if lost > 0 {
		words = append(words, Number(lost)+" lost, this reader is too slow")
	}
	if words == nil {
		return ""
	}
	return s.paint(dim, s.pick("… ", "... ")+strings.Join(words, ", ")) + "\n"
}

// Number writes n with a comma between thousands.
func Number(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
