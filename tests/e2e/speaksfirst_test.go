//go:build linux

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// talk is a connection on which the server speaks, and the client never does: it
// is the server's packets that find nobody who translates.
type talk struct {
	heard         atomic.Int64 // lines
	server, ended chan error   // what an end met
}

func (n *topology) talk() *talk {
	n.t.Helper()
	l := listen(n.t, n.server)
	var conn net.Conn
	var err error
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n.w1.Do(func() { conn, err = net.Dial("tcp", net.JoinHostPort(serverv6, port)) })
	if err != nil {
		n.t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close(); peer.Close() })
	k := &talk{server: make(chan error, 1), ended: make(chan error, 1)}
	go func() {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintln(peer, "line", i); err != nil {
				k.server <- err
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	go func() {
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			k.heard.Add(1)
		}
		k.ended <- lines.Err()
	}()
	n.hears(k, "before")
	return k
}

// hears waits for lines, and fails the test when an end is told that there is
// no connection any more.
func (n *topology) hears(k *talk, when string) {
	n.t.Helper()
	from := k.heard.Load()
	within(n.t, 15*time.Second, "lines "+when, func() bool {
		select {
		case err := <-k.server:
			n.t.Fatalf("%s: the server: %v", when, err)
		case err := <-k.ended:
			n.t.Fatalf("%s: the workload: %v", when, err)
		default:
		}
		return k.heard.Load() > from+5
	})
}

// TestServerSpeaksFirst: while nobody translates, the host does not answer what
// is for the workloads' ports of its address: no connection is reset, and those
// that the kernel translates do not even wait. So it is when the daemon is
// killed, and when it ends to be followed by another, also where nobody keeps its
// device meanwhile, as in a DaemonSet.
func TestServerSpeaksFirst(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it runs both")
	netns.Require(t, netns.Root, "nft")
	for _, mode := range []string{"off", "auto"} {
		if mode == "auto" && daemon.FastPath() == "off" {
			continue
		}
		t.Run("fast_path="+mode, func(t *testing.T) {
			n := newNamespaces(t)
			n.host.Run("sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 32767")
			before := n.state()
			n.daemon = daemon.New(t, n.host, hostPoolConfig+"fast_path: "+mode+"\n")
			n.daemon.Flags = []string{"--handover"}
			n.daemon.Start()
			n.put("one", workload1, n.w1, api.Request{HostInterface: "w1"})
			accelerated := mode == "auto"
			k := n.talk()
			if accelerated {
				within(t, 10*time.Second, "the kernel translates", func() bool { return strings.Contains(n.natless("status"), "1 interface of workloads") })
			}
			for name, end := range map[string]func(){"SIGTERM": n.daemon.Stop, "SIGKILL": n.daemon.Kill} {
				end()
				n.daemon.Release() // as where there is no service manager
				within(t, 10*time.Second, "the device is gone", func() bool { return !strings.Contains(n.host.IP("-o link"), "natless0") })
				if accelerated {
					n.hears(k, "after "+name+", while nobody is there")
				}
				time.Sleep(500 * time.Millisecond) // the server sends again and again
				n.daemon.Start()
				n.hears(k, "after "+name+" and a start")
			}
			n.daemon.Stop()
			n.daemon.Release()
			n.host.Run(daemon.Build(t)+"/natlessd", "--config", n.daemon.Config, "--cleanup")
			if diff := cmp.Diff(lines(before), lines(n.state())); diff != "" {
				t.Errorf("left behind after --cleanup:\n%s", diff)
			}
		})
	}
}
