package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// ZeroChecksum is the value of udp_zero_checksum.
type ZeroChecksum translator.UDPZeroChecksum

var zeroChecksums = []string{"reject", "drop", "calculate", "forward"}

// UnmarshalText takes reject, drop, calculate or forward.
func (z *ZeroChecksum) UnmarshalText(text []byte) error {
	i, err := oneOf(string(text), zeroChecksums)
	*z = ZeroChecksum(i)
	return err
}

func (z ZeroChecksum) String() string { return zeroChecksums[z] }

// TrafficClass is what becomes of traffic class and TOS: false copies.
type TrafficClass bool

// UnmarshalText takes copy or zero.
func (c *TrafficClass) UnmarshalText(text []byte) error {
	i, err := oneOf(string(text), []string{"copy", "zero"})
	*c = i == 1
	return err
}

func (c TrafficClass) String() string {
	if c {
		return "zero"
	}
	return "copy"
}

// LogLevel is the least level that is logged.
type LogLevel slog.Level

var logLevels = []slog.Level{slog.LevelInfo, slog.LevelDebug, slog.LevelWarn, slog.LevelError}

// UnmarshalText takes debug, info, warn or error.
func (l *LogLevel) UnmarshalText(text []byte) error {
	i, err := oneOf(string(text), []string{"info", "debug", "warn", "error"})
	*l = LogLevel(logLevels[i])
	return err
}

// Level makes LogLevel a slog.Leveler.
func (l LogLevel) Level() slog.Level { return slog.Level(l) }

func (l LogLevel) String() string { return strings.ToLower(l.Level().String()) }

// LogFormat is text or json.
type LogFormat string

// UnmarshalText takes text or json.
func (f *LogFormat) UnmarshalText(text []byte) error {
	_, err := oneOf(string(text), []string{"text", "json"})
	*f = LogFormat(text)
	return err
}

func (f LogFormat) String() string { return string(f) }

func oneOf(s string, words []string) (int, error) {
	if i := slices.Index(words, s); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("%q is none of %s", s, strings.Join(words, ", "))
}

// PoolIPv4 is a pool's IPv4 prefix, or the address of the uplink, which the
// host and its workloads then share.
type PoolIPv4 struct {
	Prefix netip.Prefix
	Uplink bool
}

// UnmarshalText takes a prefix, an address, or the word uplink.
func (p *PoolIPv4) UnmarshalText(text []byte) (err error) {
	if string(text) == "uplink" {
		p.Uplink = true
		return nil
	}
	p.Prefix, err = parsePrefix(string(text))
	return err
}

func (p PoolIPv4) String() string {
	if p.Uplink {
		return "uplink"
	}
	return p.Prefix.String()
}

// Ports is a sorted list of disjoint ranges.
type Ports mapping.PortSet

// UnmarshalText takes ports and ranges with commas between them: 80,1024-2047.
func (p *Ports) UnmarshalText(text []byte) error {
	*p = nil
	for part := range strings.SplitSeq(string(text), ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if err := errors.Join(errA, errB); err != nil || a > b {
			return fmt.Errorf("%q is no port and no range of ports such as 1024-2047", part)
		}
		*p = append(*p, mapping.PortRange{First: uint16(a), Last: uint16(b)})
	}
	slices.SortFunc(*p, func(a, b mapping.PortRange) int { return cmp.Compare(a.First, b.First) })
	for i := 1; i < len(*p); i++ {
		if (*p)[i].First <= (*p)[i-1].Last {
			return fmt.Errorf("port %d is named twice", (*p)[i].First)
		}
	}
	return nil
}

func (p Ports) String() string {
	parts := make([]string, len(p))
	for i, r := range p {
		parts[i] = fmt.Sprintf("%d-%d", r.First, r.Last)
		if r.First == r.Last {
			parts[i] = strconv.Itoa(int(r.First))
		}
	}
	return strings.Join(parts, ",")
}

// Without is p less the ports of q.
func (p Ports) Without(q Ports) Ports {
	var left Ports
	for _, r := range p {
		first := int(r.First)
		for _, hole := range q {
			if hole.Last < r.First || hole.First > r.Last {
				continue
			}
			if first < int(hole.First) {
				left = append(left, mapping.PortRange{First: uint16(first), Last: hole.First - 1})
			}
			first = int(hole.Last) + 1
		}
		if first <= int(r.Last) {
			left = append(left, mapping.PortRange{First: uint16(first), Last: r.Last})
		}
	}
	return left
}

// longestRun is how many ports the longest range has.
func (p Ports) longestRun() int {
	longest := 0
	for _, r := range p {
		longest = max(longest, int(r.Last)-int(r.First)+1)
	}
	return longest
}

// parsePrefix takes a prefix without host bits, or an address, which is the
// prefix that holds nothing else.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := parseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix such as 2001:db8::/64 or 198.51.100.0/24", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length: write %s", p, p.Masked())
	}
	return p, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is no IP address", s)
	}
	return a, nil
}
