package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/natless/natless/translator"
)

// ZeroChecksum is the value of udp_zero_checksum.
type ZeroChecksum translator.UDPZeroChecksum

var zeroChecksums = []string{
	translator.RejectZeroChecksum: "reject", translator.DropZeroChecksum: "drop",
	translator.CalculateZeroChecksum: "calculate", translator.ForwardZeroChecksum: "forward",
}

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
	return 0, fmt.Errorf("%q is not one of %s", s, strings.Join(words, ", "))
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

// PoolFrom is who lends a pool its addresses.
type PoolFrom string

// FromFleet is natless-fleet, by PUT /v1/blocks.
const FromFleet PoolFrom = "fleet"

// UnmarshalText takes fleet.
func (f *PoolFrom) UnmarshalText(text []byte) error {
	_, err := oneOf(string(text), []string{string(FromFleet)})
	*f = PoolFrom(text)
	return err
}

// Queues is a number of queues.
type Queues int

// AutoQueues leaves the number to the device.
const AutoQueues Queues = -1

// UnmarshalText takes a number, or the word auto.
func (q *Queues) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*q = AutoQueues
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("%q is neither a number nor auto", text)
	}
	*q = Queues(max(n, 0)) // no number below 0 is valid, nor is 0
	return nil
}

func (q Queues) String() string {
	if q == AutoQueues {
		return "auto"
	}
	return strconv.Itoa(int(q))
}

// Paths is one path or a list of them.
type Paths []string

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
		return netip.Prefix{}, fmt.Errorf("%q is not a prefix such as 2001:db8::/64 or 198.51.100.0/24", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length: write %s", p, p.Masked())
	}
	return p, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return a, nil
}
