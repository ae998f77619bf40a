package monitor

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/ports"
)

// Grammar is how filters are written, for help texts.
const Grammar = `FILTER consists of these, with "and", "or", "not" and parentheses:

  host ADDRESS, net ADDRESS/LEN       on either side of the translation; host and net may be left out
  port N, port N-M                    of TCP, UDP, SCTP, DCCP
  src ..., dst ...                    one of the above, for the source or destination only
  tcp, udp, icmp, proto N             icmp means ICMP of both families
  workload NAME                       its name, its CONTAINER/INTERFACE, or the start of its container's id
  dir 6to4, dir 4to6, dir 4to4
  drop, forward, local, replied       what happened; replied: an ICMP error of ours went back
  verdict NAME, reason NAME           as in ` + "`natless status`" + `: forward4, port-outside-set ...
  less N, greater N                   at most, at least N bytes
  fragment

An IPv4 address also means the IPv6 address that it has under the prefix. For
example: workload web and not port 22, drop and dst net 198.51.100.0/24`

// Bounds of a filter.
const (
	maxFilter = 4096 // bytes
	maxDepth  = 50   // parentheses and nots in each other
)

// Parse reads a filter; one without words wants all.
func Parse(text string) (*Filter, error) {
	if len(text) > maxFilter {
		return nil, fmt.Errorf("a filter has at most %d bytes", maxFilter)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("is not UTF-8")
	}
	f := &Filter{text: strings.TrimSpace(text)}
	p := &parser{filter: f}
	var err error
	if p.tokens, err = split(f.text); err != nil {
		return nil, err
	}
	if len(p.tokens) == 0 {
		return f, nil
	}
	if f.root, err = p.or(); err != nil {
		return nil, err
	}
	if t, ok := p.peek(); ok {
		p.at++
		if t.text == ")" {
			return nil, p.errorf("nothing is open that it closes")
		}
		return nil, p.errorf("and, or or a parenthesis is missing before it")
	}
	return f, nil
}

// token is a word of a filter and the column that it begins in.
type token struct {
	text   string
	column int
	quoted bool
}

// split cuts text into words; parentheses and ! stand for themselves, and what
// is in double quotes is one word.
func split(text string) (tokens []token, err error) {
	for i := 0; i < len(text); {
		start := i
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
			continue
		case c == '(' || c == ')' || c == '!':
			i++
		case c == '"':
			n := strings.IndexByte(text[i+1:], '"')
			if n < 0 {
				return nil, fmt.Errorf("column %d: the quote is not closed", column(text, start))
			}
			i += n + 2
			tokens = append(tokens, token{text[start+1 : i-1], column(text, start), true})
			continue
		default:
			for i < len(text) && !strings.ContainsRune(" \t\n\r()!\"", rune(text[i])) {
				i++
			}
		}
		tokens = append(tokens, token{text[start:i], column(text, start), false})
	}
	return tokens, nil
}

func column(text string, at int) int { return utf8.RuneCountInString(text[:at]) + 1 }

// parser goes through tokens one by one.
type parser struct {
	filter *Filter
	tokens []token
	at     int
	depth  int
}

// errorf is about the last token that was taken.
func (p *parser) errorf(format string, args ...any) error {
	t := p.tokens[p.at-1]
	return fmt.Errorf("column %d, %q: %s", t.column, t.text, fmt.Sprintf(format, args...))
}

func (p *parser) peek() (token, bool) {
	if p.at == len(p.tokens) {
		return token{}, false
	}
	return p.tokens[p.at], true
}

// take takes the next token if it is one of the words.
func (p *parser) take(words ...string) bool {
	t, ok := p.peek()
	for _, w := range words {
		if ok && !t.quoted && t.text == w {
			p.at++
			return true
		}
	}
	return false
}

// word takes the next token, which what is missing without.
func (p *parser) word(what string) (string, error) {
	t, ok := p.peek()
	if !ok {
		return "", fmt.Errorf("at the end: %s is missing", what)
	}
	p.at++
	return t.text, nil
}

func (p *parser) or() (node, error) {
	a, err := p.and()
	for err == nil && p.take("or", "||") {
		var b node
		b, err = p.and()
		a = or{a, b}
	}
	return a, err
}

func (p *parser) and() (node, error) {
	a, err := p.not()
	for err == nil && p.take("and", "&&") {
		var b node
		b, err = p.not()
		a = and{a, b}
	}
	return a, err
}

func (p *parser) not() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, fmt.Errorf("more than %d parentheses and nots in each other", maxDepth)
	}
	defer func() { p.depth-- }()
	switch {
	case p.take("not", "!"):
		a, err := p.not()
		return not{a}, err
	case p.take("("):
		a, err := p.or()
		if err == nil && !p.take(")") {
			if _, more := p.peek(); more {
				p.at++
				return nil, p.errorf("and, or or ) is missing before it")
			}
			return nil, fmt.Errorf("at the end: a parenthesis is not closed")
		}
		return a, err
	}
	return p.primitive()
}

func (p *parser) primitive() (node, error) {
	w, err := p.word("something to look for, such as host 192.0.2.2,")
	if err != nil {
		return nil, err
	}
	if p.tokens[p.at-1].quoted {
		return nil, p.errorf("a name alone says nothing: write workload before it")
	}
	if read, ok := vocabulary[w]; ok {
		return read(p)
	}
	return p.at1(anyEnd, w)
}

// vocabulary is what begins with a word of its own.
var vocabulary map[string]func(*parser) (node, error)

func init() {
	known := func(n node) func(*parser) (node, error) {
		return func(*parser) (node, error) { return n, nil }
	}
	vocabulary = map[string]func(*parser) (node, error){
		"src":      func(p *parser) (node, error) { return p.end(source) },
		"dst":      func(p *parser) (node, error) { return p.end(destination) },
		"tcp":      known(either{protocol{protoTCP, protoTCP}}),
		"udp":      known(either{protocol{protoUDP, protoUDP}}),
		"icmp":     known(either{protocol{protoICMP4, protoICMP6}}),
		"fragment": known(either{fragment{}}),
		"proto":    proto,
		"less":     func(p *parser) (node, error) { n, err := p.number(1 << 17); return either{length{0, n}}, err },
		"greater":  func(p *parser) (node, error) { n, err := p.number(1 << 17); return either{length{n, math.MaxInt}}, err },
		"workload": workload,
		"dir":      dir,
		"drop":     known(verdict(IsLost)),
		"forward":  known(verdict(translator.Verdict.IsForward)),
		"local":    known(verdict(func(v translator.Verdict) bool { return v == translator.Local })),
		"replied":  known(verdict(translator.Verdict.Replied)),
		"verdict":  func(p *parser) (node, error) { return p.verdict("verdict", 0) },
		"reason":   func(p *parser) (node, error) { return p.verdict("reason", translator.Malformed) },
	}
}

// IsLost says that the packet went no further: a fragment that is held does.
func IsLost(v translator.Verdict) bool {
	return v.IsDrop() && v != translator.FragmentHeld && v != translator.FirstUse
}

func (p *parser) end(e end) (node, error) {
	w, err := p.word("an address or port")
	if err != nil {
		return nil, err
	}
	return p.at1(e, w)
}

// at1 reads what can be asked of one end of a packet.
func (p *parser) at1(e end, w string) (node, error) {
	switch w {
	case "port":
		return p.port(e)
	case "host", "net":
		var err error
		if w, err = p.word("an address"); err != nil {
			return nil, err
		}
	default:
		if _, err := strconv.Atoi(w); err == nil {
			return nil, p.errorf("a number alone says nothing: write port, proto, less or greater before it")
		}
		if !strings.ContainsAny(w, ".:") {
			return nil, p.errorf("not understood: there are host, net, port, src, dst, tcp, udp, icmp, proto, workload, dir, drop, forward, " +
				"local, replied, verdict, reason, less, greater, fragment")
		}
	}
	if a, err := netip.ParseAddr(w); err == nil && a.Zone() == "" && !a.Is4In6() {
		return either{network{e, netip.PrefixFrom(a, a.BitLen())}}, nil
	}
	prefix, err := netip.ParsePrefix(w)
	switch {
	case err != nil || prefix.Addr().Is4In6():
		return nil, p.errorf("is neither an address nor ADDRESS/LEN")
	case prefix != prefix.Masked():
		return nil, p.errorf("has bits behind its length: write %s", prefix.Masked())
	}
	return either{network{e, prefix}}, nil
}

func (p *parser) number(limit int) (int, error) {
	w, err := p.word("a number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(w, 10, 32)
	if err != nil || n > uint64(limit) {
		return 0, p.errorf("is not a number from 0 to %d", limit)
	}
	return int(n), nil
}

func (p *parser) port(e end) (node, error) {
	w, err := p.word("a port")
	if err != nil {
		return nil, err
	}
	r, err := ports.ParseRange(w)
	if err != nil {
		return nil, p.errorf("is neither a port such as 443 nor a range such as 1024-2047")
	}
	return either{number{e, r}}, nil
}

func proto(p *parser) (node, error) {
	if n, ok := map[string]uint8{"tcp": protoTCP, "udp": protoUDP, "sctp": protoSCTP, "dccp": protoDCCP,
		"udplite": protoUDPLite}[p.next()]; ok {
		p.at++
		return either{protocol{n, n}}, nil
	}
	if p.take("icmp") {
		return either{protocol{protoICMP4, protoICMP6}}, nil
	}
	n, err := p.number(255)
	return either{protocol{uint8(n), uint8(n)}}, err
}

// next is the text of the next token, or "".
func (p *parser) next() string {
	t, _ := p.peek()
	return t.text
}

func workload(p *parser) (node, error) {
	name, err := p.word("the workload's name")
	if err != nil {
		return nil, err
	}
	if !p.tokens[p.at-1].quoted && (name == "(" || name == ")" || name == "!") || name == "" {
		return nil, p.errorf("is not a name")
	}
	m := &members{name: name}
	p.filter.workloads = append(p.filter.workloads, m)
	return either{m}, nil
}

func dir(p *parser) (node, error) {
	w, err := p.word("6to4, 4to6 or 4to4")
	if err != nil {
		return nil, err
	}
	for d := range numDirections {
		if w == d.String() || w == strings.ReplaceAll(d.String(), "to", "→") {
			return direction(d), nil
		}
	}
	return nil, p.errorf("is none of 6to4, 4to6 and 4to4")
}

// verdict reads a name of a verdict from least on. With /replied it is only
// about packets that were answered, without it about all.
func (p *parser) verdict(what string, least translator.Verdict) (node, error) {
	w, err := p.word("the " + what)
	if err != nil {
		return nil, err
	}
	v, err := translator.ParseVerdict(w)
	if err != nil || v.Reason() < least {
		var names []string
		for v := least; v < translator.NumVerdicts; v++ {
			names = append(names, v.String())
		}
		return nil, p.errorf("is not a %s: there are %s", what, strings.Join(names, ", "))
	}
	if v.Replied() {
		return verdict(func(got translator.Verdict) bool { return got == v }), nil
	}
	return verdict(func(got translator.Verdict) bool { return got.Reason() == v }), nil
}
