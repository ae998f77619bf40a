package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// The issue's own example of every key, which must never stop working.
const example = `
device: {name: natless0, mtu: 1500, queues: 1}
uplink: eth0
prefix: 64:ff9b::/96
addresses: {ipv4: 192.0.2.1, ipv6: "2001:db8::1"}
icmp_source_pool: {ipv4: 203.0.113.8/32, ipv6: "2001:db8:f::/128"}
mtu: {ipv4: 1500, ipv6: 1500}
lowest_ipv6_mtu: 1280
udp_zero_checksum: reject
traffic_class: copy
allow_non_global: false
manage_sysctls: true
log: {level: info, format: text}
mappings:
  - {ipv6: "2001:db8:6::2", ipv4: 198.51.100.2}
  - {ipv6: "2001:db8:7::/120", ipv4: 203.0.113.0/24}
`

const examplePools = `
api: {socket: /run/natless/natless.sock, group: root}
registry: {path: /var/lib/natless/registry.db, history: 100000}
pools:
  - {name: default, ipv4: 198.51.100.0/30, ports_per_workload: 1024, reserved_ports: 0-1023, cooldown: 60s}
  - {name: dedicated, ipv4: 203.0.113.0/28, whole_address: true}
  - {name: host, ipv4: uplink, ports: 32768-65535, ports_per_workload: 512}
dns64: {enabled: true, upstreams: ["[2001:db8::53]:53"], exclude: ["::ffff:0:0/96"], cache: 10000, clients: ["2001:db8:5::/64"]}
health: {port: 80}
`

const least = "prefix: 2001:db8:64::/96\naddresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\n"

func TestExample(t *testing.T) {
	c, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Device.Queues = 1
	want.Uplink = "eth0"
	want.Prefix = netip.MustParsePrefix("64:ff9b::/96")
	want.Addresses = Addresses{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	want.ICMPSourcePool = ICMPSourcePool{netip.MustParsePrefix("203.0.113.8/32"), netip.MustParsePrefix("2001:db8:f::/128")}
	want.Mappings = []Mapping{
		{netip.MustParsePrefix("2001:db8:6::2/128"), netip.MustParsePrefix("198.51.100.2/32"), ports.Set{}},
		{netip.MustParsePrefix("2001:db8:7::/120"), netip.MustParsePrefix("203.0.113.0/24"), ports.Set{}},
	}
	compare(t, want, *c)
}

func TestExamplePools(t *testing.T) {
	c, err := Parse([]byte("uplink: eth0\n" + least + examplePools))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, c.Pools, []Pool{
		{Name: "default", IPv4: PoolIPv4{Prefix: netip.MustParsePrefix("198.51.100.0/30")}, PortsPerWorkload: 1024,
			Ports: ports.All(), ReservedPorts: ports.MustParse("0-1023"), Cooldown: time.Minute},
		{Name: "dedicated", IPv4: PoolIPv4{Prefix: netip.MustParsePrefix("203.0.113.0/28")}, WholeAddress: true, Cooldown: time.Minute},
		{Name: "host", IPv4: PoolIPv4{Uplink: true}, PortsPerWorkload: 512,
			Ports: ports.MustParse("32768-65535"), ReservedPorts: ports.MustParse("0-1023"), Cooldown: time.Minute},
	})
	compare(t, c.DNS64, DNS64{true, []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::53]:53")}, []netip.Prefix{netip.MustParsePrefix("::ffff:0:0/96")}, 10000, []netip.Prefix{netip.MustParsePrefix("2001:db8:5::/64")}})
	compare(t, c.Health, Health{80})
}

func compare(t *testing.T, want, got any) {
	t.Helper()
	exact := cmp.Options{
		cmpopts.IgnoreUnexported(Config{}),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	}
	if diff := cmp.Diff(want, got, exact); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte(least))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Prefix, want.Addresses = c.Prefix, c.Addresses
	compare(t, want, *c)
}

// TestReference holds the reference file against the code: it parses, it has
// every key, and what it does not call an example is the default.
func TestReference(t *testing.T) {
	data, err := os.ReadFile("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := decoder{}
	root := d.parse(data)
	for _, key := range leaves("", reflect.TypeFor[Config](), map[reflect.Type]bool{}) {
		if !somewhere(root, key) {
			t.Errorf("the reference file does not have %s", key)
		}
	}
	want := Default()
	want.Uplink, want.Prefix, want.Addresses, want.ICMPSourcePool = c.Uplink, c.Prefix, c.Addresses, c.ICMPSourcePool
	want.Mappings, want.Pools, want.DNS64.Upstreams, want.DNS64.Clients = c.Mappings, c.Pools, c.DNS64.Upstreams, c.DNS64.Clients
	want.Inside, want.Uplinks, want.Fabric, want.XDP = c.Inside, c.Uplinks, c.Fabric, c.XDP
	want.UDPGRO, want.MappingsFile, want.MappedBlocks, want.Metrics.Listen = c.UDPGRO, c.MappingsFile, c.MappedBlocks, c.Metrics.Listen
	want.Relay.IPv4, want.MAP = c.Relay.IPv4, c.MAP
	want.Edge.Prefix, want.Edge.Host, want.Edge.Blocks = c.Edge.Prefix, c.Edge.Host, c.Edge.Blocks
	want.Flows.JSON.Path, want.Flows.IPFIX.Collectors, want.Flows.IPFIX.CA = c.Flows.JSON.Path, c.Flows.IPFIX.Collectors, c.Flows.IPFIX.CA
	want.Policies, want.PoliciesFile, want.NamedPorts = c.Policies, c.PoliciesFile, c.NamedPorts
	want.Shedding.Workloads = c.Shedding.Workloads
	compare(t, want, *c)

	for _, left := range []string{"ports", "reserved_ports", "cooldown", "ports_per_workload", "inside"} {
		p := Pool{}
		p.setDefaults(map[string]bool{})
		got, def := reflect.ValueOf(c.Pools[0]), reflect.ValueOf(p)
		for f := range got.NumField() {
			if got.Type().Field(f).Tag.Get("yaml") == left && !reflect.DeepEqual(got.Field(f).Interface(), def.Field(f).Interface()) {
				t.Errorf("pools[0].%s is %v, the default %v", left, got.Field(f), def.Field(f))
			}
		}
	}
}

// somewhere reports whether a key is there, with some number for each [].
func somewhere(root ast.Node, key string) bool {
	if !strings.Contains(key, "[]") {
		return line(locate(root, key)) > 0 && exists(root, key)
	}
	for i := range 7 {
		if somewhere(root, strings.Replace(key, "[]", "["+strconv.Itoa(i)+"]", 1)) {
			return true
		}
	}
	return false
}

// leaves are the keys that hold values, with [] for the index of a list. Of a struct
// that stands in several lists, those in the first are told.
func leaves(key string, t reflect.Type, seen map[reflect.Type]bool) (all []string) {
	for i := range len(keys(t)) {
		f, name := t.Field(i), join(key, t.Field(i).Tag.Get("yaml"))
		ft := f.Type
		if ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct && ft.Elem().PkgPath() == t.PkgPath() && !seen[ft.Elem()] {
			ft, name = ft.Elem(), name+"[]"
			seen[ft] = true
		}
		_, scalar := reflect.New(ft).Interface().(interface{ UnmarshalText([]byte) error })
		if ft.Kind() == reflect.Struct && !scalar {
			all = append(all, leaves(name, ft, seen)...)
		} else {
			all = append(all, name)
		}
	}
	return all
}

func exists(n ast.Node, key string) bool {
	for part := range strings.FieldsFuncSeq(key, func(r rune) bool { return strings.ContainsRune(".[]", r) }) {
		if n = child(n, part); n == nil {
			return false
		}
	}
	return true
}

// The README's configuration is one.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "<<'END'\n")
	example, _, found := strings.Cut(rest, "    END\n")
	example = strings.TrimPrefix(strings.ReplaceAll("\n"+example, "\n    ", "\n"), "\n")
	c, err := Parse([]byte(example))
	if err != nil || !found {
		t.Fatalf("%v in\n%s", err, example)
	}
	_, rest, _ = strings.Cut(rest, "```yaml\n")
	pools, _, found := strings.Cut(rest, "```")
	if with, err := Parse([]byte(example + pools)); err != nil || !found || len(with.Pools) != len(c.Pools)+2 {
		t.Errorf("with pools: %v in\n%s", err, pools)
	}
}

func TestErrors(t *testing.T) {
	const pool = "  - {name: a, ipv4: 198.51.100.0/30}\n"
	for name, test := range map[string]struct{ text, want string }{
		"empty": {"", `config: nothing to translate
config: addresses.ipv4: missing
config: addresses.ipv6: missing`},
		"syntax":            {least + "mtu: {ipv4: 1500\n", "config:3: "},
		"document":          {least + "---\nprefix: 64:ff9b::/96\n", "config:4: a second document"},
		"not a map":         {"- a\n", "config:1: must have keys and values: device, "},
		"duplicate":         {least + "prefix: 64:ff9b::/96\n", "config:3: prefix: given twice"},
		"unknown":           {least + "mtu: {ipv4: 1500, ipv5: 1}\n", "config:3: mtu.ipv5: unknown key; there are ipv4, ipv6"},
		"no list":           {least + "mappings: 3\n", "config:3: mappings: must be a list"},
		"no scalar":         {least + "uplink: [a]\n", "config:3: uplink: must be a single value"},
		"null":              {least + "uplink:\n", "config:3: uplink: must be a single value"},
		"alias":             {"uplink: &a eth0\n" + least, "config:1: uplink: must be a single value"},
		"bool":              {least + "manage_sysctls: yes\n", `config:3: manage_sysctls: "yes" is neither true nor false`},
		"number":            {least + "lowest_ipv6_mtu: 1e3\n", `config:3: lowest_ipv6_mtu: "1e3" is not a whole number`},
		"metrics":           {least + "metrics: {listen: \"[::1]:0\", max_workloads: -1}\n", "config:3: metrics.listen: [::1]:0 has no port\nconfig:3: metrics.max_workloads: -1 is not between 0 and 100000"},
		"listener":          {least + "metrics: {listen: localhost:9464}\n", "config:3: metrics.listen: \"localhost:9464\" is not an IP address with a port"},
		"port":              {least + "health: {port: 65536}\n", `config:3: health.port: "65536" is not a number from 0 to 65535`},
		"duration":          {least + "pools:\n  - {name: a, ipv4: 198.51.100.0/30, cooldown: 60}\n", `config:4: pools[0].cooldown: "60" is not a duration such as 60s`},
		"word":              {least + "traffic_class: keep\n", `config:3: traffic_class: "keep" is not one of copy, zero`},
		"host bits":         {least + "mappings:\n  - ipv6: 2001:db8:1::/64\n    ipv4: 198.51.100.1/24\n", "config:5: mappings[0].ipv4: 198.51.100.1/24 has bits beyond its length: write 198.51.100.0/24"},
		"address":           {"addresses: {ipv4: 192.0.2, ipv6: fe80::1%eth0}\n", "config:1: addresses.ipv4: \"192.0.2\" is not an IP address\nconfig:1: addresses.ipv6: \"fe80::1%eth0\" is not an IP address"},
		"families":          {"prefix: 10.0.0.0/8\naddresses: {ipv4: ::1, ipv6: 192.0.2.1}\n", "config:1: prefix: prefix 10.0.0.0/8: length must be\nconfig:2: addresses.ipv4: ::1 is not IPv4\nconfig:2: addresses.ipv6: 192.0.2.1 is not IPv6"},
		"length":            {"addresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nprefix: 2001:db8::/95", "config:2: prefix: prefix 2001:db8::/95: length must be 32, 40, 48, 56, 64 or 96"},
		"octet u":           {"addresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nprefix: 2001:db8:0:0:100::/96", "config:2: prefix: prefix 2001:db8:0:0:100::/96: bits 64 to 71 must be zero"},
		"loopback":          {"prefix: 2001:db8:64::/96\naddresses: {ipv4: 127.0.0.1, ipv6: ff02::1}", "config:2: addresses.ipv4: 127.0.0.1 is not an address of a host\nconfig:2: addresses.ipv6: ff02::1 is not an address of a host"},
		"well-known":        {"prefix: 64:ff9b::/96\naddresses: {ipv4: 192.0.2.1, ipv6: 64:ff9b::10.0.0.1}", "config:2: addresses.ipv6: 64:ff9b::a00:1 stands for 10.0.0.1, which is not global"},
		"mtu":               {least + "mtu: {ipv4: 67, ipv6: 1279}\nlowest_ipv6_mtu: 1281", "config:3: mtu.ipv4: 67 is not between 68 and 65535\nconfig:3: mtu.ipv6: 1279 is not between 1280 and 65535"},
		"lowest":            {least + "lowest_ipv6_mtu: 1501", "config:3: lowest_ipv6_mtu: 1501 is not between 1280 and 1500"},
		"udp_gro":           {least + "udp_gro: [eth0, \"veth[\"]", "config:3: udp_gro[1]: \"veth[\" is neither a name of network interfaces nor a pattern of some (veth*)"},
		"queues":            {least + "device: {queues: many}", "config:3: device.queues: \"many\" is neither a number nor auto"},
		"device":            {least + "device: {name: natless0123456789, mtu: 1279, queues: 0}", "config:3: device.name: \"natless0123456789\" is not a valid name of a network interface (1 to 15 letters and digits)\nconfig:3: device.mtu: 1279 is not between 1280 and 65535\nconfig:3: device.queues: 0 is not between 1 and 256"},
		"inside":            {least + "uplink: natless4\ninside: {device: natless4}", "config:4: inside.device: natless4 is the uplink"},
		"inside of nothing": {least + "inside: {}\npools:\n  - {name: a, ipv4: 198.51.100.0/30, inside: true}", "config:5: pools[0].inside: needs a device"},
		"one device":        {least + "inside: {device: natless0}", "config:3: inside.device: natless0 is device.name"},
		"inside name":       {least + "inside: {device: \"a b\"}", "config:3: inside.device: \"a b\" is not a valid name of a network interface"},
		"nine uplinks":      {least + "uplink: eth0\nuplinks: [a, b, c, d, e, f, g, h]", "config:4: uplinks: 9 uplinks are more than 8"},
		"uplinks twice":     {least + "uplinks: [a, a]", "config:3: uplinks[1]: a is there twice"},
		"fabric":            {least + "fabric: [a, natless0]", "config:3: fabric[1]: natless0 is the translator's own device"},
		"xdp elsewhere":     {least + "uplink: a\nxdp: [a, b]", "config:4: xdp[1]: b is neither an uplink nor of the fabric"},
		"xdp and no path":   {least + "uplink: a\nxdp: [a]\nfast_path: off", "config:4: xdp: fast_path is off, and this is a part of it"},
		"nine of fabric":    {least + "fabric: [a, b, c, d, e, f, g, h, i]", "config:3: fabric: 9 interfaces are more than 8"},
		"relay":             {least + "relay: {ipv4: [10.0.0.0/24, 10.0.0.0/25]}", "config:3: relay.ipv4[1]: 10.0.0.0/25 overlaps relay.ipv4[0] (10.0.0.0/24)"},
		"impatient relay":   {least + "relay: {stale_after: 1s}", "config:3: relay.stale_after: 1s is less than 5s"},
		"uplink":            {least + "uplink: natless0", "config:3: uplink: natless0 is the translator's own device"},
		"own inside":        {least + "mappings:\n  - {ipv6: 2001:db8::/120, ipv4: 192.0.2.0/24}", "config:4: mappings[0].ipv6: 2001:db8::/120 covers addresses.ipv6, which is the translator's own\nconfig:4: mappings[0].ipv4: 192.0.2.0/24 covers addresses.ipv4"},
		"half":              {least + "mappings:\n  - {ipv6: 2001:db8:1::1}", "config:4: mappings[0].ipv4: missing"},
		"never":             {least + "mappings:\n  - {ipv6: 2001:db8:1::1, ipv4: 169.254.1.1}", "config:4: mappings[0]: ipv4 169.254.1.1/32: lies in 169.254.0.0/16, which is never translated"},

		"suffix": {least + "mappings:\n  - {ipv6: 2001:db8:1::/120, ipv4: 198.51.0.0/16}", "config:4: mappings[0]: ipv4 198.51.0.0/16 has 16 suffix bits"},
		"collisions": {least + "mappings:\n  - {ipv6: 2001:db8:1::1, ipv4: 198.51.100.1}\n  - {ipv6: 2001:db8:1::1, ipv4: 198.51.100.2}\n  - {ipv6: 2001:db8:1::2, ipv4: 198.51.100.1}",
			"config:5: mappings[1]: 2001:db8:1::1/128 ↔ 198.51.100.2/32: ipv6 2001:db8:1::1/128 already belongs to 2001:db8:1::1/128 ↔ 198.51.100.1/32, which is mappings[0]\n" +
				"config:6: mappings[2]: 2001:db8:1::2/128 ↔ 198.51.100.1/32: ipv4 198.51.100.1/32 already belongs to 2001:db8:1::1/128 ↔ 198.51.100.1/32, which is mappings[0]"},

		"pool name":            {least + "pools:\n  - {name: A, ipv4: 198.51.100.0/30}\n", "config:4: pools[0].name: \"A\" is not a valid name"},
		"pool twice":           {least + "pools:\n" + pool + "  - {name: a, ipv4: 198.51.100.3}\n", "config:5: pools[1].name: pools[0] is called \"a\" too\nconfig:5: pools[1].ipv4: 198.51.100.3/32 overlaps pools[0] (198.51.100.0/30)"},
		"pool mapping":         {least + "mappings:\n  - {ipv6: 2001:db8:1::1, ipv4: 198.51.100.1}\npools:\n" + pool, "config:6: pools[0].ipv4: 198.51.100.0/30 overlaps mappings[0] (198.51.100.1/32), which has its addresses to itself"},
		"pool of ICMP sources": {least + "icmp_source_pool: {ipv4: 198.51.100.9}\npools:\n  - {name: a, ipv4: 198.51.100.0/28}\n", "config:5: pools[0].ipv4: 198.51.100.0/28 overlaps icmp_source_pool.ipv4 (198.51.100.9/32)"},
		"pool own":             {least + "pools:\n  - {name: a, ipv4: 192.0.2.0/30}\n", "config:4: pools[0].ipv4: 192.0.2.0/30 covers addresses.ipv4"},
		"pool uplink":          {least + "pools:\n  - {name: a, ipv4: uplink}\n", "config:4: pools[0].ipv4: which uplink? set the key uplink to the interface's name\nconfig:4: pools[0].ports: missing"},
		"pool whole":           {least + "pools:\n  - {name: a, ipv4: 198.51.100.0/30, whole_address: true, reserved_ports: 1}\n", "config:4: pools[0].whole_address: excludes ports, reserved_ports and ports_per_workload"},
		"pool too many":        {least + "pools:\n  - {name: a, ipv4: 198.51.100.0/30, ports: '0-2000,3000-3099', ports_per_workload: 978}\n", "config:4: pools[0].ports_per_workload: 978 do not fit: the longest run of ports without reserved_ports is 977"},
		"pool ports":           {least + "pools:\n  - {name: a, ipv4: 198.51.100.0/30, ports: 9-1}\n", `config:4: pools[0].ports: ports "9-1": 9-1: the range runs backwards`},
		"ports twice":          {least + "pools:\n  - {name: a, ipv4: 198.51.100.0/30, ports: '5-9,1-5'}\n", `config:4: pools[0].ports: ports "5-9,1-5": 1-5 and 5-9: ranges must not overlap`},

		"services": {"addresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nmappings: [{ipv6: 2001:db8:1::1, ipv4: 198.51.100.1}]\n" +
			"api: {socket: a, group: ''}\nsysctl_dir: sys\nregistry: {path: b, history: -1}\ndns64: {enabled: true, upstreams: ['192.0.2.1:53'], exclude: [10.0.0.0/8], clients: ['2001:db8::/64', 10.0.0.0/8]}\nhealth: {port: 53}",
			`config:3: api.socket: "a" is not an absolute path of less than 108 bytes
config:3: api.group: missing
config:4: sysctl_dir: "sys" is not an absolute path
config:5: registry.path: "b" is not an absolute path
config:5: registry.history: -1 is not between 0 and 100000000
config:6: dns64.enabled: there is no prefix to synthesise addresses with
config:6: dns64.upstreams[0]: 192.0.2.1:53 is not the address and port of another server
config:6: dns64.exclude[0]: 10.0.0.0/8 is not IPv6
config:6: dns64.clients[1]: 10.0.0.0/8 is not IPv6
config:7: health.port: 53 is DNS64's`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(test.text))
			var all Errors
			if !errors.As(err, &all) {
				t.Fatalf("got %v, want a list of errors", err)
			}
			got, want := strings.Split(err.Error(), "\n"), strings.Split(test.want, "\n")
			if len(got) != len(want) {
				t.Fatalf("got\n%s\nwant\n%s", err, test.want)
			}
			for i := range want {
				if !strings.HasPrefix(got[i], want[i]) {
					t.Errorf("got %s\nwant %s", got[i], want[i])
				}
			}
		})
	}
}

// A key of an earlier release goes on working, and says what it is called now.
func TestRenamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "natless.yaml")
	load := func(text string) (*Config, error) {
		t.Helper()
		if err := os.WriteFile(file, []byte(least+text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(file)
	}
	for _, text := range []string{"", "fast_path: off\n"} {
		if c, err := load(text); err != nil || c.Renamed() != nil {
			t.Errorf("%q: %v, %v", text, c.Renamed(), err)
		}
	}
	c, err := load("offload: off\n")
	if err != nil || c.FastPath != FastPathOff || len(c.Renamed()) != 1 ||
		!strings.Contains(c.Renamed()[0].String(), "offload is called fast_path now") {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := load("offload: off\nfast_path: auto\n"); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("both names: %v", err)
	}
	if _, err := load("offload: perhaps\n"); err == nil || !strings.Contains(err.Error(), "offload: ") {
		t.Errorf("a bad value: %v", err)
	}
}

func TestLoadMissing(t *testing.T) {
	if _, err := Load("none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestAllowed(t *testing.T) {
	for name, text := range map[string]string{
		"own inside the prefix":  "prefix: 2001:db8:64::/96\naddresses: {ipv4: 192.0.2.1, ipv6: 2001:db8:64::c000:201}",
		"private, asked for":     "allow_non_global: true\nprefix: 64:ff9b::/96\naddresses: {ipv4: 192.0.2.1, ipv6: 64:ff9b::10.0.0.1}",
		"entries commented out":  least + "mappings:\n#  - {}\nmtu:\n",
		"mappings alone":         "addresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nmappings: [{ipv6: 2001:db8:1::1, ipv4: 198.51.100.1}]",
		"mapping in source pool": least + "icmp_source_pool: {ipv4: 203.0.113.8}\nmappings: [{ipv6: 2001:db8:7::/120, ipv4: 203.0.113.0/24}]",
	} {
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNeedsRestart(t *testing.T) {
	running, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	next := *running
	next.Mappings, next.MTU.IPv4, next.Log.Level, next.Prefix = nil, 1400, 4, netip.MustParsePrefix("2001:db8::/96")
	if got := NeedsRestart(running, &next); got != nil {
		t.Errorf("got %v", got)
	}
	next.Device.MTU, next.Uplink, next.Log.Format, next.Addresses.IPv4 = 9000, "eth1", "json", netip.MustParseAddr("192.0.2.9")
	next.Inside.Device = "natless9"
	if got := fmt.Sprint(NeedsRestart(running, &next)); got != "[device.mtu inside.device uplink addresses.ipv4 log.format]" {
		t.Errorf("got %v", got)
	}
}

// TestInsideDevice: there is one where a pool or the file asks for it.
func TestInsideDevice(t *testing.T) {
	const pool = "pools:\n  - {name: a, ipv4: 198.51.100.0/30, inside: true}\n"
	for text, want := range map[string]string{"": "", pool: "natless4", "inside: {device: tap9}\n": "tap9", pool + "inside: {device: tap9}\n": "tap9"} {
		if c, err := Parse([]byte(least + text)); err != nil || c.Inside.Device != want {
			t.Errorf("%q: %q, %v", text, c.Inside.Device, err)
		}
	}
}

func TestAssignable(t *testing.T) {
	for _, test := range []struct{ ports, reserved, want string }{
		{"0-65535", "0-1023", "1024-65535"},
		{"0-65535", "0-1023,60000-65535", "1024-59999"},
		{"10-20,30", "15,30", "10-14,16-20"},
		{"5-6", "1-9", ""},
		{"7", "", "7"},
	} {
		var p Pool
		if err := errors.Join(p.Ports.UnmarshalText([]byte(test.ports)), p.ReservedPorts.UnmarshalText([]byte(test.reserved))); err != nil {
			t.Fatal(err)
		}
		if got := p.Assignable().String(); got != test.want {
			t.Errorf("%s without %s: got %q, want %q", test.ports, test.reserved, got, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add(least + examplePools)
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := Parse([]byte(text)); err == nil {
			if _, err := c.Table(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

const somePolicy = `
policies:
  - name: web
    tier: Admin
    priority: 10
    subject: {name: "shop/*", labels: {app: web}}
    egress:
      - {name: api, action: Accept, to: [{networks: [203.0.113.0/24, "::/0"]}], protocols: [{tcp: {destinationPort: {number: 443}}}, {destinationNamedPort: dns}]}
      - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
named_ports: {dns: [udp/53, tcp/53]}
`

func TestPolicies(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "more.yaml")
	if err := os.WriteFile(file, []byte("policies:\n  - {name: first, tier: Admin, priority: 1, ingress: [{action: Pass, from: [{networks: [192.0.2.7]}]}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "natless.yaml")
	if err := os.WriteFile(main, []byte(least+somePolicy+"policies_file: more.yaml\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(main)
	if err != nil {
		t.Fatal(err)
	}
	everything := netip.MustParsePrefix("0.0.0.0/0")
	want := []policy.Policy{
		{Name: "first", Priority: 1, Ingress: []policy.Rule{{Action: policy.Pass, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}}}},
		{Name: "web", Priority: 10, Subject: policy.Subject{Name: "shop/*", Labels: map[string]string{"app": "web"}}, Egress: []policy.Rule{
			{Name: "api", Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("::/0")}, Protocols: []policy.Protocol{
				{Number: 6, Ports: ports.Single(443)}, {Number: 17, Ports: ports.Single(53)}, {Number: 6, Ports: ports.Single(53)}}},
			{Action: policy.Deny, Networks: []netip.Prefix{everything}},
		}},
	}
	compare(t, want, c.PolicySet())

	if err := os.WriteFile(file, []byte("policies:\n  - name: web\n    tier: Admin\n    priority: 1001\n  - {name: b}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(main)
	if got, want := fmt.Sprint(err), file+":2: policies[0].name: policies[0] is called \"web\" too\n"+file+":4: policies[0].priority: 1001 is not between 0 and 1000\n"+
		file+":5: policies[1].tier: missing: one of Admin, NetworkPolicy, Baseline"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPolicyErrors(t *testing.T) {
	rule := func(s string) string {
		return least + "policies:\n  - name: a\n    tier: Admin\n    egress:\n      - " + s + "\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"no action":     {rule("{to: [{networks: [0.0.0.0/0]}]}"), "config:7: policies[0].egress[0].action: missing: one of Accept, Deny, Pass"},
		"another":       {rule("{action: Allow, to: [{networks: [0.0.0.0/0]}]}"), `config:7: policies[0].egress[0].action: "Allow" is not one of Accept, Deny, Pass`},
		"rule twice":    {rule("{name: x, action: Deny, to: [{networks: [0.0.0.0/0]}]}\n      - {name: x, action: Pass, to: [{networks: [0.0.0.0/0]}]}"), "config:8: policies[0].egress[1].name: another rule of this direction is called \"x\""},
		"no peers":      {rule("{action: Deny}"), "config:7: policies[0].egress[0].to: missing"},
		"pods":          {rule("{action: Deny, to: [{pods: {}}]}"), "config:7: policies[0].egress[0].to[0].pods: unknown key; there are networks"},
		"no networks":   {rule("{action: Deny, to: [{}]}"), "config:7: policies[0].egress[0].to[0].networks: missing"},
		"embedded":      {rule("{action: Deny, to: [{networks: [\"2001:db8:64::cb00:7100/120\"]}]}"), "config:7: policies[0].egress[0].to[0].networks[0]: 2001:db8:64::cb00:7100/120 stands for IPv4 addresses"},
		"two protocols": {rule("{action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {}, icmp: {}}]}"), "config:7: policies[0].egress[0].protocols[0]: must have one of tcp, udp, sctp, dccp, udplite, icmp, destinationNamedPort"},
		"port":          {rule("{action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {destinationPort: {number: 65536}}}]}"), "config:7: policies[0].egress[0].protocols[0]: 65536 is not between 1 and 65535"},
		"range":         {rule("{action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {destinationPort: {range: {start: 2, end: 1}}}}]}"), "config:7: policies[0].egress[0].protocols[0]: 2 to 1 is not a range"},
		"named":         {rule("{action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{destinationNamedPort: web}]}"), `config:7: policies[0].egress[0].protocols[0]: named_ports has no "web"`},
		"names":         {least + "named_ports: {web: [tcp]}\n", `config:3: named_ports.web[0]: "tcp" is not a protocol and ports, such as tcp/443`},
		"no file":       {least + "policies_file: /nowhere/policies.yaml\n", "config:3: policies_file: open /nowhere/policies.yaml: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(test.text))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got\n%v\nwant\n%s", err, test.want)
			}
		})
	}
}
