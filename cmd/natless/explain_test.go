package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
)

// explainWords runs the command and takes its JSON.
func explainWords(t *testing.T, args ...string) (e api.Explanation, err error) {
	t.Helper()
	var out strings.Builder
	root := newRoot(&options{})
	root.SetArgs(append([]string{"explain", "-o", "json"}, args...))
	root.SetOut(&out)
	if err := root.Execute(); err != nil {
		return e, err
	}
	return e, json.Unmarshal([]byte(out.String()), &e)
}

func TestExplain(t *testing.T) {
	flags := strings.Fields("--prefix 2001:db8:64::/96 --map 2001:db8:6::2=198.51.100.2 --map 2001:db8:7::2=198.51.100.7:1024-2047 --inside 2001:db8:9::2=198.51.100.7:4096-5119 --ipv4 192.0.0.8 --ipv6 2001:db8::1")
	for _, test := range []struct{ words, verdict, mapping, output string }{
		{"ipv6 src 2001:db8:6::2 dst 2001:db8:64::192.0.2.2 tcp sport 40000 dport 443", "forward4",
			"source 2001:db8:6::2: mapping 2001:db8:6::2/128 ↔ 198.51.100.2/32", "ipv4 src 198.51.100.2 dst 192.0.2.2 tcp sport 40000 dport 443 ttl 63"},
		{"ipv6 src 2001:db8:6::2 dst 2001:db8:64::192.0.2.2 tcp sport 40000 dport 443", "forward4",
			"destination 2001:db8:64::c000:202: prefix 2001:db8:64::/96, for 192.0.2.2", ""},
		{"ipv4 src 192.0.2.2 dst 198.51.100.2 udp sport 53 dport 4000 len 1400", "forward6",
			"source 192.0.2.2: prefix 2001:db8:64::/96", "ipv6 src 2001:db8:64::c000:202 dst 2001:db8:6::2 udp hlim 63 len 196 id 0 offset 1232"},
		{"ipv4 src 192.0.2.2 dst 198.51.100.2 icmp echo ttl 1", "hop-limit-exceeded/replied",
			"", "ipv4 src 192.0.0.8 dst 192.0.2.2 icmp time-exceeded ttl 64"},
		{"ipv6 src 2001:db8:6::2 dst 2001:db8:64::198.51.100.7 udp sport 1 dport 1025", "hairpin",
			"hairpin 198.51.100.7: mapping 2001:db8:7::2/128 ↔ 198.51.100.7/32 ports 1024-2047", "ipv6 src 2001:db8:64::c633:6402 dst 2001:db8:7::2 udp sport 1 dport 1025 hlim 63"},
		{"ipv6 src 2001:db8:7::2 dst 2001:db8:64::192.0.2.2 tcp sport 4000 dport 443", "port-outside-set/replied",
			"", "ipv6 src 2001:db8::1 dst 2001:db8:7::2 icmp unreachable code 1"},
		{"ipv4 src 192.0.2.9 dst 198.51.100.7 tcp sport 3 dport 4000", "port-unassigned/replied",
			"destination 198.51.100.7: a shared address, whose port 4000 belongs to nobody", "ipv4 src 192.0.0.8 dst 192.0.2.9 icmp unreachable code 3"},
		{"ipv4 src 192.0.2.9 dst 198.51.100.2 icmp too-big mtu 1400 quoting ipv4 src 198.51.100.2 dst 192.0.2.2 tcp sport 1 dport 2 len 1500 df", "forward6",
			"", "ipv6 src 2001:db8:64::c000:209 dst 2001:db8:6::2 icmp too-big mtu 1420"},
		{"ipv4 from 2001:db8:9::2 src 198.51.100.7 dst 192.0.2.2 tcp sport 4100 dport 443", "pass4",
			"from 2001:db8:9::2: mapping 2001:db8:9::2/128 ↔ 198.51.100.7/32 ports 4096-5119 inside", "ipv4 src 198.51.100.7 dst 192.0.2.2 tcp sport 4100 dport 443"},
		{"ipv4 src 198.51.100.7 dst 192.0.2.2 tcp sport 1024 dport 443 from 2001:db8:9::2", "port-outside-set/replied",
			"", "ipv4 src 192.0.0.8 dst 198.51.100.7 icmp unreachable code 13"},
		{"ipv4 from 2001:db8:9::2 src 198.51.100.2 dst 192.0.2.2 tcp sport 4100 dport 443", "spoofed-source/replied", "", ""},
		{"ipv4 src 192.0.2.9 dst 198.51.100.7 tcp sport 3 dport 4100", "deliver4",
			"destination 198.51.100.7: mapping 2001:db8:9::2/128 ↔ 198.51.100.7/32 ports 4096-5119 inside", "ipv4 src 192.0.2.9 dst 198.51.100.7 tcp sport 3 dport 4100 ttl 63"},
		{"ipv6 src 2001:db8:9::2 dst 2001:db8:64::192.0.2.2 tcp sport 4100 dport 443", "prefix-closed/replied", "", ""},
		{"ipv4 src 192.0.2.9 dst 192.0.0.8 icmp echo", "local", "destination 192.0.0.8: the translator's own address", ""},
		{"ipv4 src 127.0.0.1 dst 198.51.100.2 tcp sport 1 dport 2", "never-translated", "", ""},
	} {
		e, err := explainWords(t, append(flags, test.words)...)
		if err != nil {
			t.Errorf("%s: %v", test.words, err)
			continue
		}
		if e.Verdict != test.verdict || e.Rule == "" {
			t.Errorf("%s: verdict %s (%s), want %s", test.words, e.Verdict, e.Rule, test.verdict)
		}
		if test.mapping != "" && !slices.Contains(e.Mappings, test.mapping) {
			t.Errorf("%s: no %q in %q", test.words, test.mapping, e.Mappings)
		}
		found := slices.ContainsFunc(e.Output, func(s string) bool { return strings.HasPrefix(s, test.output) })
		if test.output != "" && !found {
			t.Errorf("%s: no %q in %q", test.words, test.output, e.Output)
		}
	}
}

func TestExplainByConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "natless.yaml")
	os.WriteFile(path, []byte("prefix: 64:ff9b::/96\naddresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nudp_zero_checksum: drop\n"+
		"mappings: [{ipv6: 2001:db8:6::2, ipv4: 198.51.100.2}]"), 0o600)
	words := "ipv4 src 9.9.9.9 dst 198.51.100.2 udp sport 53 dport 2 nocsum"
	e, err := explainWords(t, "--config", path, words)
	if err != nil || e.Verdict != "udp-zero-checksum" || !strings.Contains(e.Text, "no answer is sent") {
		t.Errorf("%v: %+v", err, e)
	}
	for args, want := range map[string]string{
		"--config /none " + words:                          "open /none",
		"--prefix 10.0.0.0/8 " + words:                     "prefix 10.0.0.0/8",
		"--map x " + words:                                 "--map x: write IPv6=IPv4",
		"--map 2001:db8::1=1.2.3.4:x " + words:             "is no port",
		"--prefix 64:ff9b::/96 ipv4 src":                   "src needs an IPv4 address",
		"--prefix 64:ff9b::/96 --config " + path + " ipv4": "leave out --prefix and --map",
		"--socket /none/socket " + words:                   "/none/socket",
		"-o xml --prefix 64:ff9b::/96 " + words:            "neither text nor json",
	} {
		if _, err := explainWords(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("explain %s: %v, want %q", args, err, want)
		}
	}
}
