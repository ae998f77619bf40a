package explain

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Grammar is how a packet is written in words, for help texts.
const Grammar = `PACKET is  ipv6|ipv4  src ADDRESS  dst ADDRESS  PROTOCOL  and, in any order, options

PROTOCOL
  tcp sport N dport N
  udp sport N dport N [nocsum]            nocsum: without a checksum
  icmp echo|reply [ident N] [seq N]
  icmp unreachable|too-big|time-exceeded|parameter-problem [code N] [mtu N] [pointer N] [quoting PACKET]
  icmp type N [code N] [quoting PACKET]
  proto N                                 any other protocol
options
  hlim N, ttl N                           hop limit; 64 when not given
  class N                                 traffic class or TOS
  len N                                   length of the whole packet in bytes
  df                                      don't fragment (IPv4)
  id N, offset N, more                    a fragment: identification, offset in bytes, more to come
  from WORKLOAD                           IPv4 that this workload sends, which has its IPv4 inside: its IPv6
                                          address or, where the daemon is asked, its name
quoting takes all words after it.`

// packet is what words say about a packet.
type packet struct {
	v6             bool
	src, dst       netip.Addr
	from           netip.Addr // IPv6 of the workload that sends it, as IPv4; invalid: it comes from outside
	hops, class    uint8
	length         int // 0: as short as can be
	df, more, frag bool
	id             uint32
	offset         int
	proto          uint8
	protoGiven     bool
	sport, dport   uint16
	noChecksum     bool
	icmp           bool
	icmpType, code uint8
	rest           uint32 // identifier and sequence, MTU or pointer
	quoted         *packet
}

// parser goes through words one by one.
type parser struct {
	words []string
	at    int
}

func (p *parser) errorf(format string, args ...any) error {
	word := "at the end"
	if 0 < p.at && p.at <= len(p.words) {
		word = fmt.Sprintf("word %d, %q", p.at, p.words[p.at-1])
	}
	return fmt.Errorf(word+": "+format, args...)
}

func (p *parser) next() (string, bool) {
	if p.at >= len(p.words) {
		return "", false
	}
	p.at++
	return p.words[p.at-1], true
}

// number reads the word after the current one as a number up to limit.
func (p *parser) number(limit uint64) (uint64, error) {
	name := p.words[p.at-1]
	w, ok := p.next()
	if !ok {
		return 0, fmt.Errorf("at the end: %s needs a number", name)
	}
	n, err := strconv.ParseUint(w, 0, 64)
	if err != nil || n > limit {
		return 0, p.errorf("%s needs a number from 0 to %d", name, limit)
	}
	return n, nil
}

func (p *parser) address(v6 bool) (netip.Addr, error) {
	name, family := p.words[p.at-1], "IPv4"
	if v6 {
		family = "IPv6"
	}
	w, _ := p.next()
	a, err := netip.ParseAddr(w)
	if err != nil || a.Is6() != v6 || a.Zone() != "" {
		return a, p.errorf("%s needs an %s address", name, family)
	}
	return a, nil
}

// parse reads one packet that takes all of the words.
func parse(words string) (*packet, error) {
	p := &parser{words: strings.Fields(words)}
	if len(p.words) == 0 {
		return nil, errors.New("no packet: write for example \"ipv6 src 2001:db8::2 dst 64:ff9b::192.0.2.2 tcp sport 40000 dport 443\"")
	}
	return p.packet()
}

func (p *parser) packet() (*packet, error) {
	k := &packet{hops: 64}
	switch w, _ := p.next(); w {
	case "ipv6":
		k.v6 = true
	case "ipv4":
	default:
		return nil, p.errorf("a packet begins with ipv6 or ipv4")
	}
	seen := map[string]bool{}
	for {
		w, ok := p.next()
		if !ok {
			return k, k.complete()
		}
		rule, known := vocabulary[w]
		switch {
		case !known:
			return nil, p.errorf("not understood; there are %s", strings.Join(slices.Sorted(maps.Keys(vocabulary)), ", "))
		case seen[w]:
			return nil, p.errorf("given twice")
		}
		seen[w] = true
		if err := rule(p, k); err != nil {
			return nil, err
		}
	}
}

// vocabulary is what each word does to the packet. It is filled by init
// because quoting leads back here.
var vocabulary map[string]func(*parser, *packet) error

func init() {
	vocabulary = map[string]func(*parser, *packet) error{
		"src":     func(p *parser, k *packet) (err error) { k.src, err = p.address(k.v6); return err },
		"dst":     func(p *parser, k *packet) (err error) { k.dst, err = p.address(k.v6); return err },
		"from":    func(p *parser, k *packet) (err error) { k.from, err = p.address(true); return err },
		"hlim":    hops,
		"ttl":     hops,
		"class":   number(255, func(k *packet, n uint64) { k.class = uint8(n) }),
		"len":     number(65535+40, func(k *packet, n uint64) { k.length = int(n) }),
		"df":      func(p *parser, k *packet) error { k.df = true; return nil },
		"more":    func(p *parser, k *packet) error { k.more, k.frag = true, true; return nil },
		"id":      number(1<<32-1, func(k *packet, n uint64) { k.id, k.frag = uint32(n), k.frag || k.v6 }),
		"offset":  number(65528, func(k *packet, n uint64) { k.offset, k.frag = int(n), true }),
		"tcp":     func(p *parser, k *packet) error { return p.protocol(k, 6) },
		"udp":     func(p *parser, k *packet) error { return p.protocol(k, 17) },
		"proto":   proto,
		"icmp":    icmp,
		"type":    number(255, func(k *packet, n uint64) { k.icmpType = uint8(n) }),
		"code":    number(255, func(k *packet, n uint64) { k.code = uint8(n) }),
		"sport":   number(65535, func(k *packet, n uint64) { k.sport = uint16(n) }),
		"dport":   number(65535, func(k *packet, n uint64) { k.dport = uint16(n) }),
		"nocsum":  func(p *parser, k *packet) error { k.noChecksum = true; return nil },
		"ident":   number(65535, func(k *packet, n uint64) { k.rest |= uint32(n) << 16 }),
		"seq":     number(65535, func(k *packet, n uint64) { k.rest |= uint32(n) }),
		"mtu":     number(1<<32-1, func(k *packet, n uint64) { k.rest = uint32(n) }),
		"pointer": number(1<<32-1, pointer),
		"quoting": func(p *parser, k *packet) (err error) { k.quoted, err = p.packet(); return err },
	}
}

func number(limit uint64, set func(*packet, uint64)) func(*parser, *packet) error {
	return func(p *parser, k *packet) error {
		n, err := p.number(limit)
		set(k, n)
		return err
	}
}

func hops(p *parser, k *packet) error {
	n, err := p.number(255)
	k.hops = uint8(n)
	return err
}

// pointer stands in the first byte of the word in ICMPv4 (RFC 792) and fills
// it in ICMPv6 (RFC 4443 section 3.4).
func pointer(k *packet, n uint64) {
	k.rest = uint32(n)
	if !k.v6 {
		k.rest = uint32(n) << 24
	}
}

func (p *parser) protocol(k *packet, n uint8) error {
	if k.protoGiven {
		return p.errorf("a packet has one protocol")
	}
	k.proto, k.protoGiven = n, true
	return nil
}

func proto(p *parser, k *packet) error {
	if err := p.protocol(k, 0); err != nil {
		return err
	}
	n, err := p.number(255)
	k.proto = uint8(n)
	return err
}

// icmpNames are messages that both families have, as {ICMPv4, ICMPv6} types.
var icmpNames = map[string][2]uint8{
	"echo": {8, 128}, "reply": {0, 129}, "unreachable": {3, 1}, "too-big": {3, 2},
	"time-exceeded": {11, 3}, "parameter-problem": {12, 4},
}

func icmp(p *parser, k *packet) error {
	k.icmp = true
	n := uint8(1)
	if k.v6 {
		n = 58
	}
	if err := p.protocol(k, n); err != nil {
		return err
	}
	if p.at < len(p.words) && p.words[p.at] == "type" {
		return nil
	}
	name, _ := p.next()
	types, ok := icmpNames[name]
	if !ok {
		return p.errorf("icmp needs type N or one of %s", strings.Join(slices.Sorted(maps.Keys(icmpNames)), ", "))
	}
	k.icmpType = types[0]
	if k.v6 {
		k.icmpType = types[1]
	}
	if name == "too-big" && !k.v6 {
		k.code = 4 // RFC 1191: fragmentation needed
	}
	return nil
}

// complete tells what a packet lacks.
func (k *packet) complete() error {
	switch {
	case !k.src.IsValid():
		return errors.New("src is missing")
	case !k.dst.IsValid():
		return errors.New("dst is missing")
	case !k.protoGiven:
		return errors.New("the protocol is missing: tcp, udp, icmp, or proto N")
	case (k.proto == 6 || k.proto == 17) && k.offset == 0 && (k.sport == 0 || k.dport == 0):
		return errors.New("sport and dport are missing (from 1 to 65535)")
	case !k.v6 && k.id > 65535:
		return fmt.Errorf("id %d: IPv4 has 16 bits for it", k.id)
	case k.offset%8 != 0:
		return fmt.Errorf("offset %d is not a multiple of 8", k.offset)
	case k.v6 && k.from.IsValid():
		return errors.New("from: what a workload sends as IPv6 is known by its source")
	case k.v6 && k.df:
		return errors.New("df: IPv6 has no such flag")
	case k.quoted != nil && k.quoted.v6 != k.v6:
		return errors.New("quoting: the quoted packet is of the other family")
	case k.quoted != nil && k.quoted.from.IsValid():
		return errors.New("quoting: a quoted packet comes from nobody")
	}
	return nil
}
