package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

const patience = 3 * time.Minute

// free is a port of loopback that nobody has at the moment.
func free(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// runs starts a program of the folder that NATLESS_KUBE names.
func runs(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(os.Getenv("NATLESS_KUBE"), name), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			tail := log.Bytes()
			t.Logf("%s:\n%s", name, tail[max(0, len(tail)-4000):])
		}
	})
}

// serve runs a kube-apiserver with an etcd of its own, and gives it the resources.
func serve(t *testing.T) *rest.Config {
	t.Helper()
	if os.Getenv("NATLESS_KUBE") == "" {
		t.Skip("NATLESS_KUBE: the folder with kube-apiserver and etcd")
	}
	dir := t.TempDir()
	client, peer, port := free(t), free(t), free(t)
	url := func(port int) string { return fmt.Sprint("http://127.0.0.1:", port) }
	runs(t, dir, "etcd", "--name", "one", "--data-dir", dir+"/etcd", "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", url(client), "--advertise-client-urls", url(client), "--listen-peer-urls", url(peer),
		"--initial-advertise-peer-urls", url(peer), "--initial-cluster", "one="+url(peer))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	write("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	write("tokens.csv", []byte("admin,admin,admin,system:masters\ncontroller,controller,1,natless-controllers\none,natless-host-one,2,\n"))
	runs(t, dir, "kube-apiserver", "--etcd-servers", url(client), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port),
		"--cert-dir", dir, "--token-auth-file", "tokens.csv", "--authorization-mode", "RBAC", "--service-account-issuer", "https://test",
		"--service-account-key-file", "sa.pub", "--service-account-signing-key-file", "sa.key", "--service-cluster-ip-range", "10.0.0.0/24")
	c := &rest.Config{Host: fmt.Sprint("https://127.0.0.1:", port), BearerToken: "admin", QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	apply(t, c)
	return c
}

// apply gives the server what is in crds, and waits until it serves that.
func apply(t *testing.T, c *rest.Config) {
	t.Helper()
	s, err := New(c, "default")
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the API server", func() error { return s.call(t.Context(), "GET", "/version", "", nil, new(any)) })
	files, err := filepath.Glob("crds/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var crd any
		if err := yaml.Unmarshal(b, &crd); err != nil {
			t.Fatal(err)
		}
		within(t, name, func() error {
			err := s.call(t.Context(), "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", asJSON, crd, new(any))
			if errors.Is(err, fleet.ErrExists) {
				return nil
			}
			return err
		})
	}
	for _, k := range []fleet.Kind{fleet.Pools, fleet.Blocks, fleet.Hosts} {
		within(t, string(k), func() error { _, _, err := s.List(t.Context(), k); return err })
	}
}

func within(t *testing.T, what string, do func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = do(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// empty deletes all objects.
func empty(t *testing.T, s *Store) {
	t.Helper()
	for _, k := range fleet.Kinds {
		all, _, err := s.List(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if err := s.Delete(t.Context(), o); err != nil && !errors.Is(err, fleet.ErrNotFound) {
				t.Fatal(err)
			}
		}
	}
}

func as(t *testing.T, c *rest.Config, token string) *Store {
	t.Helper()
	c = rest.CopyConfig(c)
	c.BearerToken = token
	s, err := New(c, "default")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestKubernetes holds the store against a real kube-apiserver, and that one's rules
// against what they must refuse.
func TestKubernetes(t *testing.T) {
	c := serve(t)
	conformance.Run(t, func(t *testing.T) (a, b fleet.Store) {
		one, other := as(t, c, "admin"), as(t, c, "admin")
		empty(t, one)
		return one, other
	})
	t.Run("Rules", func(t *testing.T) { rules(t, as(t, c, "admin")) })
	t.Run("Rights", func(t *testing.T) { rights(t, c) })
}

// rules are the resources' own: what is wrong is refused, whoever says it.
func rules(t *testing.T, s *Store) {
	empty(t, s)
	ctx := t.Context()
	pool := fleet.Pool{Name: "lent", Spec: fleet.PoolSpec{IPv4: []string{"198.51.100.0/24"}, BlockLength: 32}}
	made, err := fleet.Create(ctx, s, fleet.Pools, pool)
	if err != nil {
		t.Fatal(err)
	}
	invalid := func(what string, err error) {
		t.Helper()
		if refused := (*Refused)(nil); !errors.As(err, &refused) || refused.Status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := made
	other.Spec.BlockLength = 31
	_, err = fleet.Update(ctx, s, fleet.Pools, other)
	invalid("another length of blocks", err)
	other = pool
	other.Name, other.Spec.IPv4 = "wrong", []string{"2001:db8::/32"}
	_, err = fleet.Create(ctx, s, fleet.Pools, other)
	invalid("IPv6", err)
	b := fleet.Block{Name: "b", Spec: fleet.BlockSpec{Pool: "lent", IPv4: "198.51.100.1/32", Host: "one", Lease: 1, State: fleet.Lent}}
	b, err = fleet.Create(ctx, s, fleet.Blocks, b)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*fleet.BlockSpec){
		"another host": func(b *fleet.BlockSpec) { b.Host = "two" }, "another loan": func(b *fleet.BlockSpec) { b.Lease++ },
		"other addresses": func(b *fleet.BlockSpec) { b.IPv4 = "198.51.100.2/32" }, "no state": func(b *fleet.BlockSpec) { b.State = "x" },
	} {
		next := b
		change(&next.Spec)
		_, err = fleet.Update(ctx, s, fleet.Blocks, next)
		invalid(what, err)
	}
}

// rights are those of deploy/rbac.yaml: the controller and an agent can do their work, and
// nothing else.
func rights(t *testing.T, c *rest.Config) {
	admin := as(t, c, "admin")
	empty(t, admin)
	b, err := os.ReadFile("rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range bytes.Split(b, []byte("\n---\n")) {
		var o struct {
			Kind string `json:"kind"`
		}
		raw, err := yaml.YAMLToJSON(bytes.ReplaceAll(doc, []byte("HOST"), []byte("one")))
		if err == nil {
			err = json.Unmarshal(raw, &o)
		}
		path := map[string]string{"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "Role": "namespaces/default/roles",
			"RoleBinding": "namespaces/default/rolebindings"}[o.Kind]
		if err == nil {
			err = admin.call(t.Context(), "POST", "/apis/rbac.authorization.k8s.io/v1/"+path, asJSON, json.RawMessage(raw), new(any))
		}
		if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
	}
	for _, name := range []string{"one", "two"} {
		if _, err := fleet.Create(t.Context(), admin, fleet.Hosts, fleet.Host{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	controller, one := as(t, c, "controller"), as(t, c, "one")
	within(t, "the rights", func() error { _, err := one.Get(t.Context(), fleet.Hosts, "one"); return err })
	host := func(s *Store, name string) fleet.Host {
		h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](t.Context(), admin, fleet.Hosts, name)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	block := fleet.Block{Name: "b", Spec: fleet.BlockSpec{Pool: "lent", IPv4: "198.51.100.1/32", Host: "one", Lease: 1, State: fleet.Lent}}
	list := func(s *Store, k fleet.Kind) error { _, _, err := s.List(t.Context(), k); return err }
	watch := func(s *Store, name string) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := s.Watch(ctx, fleet.Hosts, name, 0)
		return err
	}
	create := func(s *Store) error { _, err := fleet.Create(t.Context(), s, fleet.Blocks, block); return err }
	spec := func(s *Store, name string) error {
		_, err := fleet.Update(t.Context(), s, fleet.Hosts, host(s, name))
		return err
	}
	status := func(s *Store, name string) error {
		_, err := fleet.UpdateStatus(t.Context(), s, fleet.Hosts, host(s, name))
		return err
	}
	secrets := func(s *Store) error {
		return s.call(t.Context(), "GET", "/api/v1/namespaces/default/secrets", "", nil, new(any))
	}
	for _, c := range []struct {
		what string
		may  bool
		err  error
	}{
		{"the controller lists pools", true, list(controller, fleet.Pools)}, {"the controller lists hosts", true, list(controller, fleet.Hosts)},
		{"the controller lends", true, create(controller)}, {"the controller tells a host", true, spec(controller, "one")},
		{"the controller says what a host holds", false, status(controller, "one")}, {"the controller reads secrets", false, secrets(controller)},
		{"a host says what it holds", true, status(one, "one")}, {"a host watches itself", true, watch(one, "one")},
		{"a host watches another", false, watch(one, "two")}, {"a host watches all", false, watch(one, "")},
		{"a host says what another holds", false, status(one, "two")}, {"a host tells itself", false, spec(one, "one")},
		{"a host lends", false, create(one)}, {"a host lists blocks", false, list(one, fleet.Blocks)}, {"a host reads secrets", false, secrets(one)},
	} {
		refused := (*Refused)(nil)
		if forbidden := errors.As(c.err, &refused) && refused.Status == http.StatusForbidden; c.may && c.err != nil || !c.may && !forbidden {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
}
