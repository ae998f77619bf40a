package etcd

import (
	"flag"
	"fmt"
	"net/url"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// serve runs an etcd.
func serve(t *testing.T) (endpoint string) {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = t.TempDir(), "error", []string{"/dev/null"}
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.ListenPeerUrls = []url.URL{any}, []url.URL{any}
	c.UnsafeNoFsync = true
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd is not ready")
	}
	return "http://" + e.Clients[0].Addr().String()
}

var (
	relays  = flag.Int("relays", 8, "of TestScaleRelays")
	blocks  = flag.Int("blocks", 64, "of TestScaleRelays")
	changes = flag.Int("changes", 20, "of TestScaleRelays")
)

// TestScaleRelays: relays follow changes in a real etcd.
func TestScaleRelays(t *testing.T) {
	endpoint := serve(t)
	conformance.ScaleRelays(t, func() fleet.Store {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: time.Minute, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return New(client, "/natless")
	}, *relays, *blocks, *changes)
}

// TestEtcd holds the store against a real etcd.
func TestEtcd(t *testing.T) {
	endpoint := serve(t)
	n := 0
	conformance.Run(t, func(t *testing.T) (a, b fleet.Store) {
		n++
		open := func() fleet.Store {
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: time.Minute, Logger: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			return New(client, fmt.Sprintf("/natless-%d", n))
		}
		return open(), open()
	})
}
