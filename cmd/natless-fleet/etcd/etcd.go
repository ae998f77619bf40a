// Package etcd keeps the fleet's objects in etcd, as JSON under a prefix. Versions are
// etcd's revisions of a key, and what is read is read of a quorum.
package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// Store is a fleet.Store.
type Store struct {
	client *clientv3.Client
	prefix string
}

// New makes a store of what is under a prefix, such as /natless.
func New(client *clientv3.Client, prefix string) *Store {
	return &Store{client, strings.TrimSuffix(prefix, "/") + "/"}
}

// value is an object as it is kept.
type value struct {
	Spec   json.RawMessage `json:"spec"`
	Status json.RawMessage `json:"status,omitempty"`

	Finalizers []string `json:"finalizers,omitempty"`
	Deleting   bool     `json:"deleting,omitempty"`
}

func (s *Store) kind(k fleet.Kind) string { return s.prefix + string(k) + "/" }

func (s *Store) key(k fleet.Kind, name string) string { return s.kind(k) + name }

func (s *Store) object(k fleet.Kind, key string, raw []byte, revision int64) fleet.Object {
	o := fleet.Object{Kind: k, Name: strings.TrimPrefix(key, s.kind(k)), Version: strconv.FormatInt(revision, 10)}
	var v value
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil {
			v = value{Spec: raw} // which whoever wants to understand it finds wrong
		}
	}
	o.Spec, o.Status, o.Finalizers, o.Deleting = v.Spec, v.Status, v.Finalizers, v.Deleting
	return o
}

// Get is Store's.
func (s *Store) Get(ctx context.Context, k fleet.Kind, name string) (fleet.Object, error) {
	got, err := s.client.Get(ctx, s.key(k, name))
	if errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) {
		err = refused{err}
	}
	if err != nil {
		return fleet.Object{}, err
	}
	if len(got.Kvs) == 0 {
		return fleet.Object{}, fmt.Errorf("%s %s: %w", k, name, fleet.ErrNotFound)
	}
	return s.object(k, string(got.Kvs[0].Key), got.Kvs[0].Value, got.Kvs[0].ModRevision), nil
}

// refused is what etcd says to who may not ask.
type refused struct{ error }

func (e refused) Is(target error) bool { return target == fleet.ErrAnswered }

func (e refused) Unwrap() error { return e.error }

// page is how many objects are read at once.
const page = 1000

// List is Store's: all of it as it was at one revision.
func (s *Store) List(ctx context.Context, k fleet.Kind) (all []fleet.Object, revision uint64, err error) {
	from, end, at := s.kind(k), clientv3.GetPrefixRangeEnd(s.kind(k)), int64(0)
	for {
		got, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(at),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
		if err != nil {
			return nil, 0, err
		}
		if at == 0 {
			at = got.Header.Revision
		}
		for _, kv := range got.Kvs {
			all = append(all, s.object(k, string(kv.Key), kv.Value, kv.ModRevision))
		}
		if !got.More {
			return all, uint64(at), nil
		}
		from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
	}
}

// Watch is Store's.
func (s *Store) Watch(ctx context.Context, k fleet.Kind, name string, after uint64) (<-chan fleet.Event, error) {
	key, options := s.key(k, name), []clientv3.OpOption{clientv3.WithPrevKV()}
	if name == "" {
		options = append(options, clientv3.WithPrefix())
	}
	if after > 0 {
		options = append(options, clientv3.WithRev(int64(after)+1))
	}
	ctx, cancel := context.WithCancel(ctx)
	from, to := s.client.Watch(clientv3.WithRequireLeader(ctx), key, options...), make(chan fleet.Event, fleet.Waiting)
	go func() {
		defer close(to)
		defer cancel()
		for got := range from {
			if got.Err() != nil {
				return // compacted, or cut off: who listens asks again
			}
			for _, e := range got.Events {
				if !s.tell(ctx, k, e, to) {
					return
				}
			}
		}
	}()
	return to, nil
}

func (s *Store) tell(ctx context.Context, k fleet.Kind, e *clientv3.Event, to chan<- fleet.Event) bool {
	kv, gone := e.Kv, e.Type == clientv3.EventTypeDelete
	raw := kv.Value
	if gone && e.PrevKv != nil {
		raw = e.PrevKv.Value
	}
	select {
	case to <- fleet.Event{Object: s.object(k, string(kv.Key), raw, kv.ModRevision), Gone: gone}:
		return true
	case <-ctx.Done():
		return false
	}
}

// Create is Store's.
func (s *Store) Create(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	o.Status, o.Deleting = nil, false
	return s.write(ctx, o, clientv3.Compare(clientv3.CreateRevision(s.key(o.Kind, o.Name)), "=", 0), fleet.ErrExists)
}

// Update is Store's: the status stays as it is by this version.
func (s *Store) Update(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	return s.change(ctx, o, func(is *fleet.Object) { is.Spec, is.Finalizers = o.Spec, o.Finalizers })
}

// UpdateStatus is Store's.
func (s *Store) UpdateStatus(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	return s.change(ctx, o, func(is *fleet.Object) { is.Status = o.Status })
}

func (s *Store) change(ctx context.Context, o fleet.Object, f func(*fleet.Object)) (fleet.Object, error) {
	is, err := s.Get(ctx, o.Kind, o.Name)
	if err != nil {
		return is, err
	}
	if is.Version != o.Version {
		return is, fmt.Errorf("%s %s: %w", o.Kind, o.Name, fleet.ErrConflict)
	}
	f(&is)
	if is.Deleting && len(is.Finalizers) == 0 {
		return is, s.remove(ctx, is)
	}
	same, err := s.unchanged(is)
	if err != nil {
		return is, err
	}
	return s.write(ctx, is, same, fleet.ErrConflict)
}

// unchanged holds while the object is of its version.
func (s *Store) unchanged(o fleet.Object) (c clientv3.Cmp, err error) {
	revision, err := strconv.ParseInt(o.Version, 10, 64)
	if err != nil {
		return c, fmt.Errorf("%s %s: version %q is none of etcd's", o.Kind, o.Name, o.Version)
	}
	return clientv3.Compare(clientv3.ModRevision(s.key(o.Kind, o.Name)), "=", revision), nil
}

func (s *Store) write(ctx context.Context, o fleet.Object, condition clientv3.Cmp, otherwise error) (fleet.Object, error) {
	raw, err := json.Marshal(value{o.Spec, o.Status, o.Finalizers, o.Deleting})
	if err != nil {
		return o, err
	}
	got, err := s.client.Txn(ctx).If(condition).Then(clientv3.OpPut(s.key(o.Kind, o.Name), string(raw))).Commit()
	if err != nil {
		return o, err
	}
	if !got.Succeeded {
		return o, fmt.Errorf("%s %s: %w", o.Kind, o.Name, otherwise)
	}
	o.Version = strconv.FormatInt(got.Header.Revision, 10)
	return o, nil
}

// Delete is Store's.
func (s *Store) Delete(ctx context.Context, o fleet.Object) error {
	is, err := s.Get(ctx, o.Kind, o.Name)
	switch {
	case err != nil:
		return err
	case is.Version != o.Version:
		return fmt.Errorf("%s %s: %w", o.Kind, o.Name, fleet.ErrConflict)
	case len(is.Finalizers) == 0:
		return s.remove(ctx, is)
	case is.Deleting:
		return nil
	}
	_, err = s.change(ctx, o, func(is *fleet.Object) { is.Deleting = true })
	return err
}

func (s *Store) remove(ctx context.Context, o fleet.Object) error {
	same, err := s.unchanged(o)
	if err != nil {
		return err
	}
	key := s.key(o.Kind, o.Name)
	got, err := s.client.Txn(ctx).If(same).Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key, clientv3.WithCountOnly())).Commit()
	switch {
	case err != nil:
		return err
	case got.Succeeded:
		return nil
	case got.Responses[0].GetResponseRange().Count == 0:
		return fmt.Errorf("%s %s: %w", o.Kind, o.Name, fleet.ErrNotFound)
	}
	return fmt.Errorf("%s %s: %w", o.Kind, o.Name, fleet.ErrConflict)
}
