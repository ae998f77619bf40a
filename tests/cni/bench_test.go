//go:build linux

package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// BenchmarkAdd times ADD as a runtime sees it, process start and all, with
// 10,000 assignments present. Run it with -benchtime 1000x.
func BenchmarkAdd(b *testing.B) {
	n, bin := newNode(b), tools(b)
	d := daemon.Start(b, n.NS, baseConfig+"pools: [{name: default, ipv4: 198.51.100.0/24, ports_per_workload: 256}]\n")
	client := d.Client()
	parallel(b, 10000, 64, func(i int) error {
		ipv6 := netip.MustParseAddr(fmt.Sprintf("2001:db8:7:%x::1", i))
		for {
			_, err := client.Put(context.Background(), api.Key{ContainerID: fmt.Sprint("present", i), Interface: "eth0"}, api.Request{IPv6: []netip.Addr{ipv6}})
			if !errors.Is(err, api.ErrRateLimited) {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	pods := make([]*netns.NS, 20)
	for i := range pods {
		pods[i] = netns.New(b, fmt.Sprint("pod", i))
		netns.Veth(b, pods[i], "eth0", n.NS, fmt.Sprint("veth", i))
		pods[i].IP("addr add 2001:db8:6::2/64 dev eth0")
	}
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for i := range b.N {
		pod := pods[i%len(pods)]
		stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"pods","type":"natless-cni","socket":%q,"prevResult":{"cniVersion":"1.1.0",
			"interfaces":[{"name":"eth0","sandbox":%q}],"ips":[{"address":"2001:db8:6:%x::2/64","gateway":"2001:db8:6::1","interface":0}]}}`, d.Socket, pod.Path, i)
		cmd := n.Command(bin + "/natless-cni")
		cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", fmt.Sprint("CNI_CONTAINERID=new", i), "CNI_IFNAME=eth0", "CNI_NETNS="+pod.Path, "CNI_PATH="+bin)
		cmd.Stdin = strings.NewReader(stdin)
		begin := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		took = append(took, time.Since(begin))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}

// BenchmarkConnectionsOfASmallSet counts connections to one server in five
// seconds from a set of 64 ports, closed by the workload, with and without
// reuse of ports in TIME_WAIT.
func BenchmarkConnectionsOfASmallSet(b *testing.B) {
	for name, more := range map[string]string{"reuse": "", "kernel default": `, "tcpTwReuse": false`} {
		b.Run(name, func(b *testing.B) {
			n, bin := newNode(b), tools(b)
			d := daemon.Start(b, n.NS, sharedPool)
			p := n.pods(b, 1, ptp(b, d, `, "ports": 64`+more), bin)[0]
			l := listen(b, n.server, serverIPv4+":81")
			server := &http.Server{Handler: http.NotFoundHandler()}
			go server.Serve(l)
			b.Cleanup(func() { server.Close() })
			const window = 5 * time.Second
			for range b.N {
				made, refused := 0, 0
				for begin := time.Now(); time.Since(begin) < window; {
					if err := connectOnce(p); err != nil {
						refused++
						time.Sleep(10 * time.Millisecond)
					} else {
						made++
					}
				}
				b.ReportMetric(float64(made)/window.Seconds(), "conns/s")
				b.ReportMetric(float64(refused), "out-of-ports")
			}
		})
	}
}

func connectOnce(p *pod) (err error) {
	p.Do(func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp6", net.JoinHostPort(server6, "81"), time.Second); err != nil {
			return
		}
		// The workload closes first, so that TIME_WAIT is on its side.
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
	})
	if err != nil && !strings.Contains(err.Error(), syscall.EADDRNOTAVAIL.Error()) {
		return fmt.Errorf("dial: %w", err)
	}
	return err
}
