package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/natless-fleet/etcd"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/cmd/natless-fleet/kube"
	"github.com/natless/natless/cmd/natless-fleet/kube/apiserver"
)

// people are who ask a store, with the flags that name it.
type people struct {
	t     *testing.T
	s     fleet.Store
	flags []string
}

func ofEtcd(t *testing.T) people {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs, c.UnsafeNoFsync = t.TempDir(), "error", []string{"/dev/null"}, true
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.ListenPeerUrls = []url.URL{any}, []url.URL{any}
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	endpoint := "http://" + e.Clients[0].Addr().String()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return people{t, etcd.New(client, "/natless"), []string{"--etcd", endpoint}}
}

func ofKubernetes(t *testing.T) people {
	t.Helper()
	c := apiserver.Serve(t)
	s, err := kube.New(c, "default")
	if err != nil {
		t.Fatal(err)
	}
	return people{t, s, []string{"--kubeconfig", apiserver.Kubeconfig(t, c, "admin"), "--namespace", "default"}}
}

// run gives what a command writes, and with which status it ends.
func run(ctx context.Context, args ...string) (out string, status int, said string) {
	var o options
	var b bytes.Buffer
	root := newRoot(&o)
	root.SetOut(&b)
	root.SetErr(&b)
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return b.String(), o.begun.Status(err), err.Error()
	}
	return b.String(), 0, ""
}

func (p people) run(args ...string) (out string, status int, said string) {
	return run(p.t.Context(), append(args, p.flags...)...)
}

// small is a fleet: one host with a fabric, one without, that wants more than there is, and
// one that has said nothing; a relay that is behind, for which a block waits.
func (p people) small() {
	p.t.Helper()
	must := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	ctx := p.t.Context()
	pool, err := fleet.Get[fleet.PoolSpec, fleet.PoolStatus](ctx, p.s, fleet.Pools, "lent")
	must(err)
	pool.Status = fleet.PoolStatus{Blocks: 8, Lent: 3, Wanting: 1, Conditions: []fleet.Condition{{Type: fleet.Lending, Status: "True", Reason: "Valid",
		LastTransitionTime: "2026-01-02T15:04:05Z"}}}
	_, err = fleet.UpdateStatus(ctx, p.s, fleet.Pools, pool)
	must(err)
	lent := func(n int, host string, state fleet.BlockState, ipv6 string) {
		ipv4 := fmt.Sprintf("198.51.100.%d/32", n)
		_, err := fleet.Create(ctx, p.s, fleet.Blocks, fleet.Block{Name: fleet.NameOf(ipv4),
			Spec: fleet.BlockSpec{Pool: "lent", IPv4: ipv4, Host: host, Lease: uint64(10 + n), IPv6: ipv6, State: state}})
		must(err)
	}
	lent(10, "edge1", fleet.Lent, "2001:db8:0:7::c633:640a/128")
	lent(9, "web1", fleet.Lent, "")
	lent(11, "edge1", fleet.Offered, "2001:db8:0:7::c633:640b/128")
	host := func(h fleet.Host) {
		made, err := fleet.Create(ctx, p.s, fleet.Hosts, h)
		must(err)
		made.Status = h.Status
		if h.Status.Pools != nil {
			_, err = fleet.UpdateStatus(ctx, p.s, fleet.Hosts, made)
			must(err)
		}
	}
	host(fleet.Host{Name: "edge1", Spec: fleet.HostSpec{Fabric: "2001:db8:0:7::/96", Epoch: 4,
		Blocks: []fleet.HostBlock{{IPv4: "198.51.100.10/32", Pool: "lent", Lease: 20, State: fleet.HostLent}}},
		Status: fleet.HostStatus{Epoch: 4, Held: []fleet.Held{{IPv4: "198.51.100.10/32", Pool: "lent", Lease: 20, Used: true}},
			Pools: []fleet.HostPool{{Pool: "lent", PerAddress: 63, Headroom: 50}}}})
	host(fleet.Host{Name: "web1", Spec: fleet.HostSpec{Epoch: 2, Blocks: []fleet.HostBlock{{IPv4: "198.51.100.9/32", Pool: "lent", Lease: 19, State: fleet.HostLent}}},
		Status: fleet.HostStatus{Epoch: 1, Pools: []fleet.HostPool{{Pool: "lent", PerAddress: 63, Wanted: 32}}, Error: "natlessd is away"}})
	host(fleet.Host{Name: "new1"})
	relay, err := fleet.Create(ctx, p.s, fleet.Relays, fleet.Relay{Name: "east"})
	must(err)
	relay.Status = fleet.RelayStatus{Epoch: 1, Rules: 1, State: "serves", IPv4: []string{"198.51.100.0/24"}, Renewed: "2026-01-02T15:04:05Z"}
	_, err = fleet.UpdateStatus(ctx, p.s, fleet.Relays, relay)
	must(err)
}

// TestPeople: each command, with each store: of a fleet in which there is nothing, of a small
// one, and with what is wrong.
func TestPeople(t *testing.T) {
	t.Run("etcd", func(t *testing.T) { ofEtcd(t).commands() })
	t.Run("Kubernetes", func(t *testing.T) { ofKubernetes(t).commands() })
}

func (p people) commands() {
	p.t.Setenv("LC_ALL", "C.UTF-8")
	for words, want := range map[string]string{
		"pools": "there is no pool: natless-fleet pool NAME PREFIX makes one\n", "hosts": "there is no host: natless-fleet agent makes it, on each\n",
		"blocks": "no block is lent\n", "relays": "there is no relay: natless-fleet relay makes it, on each\n", "events": "nothing has happened in the last hour\n",
		"status":   "there is no pool: natless-fleet pool NAME PREFIX makes one\n\nthere is no host: natless-fleet agent makes it, on each\n",
		"headroom": "there is no pool: natless-fleet pool NAME PREFIX makes one\n\nno host has said for how much it has room\n",
	} {
		if got, status, said := p.run(words); got != want || status != 0 {
			p.t.Errorf("of nothing, %s: status %d, %s\n%s", words, status, said, got)
		}
	}
	if got, status, said := p.run("pool", "lent", "198.51.100.8/29"); got != "pool lent has 198.51.100.8/29, in blocks of /32\n" || status != 0 {
		p.t.Fatalf("pool: status %d, %s\n%s", status, said, got)
	}
	if got, _, _ := p.run("pools"); !strings.Contains(got, "no controller has seen it") {
		p.t.Errorf("pools, without a controller:\n%s", got)
	}
	p.small()
	p.shows()
	p.errs()
	p.operates()
}

// shows: what is listed, to the letter where no store has numbers of its own.
func (p people) shows() {
	for words, want := range map[string]string{
		"pools": `
POOL  BLOCKS  LENT  FREE  HOSTS  HEADROOM  WANTING  STATE  ADDRESSES
lent       8     3     5      2        50        1  lends  198.51.100.8/29
`,
		"hosts": `
HOST   LENT  HELD  IN USE  HEADROOM  WANTS  FABRIC             STATE
edge1     1     1       1        50      0  2001:db8:0:7::/96  borrows
new1      0     0       0         0      0  -                  its agent has never said anything
web1      1     0       0         0     32  -                  borrows, goes by epoch 1 of 2: natlessd is away
`,
		"hosts --not-ready --pool lent": `
HOST  LENT  HELD  IN USE  HEADROOM  WANTS  FABRIC  STATE
web1     1     0       0         0     32  -       borrows, goes by epoch 1 of 2: natlessd is away
`,
		"blocks": `
BLOCK             POOL  HOST   LEASE  FABRIC                       STATE
198.51.100.9/32   lent  web1      19  -                            Lent
198.51.100.10/32  lent  edge1     20  2001:db8:0:7::c633:640a/128  Lent
198.51.100.11/32  lent  edge1     21  2001:db8:0:7::c633:640b/128  Offered
`,
		"blocks --host edge1 --state lent": `
BLOCK             POOL  HOST   LEASE  FABRIC                       STATE
198.51.100.10/32  lent  edge1     20  2001:db8:0:7::c633:640a/128  Lent
`,
		"blocks --address 2001:db8:0:7::c633:640b": `
BLOCK             POOL  HOST   LEASE  FABRIC                       STATE
198.51.100.11/32  lent  edge1     21  2001:db8:0:7::c633:640b/128  Offered
`,
		"blocks --address 2001:db8:0:8::c633:640b": "\nno block is like that: natless-fleet blocks lists all\n",
		"relays": `
RELAY  RULES  EPOCH  LAST HEARD            SERVES           STATE
east       1      1  2026-01-02T15:04:05Z  198.51.100.0/24  serves
`,
		"headroom -n 1": `
POOL  BLOCKS  LENT  FREE  HOSTS  HEADROOM  WANTING  STATE  ADDRESSES
lent       8     3     5      2        50        1  lends  198.51.100.8/29

HOST  POOL  HEADROOM  WANTS  BLOCKS  STATE
web1  lent         0     32       0  borrows, goes by epoch 1 of 2: natlessd is away
and 1 host with as much room or more: -n 0 lists all
`,
		"whois 198.51.100.10:443 --ask=":             "\n198.51.100.10 is in block 198.51.100.10/32 of pool lent, lent to host edge1 (lease 20), which holds it\n",
		"whois [2001:db8:0:7::c633:640a]:443 --ask=": "\n2001:db8:0:7::c633:640a is where relays lead 198.51.100.10, which is in block 198.51.100.10/32 of pool lent, lent to host edge1 (lease 20), which holds it\n",
		"whois 198.51.100.9 --ask=":                  "\n198.51.100.9 is in block 198.51.100.9/32 of pool lent, lent to host web1 (lease 19), which does not hold it yet\n",
		"whois 198.51.100.11 --ask=":                 "\n198.51.100.11 is in block 198.51.100.11/32 of pool lent, lent to host edge1 (lease 21), which gets it when all relays have it\n",
	} {
		if got, status, said := p.run(strings.Fields(words)...); got != want[1:] || status != 0 {
			p.t.Errorf("%s: status %d, %s\n%swant%s", words, status, said, got, want)
		}
	}
	if got, _, _ := p.run("status"); !strings.Contains(got, "block 198.51.100.11/32 of edge1 is Offered, and waits for east\n") {
		p.t.Errorf("status:\n%s", got)
	}
	for _, words := range []string{"status", "pools", "pools lent", "hosts", "hosts edge1", "blocks", "blocks --state Ended", "relays", "headroom", "events", "whois 198.51.100.10 --ask="} {
		if got, status, said := p.run(append(strings.Fields(words), "-o", "json")...); status != 0 || !json.Valid([]byte(got)) || strings.Contains(got, "null") {
			p.t.Errorf("%s -o json: status %d, %s\n%s", words, status, said, got)
		}
	}
}

// errs: what is wrong is said in words, and with the status that programs go by.
func (p people) errs() {
	for words, want := range map[string]struct {
		status int
		says   string
	}{
		"whois 198.51.100.7:70000":                    {cli.Wrong, "there is no port 70000: ports end at 65535"},
		"whois 198.51.100":                            {cli.Wrong, "is not an address"},
		"whois fe80::1%eth0":                          {cli.Wrong, "is not an address"},
		"whois 198.51.100.7 --at -oX":                 {cli.Wrong, "--at"},
		"whois 198.51.100.7 --at 1;reboot":            {cli.Wrong, "--at"},
		"whois 198.51.100.7:0 --ask=":                 {cli.Failed, "no host has 198.51.100.7"},
		"whois 198.51.100.12 --ask=":                  {cli.Failed, "no host has 198.51.100.12"},
		"whois 2001:db8:0:7::1 --ask=":                {cli.Failed, "no host has"},
		"whois 198.51.100.9 --host nowhere":           {cli.Failed, "there is no host nowhere: natless-fleet hosts lists what there is"},
		"hosts nowhere":                               {cli.Failed, "there is no host nowhere"},
		"blocks --host nowhere":                       {cli.Failed, "there is no host nowhere"},
		"blocks --pool nowhere":                       {cli.Failed, "there is no pool nowhere"},
		"blocks --address 198.51.100.256":             {cli.Wrong, "is no address"},
		"blocks --state Lost":                         {cli.Wrong, "is none of [Lent Reserved Offered Ended]"},
		"headroom --pool nowhere":                     {cli.Failed, "there is no pool nowhere"},
		"drain nowhere":                               {cli.Failed, "there is no host nowhere"},
		"revoke nowhere 198.51.100.8/32":              {cli.Failed, "there is no host nowhere"},
		"revoke web1 198.51.100.8":                    {cli.Wrong, "is not a block"},
		"fence nowhere --it-is-off":                   {cli.Failed, "there is no host nowhere"},
		"fence --relay nowhere --it-is-off":           {cli.Failed, "there is no relay nowhere"},
		"fence web1":                                  {cli.Wrong, "--it-is-off"},
		"follow nowhere":                              {cli.Failed, "there is no relay nowhere"},
		"follow":                                      {cli.Wrong, "which relays?"},
		"delete block 198.51.100.77/32":               {cli.Failed, "there is no block 198.51.100.77/32"},
		"delete everything now":                       {cli.Wrong, "write pool, host, relay or block"},
		"pool lent 198.51.100.9/24":                   {cli.Wrong, "198.51.100.9/24"},
		"pool lent 198.51.100.8/29 --block-length 31": {cli.Failed, "another length is another pool"},
		"pool lent 127.0.0.0/24":                      {cli.Wrong, "that no host may have"},
		"pool lent 198.51.100.0/28 198.51.100.8/29":   {cli.Wrong, "overlap"},
		"host web1 --fabric ff00::/96":                {cli.Wrong, "that a host may have"},
		"status --timeout -1s":                        {cli.Wrong, "nothing answers within that"},
		"pool a/b 198.51.100.8/29":                    {cli.Wrong, "is no name of a pool"},
		"host A --fabric 2001:db8::/96":               {cli.Wrong, "is no name of a host"},
		"host web1 --fabric 2001:db8::/64":            {cli.Wrong, "is not an IPv6 prefix of 96 bits"},
		"host web1":                                   {cli.Wrong, "which prefix leads to the host?"},
		"statsu":                                      {cli.Wrong, "is it status?"},
		"status -o xml":                               {cli.Wrong, "is neither text nor json"},
		"status now":                                  {cli.Wrong, "takes no arguments"},
		"whois":                                       {cli.Wrong, "ADDRESS[:PORT] is missing"},
	} {
		if got, status, said := p.run(strings.Fields(words)...); status != want.status || !strings.Contains(said, want.says) {
			p.t.Errorf("%s: status %d, want %d; %q, want %q\n%s", words, status, want.status, said, want.says, got)
		}
	}
}

// operates: an operator's word is in the store, and what comes of it is said.
func (p people) operates() {
	for _, c := range []struct{ words, says string }{
		{"drain web1", "web1 drains: natless-fleet hosts web1 says when all is given back\n"},
		{"hosts web1", "drained, goes by epoch 1 of 2"},
		{"drain web1 --end", "web1 is lent to again\n"},
		{"fence web1 --it-is-off", "web1 is fenced: what it had is lent to others\n"},
		{"hosts --not-ready", "fenced, goes by epoch 1 of 2"},
		{"fence --relay east --it-is-off", "east is fenced: nobody waits for it\n"},
		{"relays", "fenced"},
		{"revoke edge1 198.51.100.10/32", "edge1 is to give up 198.51.100.10/32\n"},
		{"revoke edge1 198.51.100.10/32 --end", "edge1 may be lent again 198.51.100.10/32\n"},
		{"follow east", "east refuses nothing\n"},
		{"host web2 --fabric 2001:db8:0:9::/96", "relays lead new blocks of host web2 to 2001:db8:0:9::/96\n"},
		{"whois 2001:db8:0:9::c633:6408 --ask=", "leads to host web2 (2001:db8:0:9::/96), which has no block with 198.51.100.8"},
		{"pool lent 198.51.100.8/29 203.0.113.0/30", "pool lent has 198.51.100.8/29, 203.0.113.0/30, in blocks of /32\n"},
		{"delete host new1", "new1 goes when nothing hangs on it any more\n"},
	} {
		if got, _, said := p.run(strings.Fields(c.words)...); !strings.Contains(got, c.says) {
			p.t.Errorf("%s: %q\n%s", c.words, said, got)
		}
	}
	if _, err := p.s.Get(p.t.Context(), fleet.Hosts, "new1"); !errors.Is(err, fleet.ErrNotFound) {
		p.t.Errorf("new1 is there: %v", err)
	}
}

// TestStoreAway: a store that does not answer is waited for no longer than is said, with the
// reason; one that refuses says whom it knew; and where the store is this host's units know.
func TestStoreAway(t *testing.T) {
	began := time.Now()
	_, status, said := run(t.Context(), "status", "--etcd", "http://127.0.0.1:1", "--timeout", "1s")
	if status != cli.Failed || !strings.Contains(said, "etcd at http://127.0.0.1:1 does not answer within 1s: ") || !strings.Contains(said, "connection refused") ||
		time.Since(began) > time.Minute {
		t.Errorf("after %v: status %d, %s", time.Since(began), status, said)
	}
	if _, status, said := run(t.Context(), "status"); status != cli.Wrong || !strings.Contains(said, "where is the fleet's store?") {
		t.Errorf("of no store: status %d, %s", status, said)
	}
	p := ofEtcd(t)
	t.Setenv(environment, strings.Join(p.flags, " ")+" --name host1")
	if out, status, said := run(t.Context(), "hosts"); status != 0 || !strings.Contains(out, "there is no host") {
		t.Errorf("by the environment: status %d, %s", status, said)
	}
	t.Setenv(environment, "")
	before := envFile
	defer func() { envFile = before }()
	envFile = filepath.Join(t.TempDir(), "fleet.env")
	if err := os.WriteFile(envFile, []byte("# where it is\nNATLESS_FLEET="+strings.Join(p.flags, " ")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, status, said := run(t.Context(), "hosts"); status != 0 || !strings.Contains(out, "there is no host") {
		t.Errorf("by the file of the units: status %d, %s", status, said)
	}
}

// TestForbidden: who may not ask is told by what the store knows him, and what he needs.
func TestForbidden(t *testing.T) {
	a := newAuthority(t)
	endpoint := secured(t, a)
	flags := []string{"--etcd", endpoint, "--etcd-ca", a.file("authority.pem"), "--etcd-cert", a.file("one.pem"), "--etcd-key", a.file("one.key")}
	if _, status, said := run(t.Context(), append([]string{"hosts"}, flags...)...); status != cli.Failed || !strings.Contains(said, "permission denied") ||
		!strings.Contains(said, "needs a role for /natless") {
		t.Errorf("an agent's certificate: status %d, %s", status, said)
	}
	t.Run("Kubernetes", func(t *testing.T) {
		c := apiserver.Serve(t)
		if _, status, said := run(t.Context(), "hosts", "--kubeconfig", apiserver.Kubeconfig(t, c, "one")); status != cli.Failed ||
			!strings.Contains(said, `User "natless-host-one" cannot list resource "natlesshosts"`) {
			t.Errorf("an agent's token: status %d, %s", status, said)
		}
	})
	other := newAuthority(t)
	flags[3] = other.file("authority.pem")
	if _, status, said := run(t.Context(), append([]string{"hosts", "--timeout", "2s"}, flags...)...); status != cli.Failed || !strings.Contains(said, "x509: ") {
		t.Errorf("another authority: status %d, %s", status, said)
	}
}

// counting is a store that says how it is asked.
type counting struct {
	fleet.Store
	gets, lists atomic.Int64
}

func (c *counting) Get(ctx context.Context, k fleet.Kind, name string) (fleet.Object, error) {
	c.gets.Add(1)
	return c.Store.Get(ctx, k, name)
}

func (c *counting) List(ctx context.Context, k fleet.Kind) ([]fleet.Object, uint64, error) {
	c.lists.Add(1)
	return c.Store.List(ctx, k)
}

// TestManyHosts: of more than a page of hosts all are listed, the status is one for people, and
// whose an address is costs a few reads, however many hosts and blocks there are.
func TestManyHosts(t *testing.T) {
	t.Run("etcd", func(t *testing.T) { ofEtcd(t).many(t) })
	t.Run("Kubernetes", func(t *testing.T) { ofKubernetes(t).many(t) })
}

func (p people) many(t *testing.T) {
	const hosts = 2500
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := w; i < hosts; i += 16 {
				h := fleet.Host{Name: fmt.Sprintf("host-%04d", i), Spec: fleet.HostSpec{Fabric: fmt.Sprintf("2001:db8:0:%x::/96", i), Epoch: 1}}
				ipv4 := fmt.Sprintf("10.64.%d.%d/32", i/256, i%256)
				_, err := fleet.Create(t.Context(), p.s, fleet.Hosts, h)
				_, err2 := fleet.Create(t.Context(), p.s, fleet.Blocks, fleet.Block{Name: fleet.NameOf(ipv4), Spec: fleet.BlockSpec{Pool: "lent", IPv4: ipv4, Host: h.Name,
					Lease: 1, State: fleet.Lent, IPv6: fmt.Sprintf("2001:db8:0:%x::a40:%x/128", i, i)}})
				if err := errors.Join(err, err2); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	for words, lines := range map[string]int{"hosts": hosts + 1, "blocks": hosts + 1, "status": 1 + 1 + 1 + most + 1, "blocks --host host-2499": 2} {
		began := time.Now()
		if out, status, said := p.run(strings.Fields(words)...); strings.Count(out, "\n") != lines || status != 0 {
			t.Errorf("%s: %d lines, want %d; status %d, %s", words, strings.Count(out, "\n"), lines, status, said)
		}
		t.Logf("%s: %v", words, time.Since(began).Round(time.Millisecond))
	}
	for _, a := range []string{"10.64.9.195", "2001:db8:0:9c3::a40:9c3"} {
		c := &counting{Store: p.s}
		is, err := locate(t.Context(), c, netip.MustParseAddr(a))
		if err != nil || is.Host != "host-2499" || is.Address.String() != "10.64.9.195" || c.lists.Load() > 0 || c.gets.Load() > 20 {
			t.Errorf("%s: %+v, %v, by %d reads and %d lists", a, is, err, c.gets.Load(), c.lists.Load())
		}
	}
}
