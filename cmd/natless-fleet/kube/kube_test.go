package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/cmd/natless-fleet/kube/apiserver"
)

const patience = 3 * time.Minute

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
			o.Finalizers = nil
			if _, err := s.Update(t.Context(), o); err != nil && !errors.Is(err, fleet.ErrNotFound) {
				t.Fatal(err)
			}
			now, err := s.Get(t.Context(), k, o.Name)
			if err == nil {
				err = s.Delete(t.Context(), now)
			}
			if err != nil && !errors.Is(err, fleet.ErrNotFound) {
				t.Fatal(err)
			}
		}
	}
}

func as(t *testing.T, c *rest.Config, token string) *Store {
	t.Helper()
	c = rest.CopyConfig(c)
	c.BearerToken = token
	s, err := New(c, "kube-system") // as the program does of itself
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var (
	relays  = flag.Int("relays", 8, "of TestScaleRelays")
	blocks  = flag.Int("blocks", 64, "of TestScaleRelays")
	changes = flag.Int("changes", 20, "of TestScaleRelays")
)

// TestScaleRelays: relays follow changes in a real kube-apiserver.
func TestScaleRelays(t *testing.T) {
	c := apiserver.Serve(t)
	conformance.ScaleRelays(t, func() fleet.Store { return as(t, c, "admin") }, *relays, *blocks, *changes)
}

// TestKubernetes holds the store against a real kube-apiserver, and that one's rules
// against what they must refuse.
func TestKubernetes(t *testing.T) {
	c := apiserver.Serve(t)
	conformance.Run(t, func(t *testing.T) (a, b fleet.Store) {
		one, other := as(t, c, "admin"), as(t, c, "admin")
		empty(t, one)
		return one, other
	})
	t.Run("Rules", func(t *testing.T) { rules(t, as(t, c, "admin")) })
	t.Run("Rights", func(t *testing.T) { rights(t, c) })
	t.Run("Cluster", func(t *testing.T) { cluster(t, c) })
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
		"a host's addresses": func(b *fleet.BlockSpec) { b.IPv6 = "2001:db8::1/128" }, "a rule": func(b *fleet.BlockSpec) { b.Rule = 7 },
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
			Kind     string                     `json:"kind"`
			Metadata struct{ Namespace string } `json:"metadata"`
		}
		raw, err := yaml.YAMLToJSON(bytes.ReplaceAll(bytes.ReplaceAll(doc, []byte("HOST"), []byte("one")), []byte("RELAY"), []byte("east")))
		if err == nil {
			err = json.Unmarshal(raw, &o)
		}
		path := map[string]string{"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "Role": "namespaces/" + o.Metadata.Namespace + "/roles",
			"RoleBinding": "namespaces/" + o.Metadata.Namespace + "/rolebindings"}[o.Kind]
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
	for _, name := range []string{"east", "west"} {
		if _, err := fleet.Create(t.Context(), admin, fleet.Relays, fleet.Relay{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	controller, one, east := as(t, c, "controller"), as(t, c, "one"), as(t, c, "east")
	within(t, "the rights", func() error { _, err := one.Get(t.Context(), fleet.Hosts, "one"); return err })
	within(t, "a relay's", func() error { _, err := east.Get(t.Context(), fleet.Relays, "east"); return err })
	host := func(s *Store, name string) fleet.Host {
		h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](t.Context(), admin, fleet.Hosts, name)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	block := fleet.Block{Name: "b", Spec: fleet.BlockSpec{Pool: "lent", IPv4: "198.51.100.1/32", Host: "one", Lease: 1, State: fleet.Lent}}
	list := func(s *Store, k fleet.Kind) error { _, _, err := s.List(t.Context(), k); return err }
	watchOf := func(s *Store, k fleet.Kind, name string) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := s.Watch(ctx, k, name, 0)
		return err
	}
	watch := func(s *Store, name string) error { return watchOf(s, fleet.Hosts, name) }
	relay := func(name string) fleet.Relay {
		r, err := fleet.Get[fleet.RelaySpec, fleet.RelayStatus](t.Context(), admin, fleet.Relays, name)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	acknowledges := func(s *Store, name string) error {
		_, err := fleet.UpdateStatus(t.Context(), s, fleet.Relays, relay(name))
		return err
	}
	follows := func(s *Store, name string) error {
		_, err := fleet.Update(t.Context(), s, fleet.Relays, relay(name))
		return err
	}
	notes := func(s *Store) error {
		return s.Record(t.Context(), fleet.Note{Kind: fleet.Hosts, Name: "one", Reason: "Tried", Time: time.Now()})
	}
	pool := func(s *Store) error {
		p, err := fleet.Get[fleet.PoolSpec, fleet.PoolStatus](t.Context(), admin, fleet.Pools, "lent")
		if errors.Is(err, fleet.ErrNotFound) {
			p, err = fleet.Create(t.Context(), admin, fleet.Pools, fleet.Pool{Name: "lent", Spec: fleet.PoolSpec{IPv4: []string{"198.51.100.0/24"}, BlockLength: 32}})
		}
		if err == nil {
			_, err = fleet.UpdateStatus(t.Context(), s, fleet.Pools, p)
		}
		return err
	}
	waits := func(s *Store) error {
		b, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](t.Context(), admin, fleet.Blocks, "b")
		if err == nil {
			_, err = fleet.UpdateStatus(t.Context(), s, fleet.Blocks, b)
		}
		return err
	}
	deletes := func(s *Store) error { return fleet.Delete(t.Context(), s, fleet.Hosts, host(s, "one")) }
	ends := func(s *Store) error {
		b, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](t.Context(), admin, fleet.Blocks, "b")
		if err == nil {
			_, err = fleet.Update(t.Context(), s, fleet.Blocks, b)
		}
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
		{"a relay lists blocks", true, list(east, fleet.Blocks)}, {"a relay watches blocks", true, watchOf(east, fleet.Blocks, "")},
		{"a relay watches itself", true, watchOf(east, fleet.Relays, "east")}, {"a relay acknowledges", true, acknowledges(east, "east")},
		{"a relay acknowledges for another", false, acknowledges(east, "west")}, {"a relay lets itself follow", false, follows(east, "east")},
		{"a relay watches another", false, watchOf(east, fleet.Relays, "west")}, {"a relay lists relays", false, list(east, fleet.Relays)},
		{"a relay lists hosts", false, list(east, fleet.Hosts)}, {"a relay lists pools", false, list(east, fleet.Pools)},
		{"a relay lends", false, create(east)}, {"a relay ends a loan", false, ends(east)}, {"a relay reads secrets", false, secrets(east)},
		{"the controller lists relays", true, list(controller, fleet.Relays)}, {"the controller acknowledges", false, acknowledges(controller, "east")},
		{"the controller has a relay wait to go", true, follows(controller, "east")}, {"the controller notes", true, notes(controller)},
		{"a host notes", false, notes(one)}, {"a relay notes", false, notes(east)}, {"the controller writes a pool's status", true, pool(controller)},
		{"a host writes a pool's status", false, pool(one)}, {"a relay writes a block's status", false, waits(east)},
		{"the controller writes a block's status", true, waits(controller)}, {"the controller deletes a host", false, deletes(controller)},
		{"a host deletes itself", false, deletes(one)}, {"a host lists relays", false, list(one, fleet.Relays)},
		{"a host lends", false, create(one)}, {"a host lists blocks", false, list(one, fleet.Blocks)}, {"a host reads secrets", false, secrets(one)},
	} {
		refused := (*Refused)(nil)
		if forbidden := errors.As(c.err, &refused) && refused.Status == http.StatusForbidden; c.may && c.err != nil || !c.may && !forbidden {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
}

// cluster is config/deploy/kubernetes/fleet/rights.yaml: agents of all nodes have one account,
// and each may write the object of its own node.
func cluster(t *testing.T, c *rest.Config) {
	admin := as(t, c, "admin")
	empty(t, admin)
	post := func(path string, o any) error {
		err := admin.call(t.Context(), "POST", path, asJSON, o, new(any))
		if errors.Is(err, fleet.ErrExists) {
			return nil // Rights has made it
		}
		return err
	}
	if err := post("/api/v1/namespaces", map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "natless-system"}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../../config/deploy/kubernetes/fleet/rights.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range bytes.Split(b, []byte("\n---\n")) {
		var o map[string]any
		if err := yaml.Unmarshal(doc, &o); err != nil {
			t.Fatal(err)
		}
		path := map[string]string{"ServiceAccount": "/api/v1/namespaces/natless-system/serviceaccounts",
			"ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles", "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
			"Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/natless-system/roles", "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/natless-system/rolebindings",
			"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
			"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"}[fmt.Sprint(o["kind"])]
		if err := admin.call(t.Context(), "POST", path, asJSON, o, new(any)); err != nil { // nor has rbac.yaml anything by the same name
			t.Fatalf("%s: %v", doc, err)
		}
	}
	on := func(account, node string) *Store {
		t.Helper()
		c := rest.CopyConfig(c)
		c.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:natless-system:" + account, Groups: []string{"system:serviceaccounts", "system:authenticated"}}
		if node != "" {
			c.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
		}
		s, err := New(c, "natless-system")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, two, nowhere := on("natless-fleet-agent", "one"), on("natless-fleet-agent", "two"), on("natless-fleet-agent", "")
	east, controller := on("natless-fleet-relay", "east"), on("natless-fleet-controller", "")
	forbidden := func(err error) bool {
		refused := (*Refused)(nil)
		return errors.As(err, &refused) && (refused.Status == http.StatusForbidden || refused.Status == http.StatusUnprocessableEntity)
	}
	makes := func(s *Store, name string, spec fleet.HostSpec) error {
		_, err := fleet.Create(t.Context(), s, fleet.Hosts, fleet.Host{Name: name, Spec: spec, Finalizers: []string{fleet.Finalizer}})
		return err
	}
	within(t, "the policy", func() error {
		if err := makes(nowhere, "probe", fleet.HostSpec{}); !forbidden(err) {
			empty(t, admin)
			return fmt.Errorf("an agent of no node makes a host: %v", err)
		}
		return nil
	})
	says := func(s *Store, name string) error {
		h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](t.Context(), admin, fleet.Hosts, name)
		if err == nil {
			_, err = fleet.UpdateStatus(t.Context(), s, fleet.Hosts, h)
		}
		return err
	}
	acknowledges := func(s *Store, name string) error {
		r, err := fleet.Get[fleet.RelaySpec, fleet.RelayStatus](t.Context(), s, fleet.Relays, name)
		if err == nil {
			_, err = fleet.UpdateStatus(t.Context(), s, fleet.Relays, r)
		}
		return err
	}
	relay := func(s *Store, name string, spec fleet.RelaySpec) error {
		_, err := fleet.Create(t.Context(), s, fleet.Relays, fleet.Relay{Name: name, Spec: spec})
		return err
	}
	list := func(s *Store, k fleet.Kind) error { _, _, err := s.List(t.Context(), k); return err }
	elects := func(s *Store) error {
		_, err := fleet.Create(t.Context(), s, fleet.Leaders, fleet.Leader{Name: "natless-fleet", Spec: fleet.LeaderSpec{HolderIdentity: "a", LeaseDurationSeconds: 15}})
		return err
	}
	within(t, "the rights", func() error { return list(controller, fleet.Hosts) })
	for _, c := range []struct {
		what string
		may  bool
		err  error
	}{
		{"an agent makes another node's host", false, makes(one, "two", fleet.HostSpec{})},
		{"an agent makes its host with a fabric", false, makes(one, "one", fleet.HostSpec{Fabric: "2001:db8::/96"})},
		{"an agent makes its host", true, makes(one, "one", fleet.HostSpec{})}, {"another makes its own", true, makes(two, "two", fleet.HostSpec{})},
		{"an agent says what its host holds", true, says(one, "one")}, {"an agent says what another holds", false, says(one, "two")},
		{"an agent of no node says something", false, says(nowhere, "one")}, {"an agent lists hosts", false, list(one, fleet.Hosts)},
		{"an agent lists blocks", false, list(one, fleet.Blocks)}, {"an agent makes a relay", false, relay(one, "one", fleet.RelaySpec{})},
		{"a relay makes another's", false, relay(east, "west", fleet.RelaySpec{})},
		{"a relay lets itself follow", false, relay(east, "east", fleet.RelaySpec{Follow: &fleet.Follow{Epoch: 1, Lacks: 9}})},
		{"a relay makes its own", true, relay(east, "east", fleet.RelaySpec{})}, {"a relay acknowledges", true, acknowledges(east, "east")},
		{"another node's relay acknowledges", false, acknowledges(on("natless-fleet-relay", "west"), "east")},
		{"a relay lists blocks", true, list(east, fleet.Blocks)}, {"a relay lists hosts", false, list(east, fleet.Hosts)},
		{"the controller lists hosts", true, list(controller, fleet.Hosts)}, {"the controller leads", true, elects(controller)},
		{"an agent leads", false, elects(one)},
	} {
		if c.may && c.err != nil || !c.may && !forbidden(c.err) {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
}
