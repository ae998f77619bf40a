//go:build linux

package fastpath

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
)

// BenchmarkHostWays is what a program takes for a small packet, and how much of
// that is asking the host for the way of the packet as it came, and of its source:
// of one flow, whose ways are remembered, and of ever others, whose ways are not.
// The kernel takes the time of each run; the median is told.
func BenchmarkHostWays(b *testing.B) {
	r := newRig(b)
	r.IP("tuntap add natless0 mode tun")
	r.IP("link set natless0 up")
	for _, dst := range []string{"198.51.100.0/24", "64:ff9b::/96", prefixed()[0].Config.IPv4.String(), prefixed()[0].Config.IPv6.String()} {
		r.IP("route add " + dst + " dev natless0")
	}
	device := 0
	r.Do(func() {
		if i, err := net.InterfaceByName("natless0"); err == nil {
			device = i.Index
		}
	})
	f := loaded(b)
	j := newPair(b, r, prefixed()[0], f).judge()
	with := Host{Device: device, Via: r.up, Uplinks: [maxUplinks]int{r.up}}
	for _, c := range []struct {
		name  string
		host  Host
		flows int
	}{{"without", Host{}, 1}, {"with", with, 1}, {"others", with, 50000}} {
		for _, way := range []struct {
			name string
			run  *runner
			in   []byte
			port int // where it stands
		}{{"to4", j.workload, udp6(64), 40}, {"to6", j.uplink, udp4(64), 20}} {
			b.Run(way.name+"/"+c.name, func(b *testing.B) {
				if err := f.SetHost(c.host); err != nil {
					b.Fatal(err)
				}
				var took []uint32
				r.Do(func() {
					for i := range b.N {
						binary.BigEndian.PutUint16(way.in[way.port:], uint16(i%c.flows))
						if a, _, err := way.run.run(reference.Packet{Bytes: way.in}, 0); err != nil || a != actRedirect {
							b.Errorf("%d, %v", int32(a), err)
							return
						}
						took = append(took, way.run.attr.duration)
					}
				})
				slices.Sort(took)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(took[len(took)/2]), "ns/packet")
			})
		}
	}
}

// BenchmarkInside is what a program takes for a small packet of a workload that has its
// IPv4 inside: to the outside, to another such workload, and from the outside.
func BenchmarkInside(b *testing.B) {
	r := newRig(b)
	r.IP("tuntap add natless0 mode tun")
	r.IP("link set natless0 up")
	w := generate.InsideWorlds()[0]
	for _, to := range []string{"198.51.100.0/24", w.Config.IPv4.String(), w.Config.IPv6.String()} {
		r.IP("route add " + to + " dev natless0")
	}
	device := 0
	r.Do(func() {
		if i, err := net.InterfaceByName("natless0"); err == nil {
			device = i.Index
		}
	})
	f := loaded(b)
	p := newPair(b, r, w, f)
	if err := f.SetHost(Host{Device: device, Via: r.up, Inside: r.up, Uplinks: [maxUplinks]int{r.up}}); err != nil {
		b.Fatal(err)
	}
	in := sentFrom("192.0.2.2", "198.51.100.7", 53)
	binary.BigEndian.PutUint16(in[22:], 1024)
	for _, way := range []struct {
		name string
		run  *runner
		in   []byte
	}{
		{"out", newRunner(f.Sent4.FD(), p.at(w.Mappings[0]), r.workMAC), sent4("192.0.2.2", 53)},
		{"between", newRunner(f.Sent4.FD(), p.at(w.Mappings[0]), r.workMAC), sent4("198.51.100.7", 1024)},
		{"in", newRunner(f.Uplink.FD(), r.up, r.upMAC), in},
	} {
		b.Run(way.name, func(b *testing.B) {
			var took []uint32
			r.Do(func() {
				for range b.N {
					if a, _, err := way.run.run(reference.Packet{Bytes: way.in}, 0); err != nil || a != actRedirect {
						b.Errorf("%d, %v", int32(a), err)
						return
					}
					took = append(took, way.run.attr.duration)
				}
			})
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[len(took)/2]), "ns/packet")
		})
	}
}
