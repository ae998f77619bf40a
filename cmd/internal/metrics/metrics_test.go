//go:build linux

package metrics

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator"
)

type noPrefix struct{}

func (noPrefix) Network() netip.Prefix { return netip.Prefix{} }

func (noPrefix) Embed(netip.Addr) (a netip.Addr, ok bool)   { return }
func (noPrefix) Extract(netip.Addr) (a netip.Addr, ok bool) { return }
func (noPrefix) Translatable(netip.Addr) bool               { return false }

// sources has every figure different from every other.
func sources() Sources {
	n := uint64(100)
	next := func() uint64 { n++; return n }
	var t dataplane.Snapshot
	for d := range t.Verdicts {
		for v := range t.Verdicts[d] {
			t.Verdicts[d][v] = dataplane.Count{Packets: next(), Bytes: next()}
			t.Replied[d][v] = next()
		}
		for k := range t.ErrorsLimited[d] {
			for b := range t.ErrorsLimited[d][k] {
				t.ErrorsLimited[d][k][b] = next()
			}
		}
	}
	t.Superpackets, t.Fragments, t.Unsegmentable, t.Reopened = next(), next(), next(), next()
	t.Device = tun.Stats{Waits: next(), Segmented: next(), WriteErrors: map[unix.Errno]uint64{unix.EIO: next(), unix.ENOBUFS: next(), 4095: next()}}
	t.Tracker = translator.TrackerStats{Tracked: 3, Capacity: 4096, Evicted: next()}
	resolver := dns64.New(dns64.Config{}, noPrefix{}, dns64.Options{})
	resolver.Stats.Responses[2].Store(next())
	kernel := FastPath{Wanted: true, Active: true, Interfaces: 3, Failed: 1}
	for d := range kernel.Counts {
		for r := range kernel.Counts[d] {
			kernel.Counts[d][r] = fastpath.Count{Packets: uint64(1000*(d+1) + r), Bytes: uint64(5000*(d+1) + r)}
		}
	}
	kernel.XDP = &fastpath.Taken{}
	for family := range kernel.XDP {
		for r := range kernel.XDP[family] {
			kernel.XDP[family][r] = fastpath.Count{Packets: uint64(30000*(family+1) + r)}
		}
	}
	link := netlink.LinkStatistics64{TxDropped: next(), RxDropped: next(), TxPackets: next(), RxPackets: next(), TxBytes: next(), RxBytes: next()}
	return Sources{
		Version:  "1.2.3",
		Ready:    func() bool { return true },
		Traffic:  func() dataplane.Snapshot { return t },
		FastPath: func() FastPath { return kernel },
		Device: func() (Device, bool) {
			return Device{Name: "natless0", IO: "io_uring", TSO: true, Link: link, LinkOK: true}, true
		},
		Table:   func() (int, int) { return 7, 5 },
		Drained: func() bool { return true },
		MAP: func() []api.MapRule {
			return []api.MapRule{{IPv6: netip.MustParsePrefix("2001:db8:1000::/44"), To4: 1}}
		},
		FirstUse: func() FirstUse {
			return FirstUse{Pools: []api.FirstUse{{Pool: "default", Workloads: 3}}, Refused: map[string]uint64{"rate": 1}}
		},
		Relay: func() *Relay {
			return &Relay{Epoch: 7, Rules: 3, State: api.RelayServes, Told: 2}
		},
		Pools: func() []api.Pool {
			return []api.Pool{{Name: "default", Workloads: 5, Ports: 100, PortsUsed: 50, PortsCooling: 10, Headroom: 4, Addresses: make([]api.PoolAddress, 2)}}
		},
		Reloads: func() Reloads {
			return Reloads{Succeeded: 3, Refused: 1, LastRefused: true, LastSuccess: time.Unix(1e9, 0)}
		},
		Local: func() local.Stats { return local.Stats{Delivered: next(), Dropped: next(), Written: next()} },
		DNS64: func() *dns64.Server { return resolver },
		Rules: func() []Rule {
			return []Rule{{Policy: "web", Direction: "egress", Rule: "rest", Denied: next(), Audited: next()}}
		},
		Refusals: func() []api.Limit { return []api.Limit{{What: "http-connections", Budget: "source", Refused: next()}} },
		Shed:     func() Shed { return Shed{true, [dataplane.NumDirections]uint64{next(), next()}} },
		Flows: func() api.FlowStatus {
			return api.FlowStatus{Enabled: true, Open: 11, MaxFlows: 1024, Lost: api.FlowCount{Packets: next(), Bytes: next()},
				Receivers: []api.FlowReceiver{{Name: "/var/lib/natless/flows.json", State: "ok", Written: next(), Dropped: next()}}}
		},
		Spoofing: func() (map[string]uint64, bool, error) { return map[string]uint64{"reverse-path": 17}, true, nil },
	}
}

func pedantic(t *testing.T, c ...prometheus.Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range c {
		if err := r.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// Every metric that is described is given, none other, none twice, all of them
// named by Prometheus' conventions.
func TestPedantic(t *testing.T) {
	r := pedantic(t, &Collector{sources()})
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]bool{}
	for _, f := range families {
		given[f.GetName()] = true
	}
	for _, d := range all {
		name, _, _ := strings.Cut(strings.TrimPrefix(d.String(), `Desc{fqName: "`), `"`)
		if !given[name] {
			t.Errorf("%s is described and never given", name)
		}
		delete(given, name)
	}
	for name := range given {
		t.Errorf("%s is given and not described", name)
	}
}

func scrape(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(r, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	b, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Debian's promtool has nothing to say either, Go's and the process's metrics
// included.
func TestPromtool(t *testing.T) {
	netns.Require(t, "promtool")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, NewRegistry(&Collector{sources()})))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

func TestFigures(t *testing.T) {
	s := sources()
	got := scrape(t, pedantic(t, &Collector{s}))
	traffic := s.Traffic()
	held := traffic.Verdicts[dataplane.To6][translator.FragmentHeld]
	if held.Packets == 0 || strings.Contains(got, `reason="fragment-held"`) {
		t.Error("a fragment that is held counts as dropped")
	}
	for _, want := range []string{
		`natless_translated_packets_total{direction="6→4",verdict="forward4",way="daemon"} 101`,
		`natless_translated_bytes_total{direction="6→4",verdict="forward4",way="daemon"} 102`,
		`natless_config_reloads_total{result="refused"} 1`,
		`natless_config_reloads_total{result="success"} 3`,
		`natless_config_last_reload_successful 0`,
		`natless_config_last_reload_success_timestamp_seconds 1e+09`,
		`natless_pool_headroom_workloads{pool="default"} 4`,
		`natless_mappings 7`, `natless_workloads 5`, `natless_device_up 1`,
		`natless_device_info{device="natless0",io="io_uring",tso="true",uso="false"} 1`,
		`natless_device_write_errors_total{error="errno-4095"} `,
		`natless_device_write_errors_total{error="ENOBUFS"} `,
		`natless_spoofed_packets_total{cause="reverse-path"} 17`,
		`natless_fast_path_active 1`, `natless_fast_path_interfaces 3`, `natless_fast_path_failed_interfaces 1`,
		`natless_offload_active 1`, `natless_offload_interfaces 3`, `natless_offload_failed_interfaces 1`,
		fmt.Sprintf(`natless_translated_packets_total{direction="6→4",verdict="forward4",way="kernel"} %d`, 1000+int(fastpath.Translated)),
		fmt.Sprintf(`natless_translated_bytes_total{direction="4→6",verdict="forward6",way="kernel"} %d`, 10000+int(fastpath.Translated)),
		fmt.Sprintf(`natless_dropped_packets_total{direction="4→6",reason="lost",way="kernel"} %d`, 2000+int(fastpath.Lost)),
		`natless_fast_path_xdp_packets_total{direction="4→6",reason="translated"} 30000`,
		`natless_fast_path_xdp_packets_total{direction="6→4",reason="translated"} 60000`,
		fmt.Sprintf(`natless_fast_path_xdp_packets_total{direction="6→4",reason="lost"} %d`, 60000+int(fastpath.Lost)),
		fmt.Sprintf(`natless_fast_path_xdp_packets_total{direction="4→6",reason="no-neighbour"} %d`, 30000+int(fastpath.NumReasons)),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(got, "natless_fast_path_xdp_packets_total{"); n != 2*int(fastpath.NumXDPReasons-1) {
		t.Errorf("%d series of XDP for %d reasons, but spoofed", n, fastpath.NumXDPReasons)
	}
	s.FastPath = func() FastPath { return FastPath{Wanted: true} }
	if got := scrape(t, pedantic(t, &Collector{s})); strings.Contains(got, "fast_path_xdp_") {
		t.Error("series of XDP where there is none")
	}
}

// A part that is missing is left out; that is not an error.
func TestWithoutDevice(t *testing.T) {
	s := sources()
	s.Device = func() (Device, bool) { return Device{}, false }
	s.DNS64 = func() *dns64.Server { return nil }
	s.Spoofing = func() (map[string]uint64, bool, error) { return nil, false, nil }
	got := scrape(t, pedantic(t, &Collector{s}))
	for _, gone := range []string{"natless_device_queue", "natless_dns64", "natless_spoofed"} {
		if strings.Contains(got, gone) {
			t.Errorf("%s without what it counts", gone)
		}
	}
	s.Spoofing = func() (map[string]uint64, bool, error) { return nil, false, errors.New("no answer") }
	if got := scrape(t, pedantic(t, &Collector{s})); strings.Contains(got, "natless_spoof") {
		t.Error("spoofing rules that nobody knows about are said to be gone, or there")
	}
	for _, want := range []string{"natless_device_up 0", "natless_spoofing_rules_installed 0"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
}
