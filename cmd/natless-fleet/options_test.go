package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("authority", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// sign makes NAME.pem and NAME.key, of the authority or its own.
func (a *authority) sign(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.next++
	c.SerialNumber, c.Subject = big.NewInt(a.next), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	by, with := c, key
	if a.key != nil {
		by, with = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, with)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	c, err = x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func (a *authority) client(name string) {
	a.sign(name, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// secured runs an etcd that asks for certificates, in which users may do what fleet.md
// says that they should.
func secured(t *testing.T, a *authority) (endpoint string) {
	t.Helper()
	a.sign("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs, c.UnsafeNoFsync = t.TempDir(), "error", []string{"/dev/null"}, true
	c.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.ListenClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	c.ClientTLSInfo = transport.TLSInfo{CertFile: a.file("server.pem"), KeyFile: a.file("server.key"), TrustedCAFile: a.file("authority.pem"), ClientCertAuth: true}
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
	endpoint = "https://" + e.Clients[0].Addr().String()
	for _, name := range []string{"root", "controller", "one", "east"} {
		a.client(name)
	}
	tls, err := (&transport.TLSInfo{CertFile: a.file("root.pem"), KeyFile: a.file("root.key"), TrustedCAFile: a.file("authority.pem")}).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: tls, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	grant(t, root, "root", "root", "", "")
	grant(t, root, "controller", "fleet", "/natless/", clientv3.GetPrefixRangeEnd("/natless/"))
	grant(t, root, "one", "host-one", "/natless/hosts/one", "")
	grant(t, root, "east", "relay-east", "/natless/relays/east", "")
	if _, err := root.RoleGrantPermission(t.Context(), "relay-east", "/natless/blocks/", clientv3.GetPrefixRangeEnd("/natless/blocks/"), clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	if _, err := root.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	return endpoint
}

// grant makes a user, who is known by the certificate, and a role.
func grant(t *testing.T, root *clientv3.Client, user, role, key, end string) {
	t.Helper()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	must(root.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true}))
	must(root.RoleAdd(ctx, role))
	if key != "" {
		must(root.RoleGrantPermission(ctx, role, key, end, clientv3.PermissionType(clientv3.PermReadWrite)))
	}
	must(root.UserGrantRole(ctx, user, role))
}

// store is what the command's flags open.
func store(t *testing.T, flags ...string) (fleet.Store, error) {
	t.Helper()
	var o options
	f := pflag.NewFlagSet("natless-fleet", pflag.ContinueOnError)
	o.flags(f)
	if err := f.Parse(flags); err != nil {
		t.Fatal(err)
	}
	return o.open()
}

// TestEtcdByTLS: with the flags that fleet.md names each does what it must with a real
// etcd, and nothing else; without a certificate, or with another authority's, nobody does
// anything.
func TestEtcdByTLS(t *testing.T) {
	a := newAuthority(t)
	endpoint := secured(t, a)
	as := func(name string) fleet.Store {
		t.Helper()
		s, err := store(t, "--etcd", endpoint, "--etcd-ca", a.file("authority.pem"), "--etcd-cert", a.file(name+".pem"), "--etcd-key", a.file(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	controller, agent := as("controller"), as("one")
	for _, host := range []string{"one", "two"} {
		if _, err := controller.Create(t.Context(), fleet.Object{Kind: fleet.Hosts, Name: host, Spec: json.RawMessage(`{}`)}); err != nil {
			t.Fatalf("the controller: %v", err)
		}
	}
	own, err := agent.Get(t.Context(), fleet.Hosts, "one")
	if err != nil {
		t.Fatal(err)
	}
	seen, err := agent.Watch(t.Context(), fleet.Hosts, "one", 0)
	if err != nil {
		t.Fatal(err)
	}
	own.Status = json.RawMessage(`{}`)
	if _, err := agent.UpdateStatus(t.Context(), own); err != nil {
		t.Errorf("the agent cannot write its own status: %v", err)
	}
	if e := <-seen; e.Object.Name != "one" {
		t.Errorf("the agent sees %+v", e)
	}
	refused(t, "an agent", agent, "lists blocks")
	east := as("east")
	relay := fleet.RelayAgent{Name: "east", Store: east, Natlessd: new(conformance.Relayd), Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	if err := relay.Step(t.Context(), true); err != nil {
		t.Errorf("a relay's agent cannot do its work: %v", err)
	}
	if _, err := east.Watch(t.Context(), fleet.Blocks, "", 0); err != nil {
		t.Errorf("a relay's agent cannot watch blocks: %v", err)
	}
	refused(t, "a relay's agent", east, "makes another relay")
	if all, _, err := controller.List(t.Context(), fleet.Hosts); err != nil || len(all) != 2 {
		t.Errorf("%d hosts, %v", len(all), err)
	}
	other := newAuthority(t)
	other.client("controller")
	for what, flags := range map[string][]string{
		"nobody's certificate": {"--etcd-ca", a.file("authority.pem")},
		"another authority's":  {"--etcd-ca", a.file("authority.pem"), "--etcd-cert", other.file("controller.pem"), "--etcd-key", other.file("controller.key")},
		"who trusts another":   {"--etcd-ca", other.file("authority.pem"), "--etcd-cert", a.file("controller.pem"), "--etcd-key", a.file("controller.key")},
		"no flags at all":      nil,
	} {
		s, err := store(t, append([]string{"--etcd", endpoint}, flags...)...)
		if err != nil {
			continue // refused at once is refused
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, _, err := s.List(ctx, fleet.Hosts); err == nil {
			t.Errorf("%s: hosts are listed", what)
		}
		cancel()
	}
}

// refused: all that an agent has no business with.
// only is what this one has none with, and the other has.
func refused(t *testing.T, who string, s fleet.Store, only string) {
	t.Helper()
	for what, try := range map[string]func(context.Context) error{
		"makes another relay": func(ctx context.Context) error {
			_, err := s.Create(ctx, fleet.Object{Kind: fleet.Relays, Name: "west", Spec: json.RawMessage(`{}`)})
			return err
		},
		"reads another host": func(ctx context.Context) error { _, err := s.Get(ctx, fleet.Hosts, "two"); return err },
		"lists hosts":        func(ctx context.Context) error { _, _, err := s.List(ctx, fleet.Hosts); return err },
		"lists blocks":       func(ctx context.Context) error { _, _, err := s.List(ctx, fleet.Blocks); return err },
		"makes a block": func(ctx context.Context) error {
			_, err := s.Create(ctx, fleet.Object{Kind: fleet.Blocks, Name: "198.51.100.0-32", Spec: json.RawMessage(`{}`)})
			return err
		},
		"makes a pool": func(ctx context.Context) error {
			_, err := s.Create(ctx, fleet.Object{Kind: fleet.Pools, Name: "mine", Spec: json.RawMessage(`{}`)})
			return err
		},
		"makes another host": func(ctx context.Context) error {
			_, err := s.Create(ctx, fleet.Object{Kind: fleet.Hosts, Name: "three", Spec: json.RawMessage(`{}`)})
			return err
		},
	} {
		if what == "lists blocks" && what != only {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := try(ctx); err == nil {
			t.Errorf("%s %s", who, what)
		}
		cancel()
	}
}
