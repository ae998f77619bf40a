package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// offline says what explain uses instead of the daemon's live table.
type offline struct {
	config     string
	prefix     string
	maps       []string
	inside     []string
	ipv4, ipv6 string
	nonGlobal  bool
}

func newExplain(o *options) *cobra.Command {
	var off offline
	c := &cobra.Command{
		Use:   "explain PACKET-IN-WORDS",
		Short: "Say what happens to a packet, and why",
		Long: `Build the packet that the words describe, translate it, and say what comes out,
which mapping or prefix decided, or why it is dropped, by which rule.

Without flags the daemon's live table is asked. With --config, or with --prefix
and --map, nothing runs and nothing is sent.

` + explain.Grammar,
		Example: `  natless explain ipv6 src 2001:db8:6::2 dst 64:ff9b::192.0.2.2 tcp sport 40000 dport 443
  natless explain --config /etc/natless/natless.yaml ipv4 src 192.0.2.2 dst 198.51.100.2 udp sport 53 dport 4000 len 1400
  natless explain --prefix 2001:db8:64::/96 --map 2001:db8:6::2=198.51.100.2 ipv4 src 192.0.2.2 dst 198.51.100.2 icmp echo ttl 1
  natless explain --prefix 2001:db8:64::/96 --map 2001:db8:6::2=198.51.100.7:1024-2047 ipv4 src 192.0.2.2 dst 198.51.100.7 tcp sport 80 dport 2048
  natless explain ipv4 from default/web src 198.51.100.7 dst 192.0.2.2 tcp sport 2048 dport 443
  natless explain -o json ipv4 src 192.0.2.9 dst 198.51.100.2 icmp too-big mtu 1400 quoting ipv4 src 198.51.100.2 dst 192.0.2.2 tcp sport 1 dport 2 len 1500`,
		Args:              cli.Arguments(1, -1),
		ValidArgsFunction: nothing,
		RunE: func(c *cobra.Command, args []string) error {
			if off.config != "" && (off.prefix != "" || off.maps != nil || off.inside != nil) {
				return cli.Misuse("--config has prefix and mappings of its own: leave out --prefix and --map, or --config")
			}
			e, err := explainPacket(c.Context(), o, &off, args)
			if err != nil {
				return err
			}
			return printExplanation(c.OutOrStdout(), o.output, e)
		},
	}
	f := c.Flags()
	f.StringVar(&off.config, "config", "", "explain by the configuration in this `file`")
	f.StringVar(&off.prefix, "prefix", "", "explain with this RFC 6052 `prefix`")
	f.StringArrayVar(&off.maps, "map", nil, "explain with this `mapping`, IPv6=IPv4 or IPv6=IPv4:PORTS; may be repeated")
	f.StringArrayVar(&off.inside, "inside", nil, "explain with this `mapping`, as with --map, of a workload with IPv4 inside; may be repeated")
	f.StringVar(&off.ipv4, "ipv4", "192.0.0.8", "the translator's own IPv4 `address`, with --prefix and --map")
	f.StringVar(&off.ipv6, "ipv6", "100::1", "the translator's own IPv6 `address`, with --prefix and --map")
	f.BoolVar(&off.nonGlobal, "allow-non-global", false, "allow non-global IPv4 under 64:ff9b::/96, with --prefix and --map")
	for _, plain := range []string{"prefix", "map", "inside", "ipv4", "ipv6"} {
		c.RegisterFlagCompletionFunc(plain, nothing)
	}
	return c
}

func explainPacket(ctx context.Context, o *options, off *offline, args []string) (api.Explanation, error) {
	words := strings.Join(args, " ")
	if off.config == "" && off.prefix == "" && off.maps == nil && off.inside == nil {
		client := api.NewClient(o.socket).Patience(patience)
		words, err := named(ctx, client, strings.Fields(words))
		if err != nil {
			return api.Explanation{}, err
		}
		return client.Explain(ctx, words)
	}
	t, err := off.translator()
	if err != nil {
		return api.Explanation{}, err
	}
	return explain.Packet(t, words)
}

// named puts the IPv6 address of a workload in the place of its name behind "from".
func named(ctx context.Context, client *api.Client, words []string) (string, error) {
	if i := slices.Index(words, "from"); i >= 0 && i+1 < len(words) {
		if _, err := netip.ParseAddr(words[i+1]); err != nil {
			w, err := find(ctx, client, words[i+1])
			if err != nil {
				return "", err
			}
			if w.Inside == nil {
				return "", fmt.Errorf("%s has its IPv4 by the prefix: what it sends is IPv6, from %v", words[i+1], w.Request.IPv6[0])
			}
			words[i+1] = w.Request.IPv6[0].String()
		}
	}
	return strings.Join(words, " "), nil
}

func (off *offline) translator() (*translator.Translator, error) {
	if off.config == "" {
		return off.fromFlags()
	}
	c, err := config.Load(off.config)
	if err != nil {
		return nil, err
	}
	table, err := c.Table()
	if err != nil {
		return nil, err
	}
	return translator.New(c.Translator([16]byte{}), table)
}

func (off *offline) fromFlags() (*translator.Translator, error) {
	c := translator.Config{AllowNonGlobal: off.nonGlobal}
	var prefix netip.Prefix
	var err error
	if off.prefix != "" {
		if prefix, err = netip.ParsePrefix(off.prefix); err != nil {
			return nil, cli.Misuse("--prefix: %w", err)
		}
	}
	if c.IPv4, err = netip.ParseAddr(off.ipv4); err != nil {
		return nil, cli.Misuse("--ipv4: %w", err)
	}
	if c.IPv6, err = netip.ParseAddr(off.ipv6); err != nil {
		return nil, cli.Misuse("--ipv6: %w", err)
	}
	var mappings []mapping.Mapping
	for flag, list := range map[string][]string{"map": off.maps, "inside": off.inside} {
		for _, text := range list {
			m, err := parseMapping(text)
			if err != nil {
				return nil, cli.Misuse("--%s %s: %w", flag, text, err)
			}
			m.Inside = flag == "inside"
			mappings = append(mappings, m)
		}
	}
	table, err := mapping.New(prefix, mappings)
	if err != nil {
		return nil, err
	}
	return translator.New(c, table)
}

// parseMapping reads IPv6=IPv4 or IPv6=IPv4:PORTS, each an address or prefix.
func parseMapping(s string) (m mapping.Mapping, err error) {
	six, four, ok := strings.Cut(s, "=")
	if !ok {
		return m, fmt.Errorf("write IPv6=IPv4, such as 2001:db8:6::2=198.51.100.2")
	}
	four, share, shared := strings.Cut(four, ":")
	if m.IPv6, err = prefixOrAddress(six); err != nil {
		return m, err
	}
	if m.IPv4, err = prefixOrAddress(four); err != nil || !shared {
		return m, err
	}
	m.Ports, err = ports.Parse(share)
	return m, err
}

func prefixOrAddress(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

func printExplanation(w io.Writer, format string, e api.Explanation) error {
	if format == "json" {
		return table.JSON(w, e)
	}
	return table.Sentences(w, cmp.Or(e.Text, e.Verdict))
}
