package explain

import (
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/natless/natless/translator"
)

// What Describe says of a built packet is what was asked for, in full, and
// means the same packet again. gopacket is the second judge of the bytes.
func TestWords(t *testing.T) {
	for words, want := range map[string]string{
		"ipv6 src 2001:db8::2 dst 64:ff9b::192.0.2.2 tcp sport 40000 dport 443":                                                                                     "ipv6 src 2001:db8::2 dst 64:ff9b::c000:202 tcp sport 40000 dport 443 hlim 64 len 60",
		"ipv6 dport 53 sport 1 udp dst 2001:db8::3 src 2001:db8::2 hlim 1":                                                                                          "ipv6 src 2001:db8::2 dst 2001:db8::3 udp sport 1 dport 53 hlim 1 len 48",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 udp sport 7 dport 9 nocsum len 100":                                                                                       "ipv4 src 192.0.2.2 dst 192.0.2.3 udp sport 7 dport 9 nocsum ttl 64 len 100",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 tcp sport 7 dport 9 df id 0x10 class 4 ttl 3 len 1500":                                                                    "ipv4 src 192.0.2.2 dst 192.0.2.3 tcp sport 7 dport 9 ttl 3 class 4 len 1500 df id 16",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 udp sport 7 dport 9 more id 5 len 60":                                                                                     "ipv4 src 192.0.2.2 dst 192.0.2.3 udp sport 7 dport 9 ttl 64 len 60 id 5 more",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 udp offset 1480 id 5":                                                                                                     "ipv4 src 192.0.2.2 dst 192.0.2.3 udp ttl 64 len 28 id 5 offset 1480",
		"ipv6 src 2001:db8::2 dst 2001:db8::3 udp offset 8 more id 70000":                                                                                           "ipv6 src 2001:db8::2 dst 2001:db8::3 udp hlim 64 len 56 id 70000 offset 8 more",
		"ipv6 src 2001:db8::2 dst 2001:db8::3 udp sport 1 dport 2 id 7":                                                                                             "ipv6 src 2001:db8::2 dst 2001:db8::3 udp sport 1 dport 2 hlim 64 len 56 id 7",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 icmp echo ident 9 seq 3 len 84":                                                                                           "ipv4 src 192.0.2.2 dst 192.0.2.3 icmp echo ident 9 seq 3 ttl 64 len 84",
		"ipv6 src 2001:db8::2 dst 2001:db8::3 class 255 icmp reply seq 1":                                                                                           "ipv6 src 2001:db8::2 dst 2001:db8::3 icmp reply ident 0 seq 1 hlim 64 class 255 len 48",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 proto 47 len 30":                                                                                                          "ipv4 src 192.0.2.2 dst 192.0.2.3 proto 47 ttl 64 len 30",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 icmp type 13":                                                                                                             "ipv4 src 192.0.2.2 dst 192.0.2.3 icmp type 13 code 0 ttl 64 len 28",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 icmp unreachable code 3":                                                                                                  "ipv4 src 192.0.2.2 dst 192.0.2.3 icmp unreachable code 3 ttl 64 len 28",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 icmp parameter-problem pointer 9":                                                                                         "ipv4 src 192.0.2.2 dst 192.0.2.3 icmp parameter-problem pointer 9 ttl 64 len 28",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 icmp too-big mtu 1400 quoting ipv4 src 192.0.2.3 dst 192.0.2.2 udp sport 7 dport 9 len 1500":                              "ipv4 src 192.0.2.2 dst 192.0.2.3 icmp too-big mtu 1400 ttl 64 len 576 quoting ipv4 src 192.0.2.3 dst 192.0.2.2 udp sport 7 dport 9 ttl 64 len 1500",
		"ipv6 src 2001:db8::2 dst 2001:db8::3 icmp time-exceeded quoting ipv6 src 2001:db8::3 dst 2001:db8::2 udp sport 7 dport 9 hlim 1":                           "ipv6 src 2001:db8::2 dst 2001:db8::3 icmp time-exceeded hlim 64 len 96 quoting ipv6 src 2001:db8::3 dst 2001:db8::2 udp sport 7 dport 9 hlim 1 len 48",
		"ipv6 src 2001:db8::2 dst 2001:db8::3 icmp parameter-problem code 1 pointer 6 quoting ipv6 src 2001:db8::3 dst 2001:db8::2 proto 99":                        "ipv6 src 2001:db8::2 dst 2001:db8::3 icmp parameter-problem code 1 pointer 6 hlim 64 len 96 quoting ipv6 src 2001:db8::3 dst 2001:db8::2 proto 99 hlim 64 len 48",
		"ipv6 src 2001:db8::2 dst 2001:db8::3 icmp too-big mtu 1280 quoting ipv6 src 2001:db8::3 dst 2001:db8::2 tcp sport 1 dport 2 len 1500":                      "ipv6 src 2001:db8::2 dst 2001:db8::3 icmp too-big mtu 1280 hlim 64 len 1280 quoting ipv6 src 2001:db8::3 dst 2001:db8::2 tcp sport 1 dport 2 hlim 64 len 1500",
		"ipv4 src 192.0.2.2 dst 192.0.2.3 icmp time-exceeded code 1 quoting ipv4 src 192.0.2.3 dst 192.0.2.2 udp sport 7 dport 9 nocsum ttl 1 class 16 more id 500": "ipv4 src 192.0.2.2 dst 192.0.2.3 icmp time-exceeded code 1 ttl 64 len 56 quoting ipv4 src 192.0.2.3 dst 192.0.2.2 udp sport 7 dport 9 nocsum ttl 1 class 16 len 28 id 500 more",
	} {
		b := build(t, words)
		got := Describe(b)
		if got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", words, got, want)
		}
		if again := Describe(build(t, got)); again != got {
			t.Errorf("%s:\nits description builds another packet: %s", got, again)
		}
		judge(t, words, b)
	}
}

func build(t *testing.T, words string) []byte {
	t.Helper()
	k, err := parse(words)
	if err != nil {
		t.Fatalf("%s: %v", words, err)
	}
	b, err := k.bytes()
	if err != nil {
		t.Fatalf("%s: %v", words, err)
	}
	return b
}

func judge(t *testing.T, words string, b []byte) {
	t.Helper()
	first := gopacket.LayerType(layers.LayerTypeIPv4)
	if b[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(b, first, gopacket.Default)
	if e := p.ErrorLayer(); e != nil && !strings.Contains(words, "proto") {
		t.Errorf("%s: gopacket: %v", words, e.Error())
	}
	if strings.Contains(words, "offset") || strings.Contains(words, "more") {
		return // no checksum to verify
	}
	for _, l := range p.Layers() {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			l.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
	}
	err, mismatches := p.VerifyChecksums()
	if err != nil {
		t.Errorf("%s: %v", words, err)
	}
	for _, m := range mismatches {
		if m.Layer.LayerType() != layers.LayerTypeUDP || m.Actual != 0 {
			t.Errorf("%s: checksum of %v is %#x, want %#x", words, m.Layer.LayerType(), m.Actual, m.Correct)
		}
	}
}

func TestWordsWrong(t *testing.T) {
	const udp = "ipv4 src 192.0.2.2 dst 192.0.2.3 udp sport 7 dport 9 "
	for words, want := range map[string]string{
		"":                                      "no packet: write for example",
		"tcp":                                   `word 1, "tcp": a packet begins with ipv6 or ipv4`,
		"ipv4 src 2001:db8::1":                  `word 3, "2001:db8::1": src needs an IPv4 address`,
		"ipv6 src":                              `word 2, "src": src needs an IPv6 address`,
		udp + "hlimit 3":                        `word 11, "hlimit": not understood; there are class, code, df`,
		udp + "ttl 256":                         `word 12, "256": ttl needs a number from 0 to 255`,
		udp + "ttl":                             "at the end: ttl needs a number",
		udp + "dport 9":                         `word 11, "dport": given twice`,
		udp + "tcp":                             `word 11, "tcp": a packet has one protocol`,
		udp + "len 27":                          "len 27: the headers alone have 28 bytes",
		udp + "len 65536":                       "len 65536 is more than 65535",
		udp + "offset 9":                        "offset 9 is not a multiple of 8",
		udp + "id 65536":                        "id 65536: IPv4 has 16 bits for it",
		"ipv4 dst 192.0.2.3 proto 9":            "src is missing",
		"ipv4 src 192.0.2.3 proto 9":            "dst is missing",
		"ipv4 src 192.0.2.3 dst 192.0.2.2":      "the protocol is missing",
		"ipv4 src 192.0.2.3 dst 1.2.3.4 tcp":    "sport and dport are missing",
		"ipv6 src ::2 dst ::3 proto 9 df":       "df: IPv6 has no such flag",
		"ipv6 src ::2 dst ::3 icmp pong":        `word 7, "pong": icmp needs type N or one of echo, parameter-problem, reply`,
		udp + "quoting ipv6":                    "src is missing",
		udp + "from 192.0.2.2":                  `word 12, "192.0.2.2": from needs an IPv6 address`,
		"ipv6 src ::2 dst ::3 proto 9 from ::2": "from: what a workload sends as IPv6",
		"ipv4 src 1.2.3.4 dst 1.2.3.5 icmp unreachable quoting " + udp + "from ::2": "quoting: a quoted packet comes from nobody",
		udp + "quoting ipv6 src ::2 dst ::3 proto 9":                                "quoting: the quoted packet is of the other family",
		"ipv4 src 1.2.3.4 dst 1.2.3.5 icmp unreachable quoting " + udp + "len 5":    "quoting: len 5: the headers alone have 28 bytes",
	} {
		k, err := parse(words)
		if err == nil {
			_, err = k.bytes()
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %s", words, err, want)
		}
	}
}

func TestDescribeAnything(t *testing.T) {
	if got := Describe([]byte{1, 2, 3}); got != "3 bytes that are not an IP packet" {
		t.Error(got)
	}
	full := build(t, "ipv4 src 192.0.2.2 dst 192.0.2.3 icmp too-big quoting ipv4 src 192.0.2.3 dst 192.0.2.2 udp sport 7 dport 9")
	for n := range full {
		Describe(full[:n])
	}
}

// Each verdict has an explanation of its own, which says so where it drops.
func TestMeaning(t *testing.T) {
	seen := map[string]translator.Verdict{}
	for v := range translator.NumVerdicts {
		s := Meaning(v)
		if other, taken := seen[s]; s == "" || taken {
			t.Errorf("%v: meaning %q is empty, or that of %v", v, s, other)
		}
		seen[s] = v
		if drops := strings.HasPrefix(s, "dropped: "); drops != (v.IsDrop() && v != translator.FragmentHeld && v != translator.FirstUse) {
			t.Errorf("%v: %q", v, s)
		}
		if v.IsDrop() && Meaning(v|translator.Replied) != s {
			t.Errorf("%v: another meaning when it is answered", v)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte{0x45, 19: 0})
	f.Add([]byte{0x60, 6: 44, 59: 0})
	f.Fuzz(func(t *testing.T, b []byte) { Describe(b) })
}
