//go:build linux

package cni

import (
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// The figures are ratios within a round, since what else runs on a machine changes from
// one round to the next.
var figures = flag.Int("figures", 0, "rounds of TestInsideFigures, on a machine that does nothing else; 0: not run")

// kernelPods are two containers whose IPv4 the kernel forwards.
func kernelPods(t *testing.T, n *node) (pods [2]*netns.NS) {
	for i := range pods {
		pods[i] = netns.New(t, fmt.Sprint("kernel", i))
		name := fmt.Sprint("kern", i)
		netns.Veth(t, pods[i], "eth0", n.NS, name)
		n.IP(fmt.Sprintf("addr add 10.77.%d.1/24 dev %s", i, name))
		pods[i].IP(fmt.Sprintf("addr add 10.77.%d.2/24 dev eth0", i))
		n.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf."+name+".forwarding=1")
		pods[i].IP(fmt.Sprintf("route add default via 10.77.%d.1", i))
	}
	return pods
}

// iperf is the bits a second that arrived.
func iperf(t *testing.T, from, to *netns.NS, address string, port int, args ...string) float64 {
	server := to.Command("timeout", "9", "iperf3", "-s", "-1", "-p", fmt.Sprint(port))
	if err := netns.Start(server); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	time.Sleep(300 * time.Millisecond)
	out, err := from.Command("timeout", append([]string{"7", "iperf3", "-c", address, "-p", fmt.Sprint(port), "-t", "2", "-J"}, args...)...).Output()
	var r struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			Sum struct {
				Bits float64 `json:"bits_per_second"`
				Lost float64 `json:"lost_percent"`
			} `json:"sum"`
		}
	}
	if err != nil || json.Unmarshal(out, &r) != nil {
		fmt.Printf("iperf3 -c %s %v: %v\n", address, args, err)
		return 0
	}
	if r.End.Received.Bits == 0 {
		return r.End.Sum.Bits * (1 - r.End.Sum.Lost/100)
	}
	return r.End.Received.Bits
}

// TestInsideFigures compares, within each round, with the kernel forwarding IPv4.
func TestInsideFigures(t *testing.T) {
	if *figures == 0 {
		t.Skip("-figures says how many rounds")
	}
	fast := place(t, "ptp", insidePool, 0)
	off := place(t, "ptp", insidePool+"fast_path: off\n", 0)
	kernel := kernelPods(t, fast.node)
	six := "2001:db8:64::192.0.2.2"
	pb := int(fast.wb.Run().First) + 20
	for _, kind := range []struct {
		name string
		args []string
	}{{"out", nil}, {"back", []string{"-R"}}, {"out 8", []string{"-P", "8"}}, {"back 8", []string{"-R", "-P", "8"}}, {"udp out", []string{"-u", "-b", "0", "-l", "1400"}}, {"between", nil}} {
		ratios := map[string][]float64{}
		var base []float64
		for range *figures {
			got := map[string]float64{}
			if kind.name == "between" {
				got["kernel"] = iperf(t, kernel[0], kernel[1], "10.77.1.2", pb)
				got["direct"] = iperf(t, fast.a.NS, fast.b.NS, fast.wb.Address.String(), pb)
				got["steered"] = iperf(t, off.a.NS, off.b.NS, off.wb.Address.String(), pb)
			} else {
				got["kernel"] = iperf(t, kernel[0], fast.server, serverIPv4, 5201, kind.args...)
				got["direct"] = iperf(t, fast.a.NS, fast.server, serverIPv4, 5201, kind.args...)
				got["IPv6 fast path"] = iperf(t, fast.six.NS, fast.server, six, 5201, kind.args...)
				got["steered"] = iperf(t, off.a.NS, off.server, serverIPv4, 5201, kind.args...)
				got["IPv6 by natless0"] = iperf(t, off.six.NS, off.server, six, 5201, kind.args...)
			}
			if got["kernel"] == 0 {
				continue
			}
			base = append(base, got["kernel"]/1e9)
			for who, bits := range got {
				ratios[who] = append(ratios[who], bits/got["kernel"])
			}
			if got["IPv6 by natless0"] > 0 {
				ratios["steered / natless0"] = append(ratios["steered / natless0"], got["steered"]/got["IPv6 by natless0"])
			}
		}
		if len(base) == 0 {
			t.Fatal("the kernel forwards nothing: there is nothing to compare with")
		}
		var lines []string
		for who, all := range ratios {
			slices.Sort(all)
			lines = append(lines, fmt.Sprintf("%-8s %-20s median %.2f of %.2f..%.2f", kind.name, who, all[len(all)/2], all[0], all[len(all)-1]))
		}
		slices.Sort(lines)
		slices.Sort(base)
		fmt.Printf("kernel %.2f Gb/s (median)\n%s\n", base[len(base)/2], strings.Join(lines, "\n"))
	}
}
