// Package kube keeps the fleet's objects in the Kubernetes API: custom resources, and one
// Lease. It speaks plain HTTP and JSON, and watches what it is asked to watch: an informer
// would have each host hold every object of the fleet.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// Store is a fleet.Store.
type Store struct {
	client *http.Client
	base   string
	paths  map[fleet.Kind]resource
}

// resource is a kind as the API has it.
type resource struct{ path, apiVersion, kind string }

const group = "natless.io/v1alpha1"

// New makes a store of an API server; namespace is that of the Lease.
func New(c *rest.Config, namespace string) (*Store, error) {
	c = rest.CopyConfig(c)
	c.UserAgent = "natless-fleet"
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, err
	}
	base, _, err := rest.DefaultServerUrlFor(c)
	if err != nil {
		return nil, err
	}
	return &Store{client, strings.TrimSuffix(base.String(), "/"), map[fleet.Kind]resource{
		fleet.Pools:   {"/apis/" + group + "/ipv4pools", group, "IPv4Pool"},
		fleet.Blocks:  {"/apis/" + group + "/ipv4blocks", group, "IPv4Block"},
		fleet.Hosts:   {"/apis/" + group + "/natlesshosts", group, "NatlessHost"},
		fleet.Relays:  {"/apis/" + group + "/natlessrelays", group, "NatlessRelay"},
		fleet.Leaders: {"/apis/coordination.k8s.io/v1/namespaces/" + url.PathEscape(namespace) + "/leases", "coordination.k8s.io/v1", "Lease"},
	}}, nil
}

// item is an object as the API has it.
type item struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   metadata        `json:"metadata"`
	Spec       json.RawMessage `json:"spec,omitempty"`
	Status     json.RawMessage `json:"status,omitempty"`
}

type metadata struct {
	Name            string `json:"name,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
	Continue        string `json:"continue,omitempty"`

	UID               string   `json:"uid,omitempty"`
	Finalizers        []string `json:"finalizers,omitempty"`
	DeletionTimestamp string   `json:"deletionTimestamp,omitempty"`
}

func (i item) object(k fleet.Kind) fleet.Object {
	o := fleet.Object{Kind: k, Name: i.Metadata.Name, Version: i.Metadata.ResourceVersion, Spec: i.Spec, Status: i.Status,
		Finalizers: i.Metadata.Finalizers, Deleting: i.Metadata.DeletionTimestamp != ""}
	if o.Spec == nil {
		o.Spec = json.RawMessage("{}")
	}
	return o
}

// Refused is what the API server says, where it does not do what it is asked.
type Refused struct {
	Status  int
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (e *Refused) Error() string { return fmt.Sprintf("the API server: %s (%d)", e.Message, e.Status) }

// Is says which of a store's errors it is.
func (e *Refused) Is(target error) bool {
	switch target {
	case fleet.ErrNotFound:
		return e.Status == http.StatusNotFound && e.Reason == "NotFound"
	case fleet.ErrExists:
		return e.Status == http.StatusConflict && e.Reason == "AlreadyExists"
	case fleet.ErrConflict:
		return e.Status == http.StatusConflict && e.Reason != "AlreadyExists"
	case fleet.ErrAnswered:
		return e.Status < http.StatusInternalServerError // that may be who stands in front of it
	}
	return false
}

const (
	asJSON  = "application/json"
	asPatch = "application/json-patch+json"
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 20
)

func (s *Store) open(ctx context.Context, method, path, contentType string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, s.base+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", asJSON)
	if in != nil {
		r.Header.Set("Content-Type", contentType)
	}
	a, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	if a.StatusCode/100 == 2 {
		return a, nil
	}
	defer a.Body.Close()
	refused := &Refused{Status: a.StatusCode, Message: a.Status}
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	if err == nil {
		_ = json.Unmarshal(b, refused) // of a proxy's answer there is the status
		refused.Status = a.StatusCode
	}
	return nil, refused
}

func (s *Store) call(ctx context.Context, method, path, contentType string, in, out any) error {
	a, err := s.open(ctx, method, path, contentType, in)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

func (s *Store) path(k fleet.Kind, name string) string {
	return s.paths[k].path + "/" + url.PathEscape(name)
}

// Get is Store's.
func (s *Store) Get(ctx context.Context, k fleet.Kind, name string) (fleet.Object, error) {
	return s.one(ctx, k, http.MethodGet, s.path(k, name), "", nil)
}

func (s *Store) one(ctx context.Context, k fleet.Kind, method, path, contentType string, in any) (fleet.Object, error) {
	var i item
	if err := s.call(ctx, method, path, contentType, in, &i); err != nil {
		return fleet.Object{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return i.object(k), nil
}

// page is how many objects are read at once.
const page = "1000"

// List is Store's: without a resource version it is what a quorum has.
func (s *Store) List(ctx context.Context, k fleet.Kind) (all []fleet.Object, revision uint64, err error) {
	query := url.Values{"limit": {page}}
	for {
		var got struct {
			Metadata metadata `json:"metadata"`
			Items    []item   `json:"items"`
		}
		if err := s.call(ctx, http.MethodGet, s.paths[k].path+"?"+query.Encode(), "", nil, &got); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", k, err)
		}
		// Numbers that can be compared, by what the API promises since 1.35, and etcd's before.
		if revision, err = strconv.ParseUint(got.Metadata.ResourceVersion, 10, 64); err != nil {
			return nil, 0, fmt.Errorf("%s: resourceVersion %q is no number", k, got.Metadata.ResourceVersion)
		}
		for _, i := range got.Items {
			all = append(all, i.object(k))
		}
		if got.Metadata.Continue == "" {
			return all, revision, nil
		}
		query.Set("continue", got.Metadata.Continue)
	}
}

// Watch is Store's.
func (s *Store) Watch(ctx context.Context, k fleet.Kind, name string, after uint64) (<-chan fleet.Event, error) {
	query := url.Values{"watch": {"1"}}
	if after > 0 {
		query.Set("resourceVersion", strconv.FormatUint(after, 10))
	}
	if name != "" {
		query.Set("fieldSelector", "metadata.name="+name)
	}
	a, err := s.open(ctx, http.MethodGet, s.paths[k].path+"?"+query.Encode(), "", nil)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", k, err)
	}
	to := make(chan fleet.Event, fleet.Waiting)
	go func() {
		defer close(to)
		defer a.Body.Close()
		d := json.NewDecoder(a.Body)
		for {
			var e struct {
				Type   string `json:"type"`
				Object item   `json:"object"`
			}
			if d.Decode(&e) != nil || e.Type == "ERROR" {
				return // cut off, or too old: who listens asks again
			}
			if e.Type == "BOOKMARK" {
				continue
			}
			select {
			case to <- fleet.Event{Object: e.Object.object(k), Gone: e.Type == "DELETED"}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to, nil
}

// Create is Store's.
func (s *Store) Create(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	r := s.paths[o.Kind]
	return s.one(ctx, o.Kind, http.MethodPost, r.path, asJSON, item{APIVersion: r.apiVersion, Kind: r.kind, Metadata: metadata{Name: o.Name, Finalizers: o.Finalizers}, Spec: o.Spec})
}

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// patch changes one part, where the object still is of its version, and leaves labels,
// annotations and all that others write.
func (s *Store) patch(ctx context.Context, o fleet.Object, path string, parts ...operation) (fleet.Object, error) {
	return s.one(ctx, o.Kind, http.MethodPatch, path, asPatch, append([]operation{{"replace", "/metadata/resourceVersion", o.Version}}, parts...))
}

// Update is Store's.
func (s *Store) Update(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	finalizers := o.Finalizers
	if finalizers == nil {
		finalizers = []string{}
	}
	return s.patch(ctx, o, s.path(o.Kind, o.Name), operation{"add", "/spec", o.Spec}, operation{"add", "/metadata/finalizers", finalizers})
}

// UpdateStatus is Store's.
func (s *Store) UpdateStatus(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	return s.patch(ctx, o, s.path(o.Kind, o.Name)+"/status", operation{"add", "/status", o.Status})
}

// Delete is Store's.
func (s *Store) Delete(ctx context.Context, o fleet.Object) error {
	_, err := s.one(ctx, o.Kind, http.MethodDelete, s.path(o.Kind, o.Name), asJSON, map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]string{"resourceVersion": o.Version}})
	return err
}
