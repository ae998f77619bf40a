package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// keep is how long a note is kept.
const keep = time.Hour

func (s *Store) notes() string { return s.prefix + "notes/" }

// Record is fleet.Recorder's.
func (s *Store) Record(ctx context.Context, n fleet.Note) error {
	raw, err := json.Marshal(n)
	if err != nil {
		return err
	}
	lease, err := s.client.Grant(ctx, int64(keep.Seconds()))
	if err != nil {
		return err
	}
	_, err = s.client.Put(ctx, fmt.Sprintf("%s%020d-%x", s.notes(), n.Time.UnixNano(), lease.ID), string(raw), clientv3.WithLease(lease.ID))
	return err
}

// Notes is fleet.Recorder's.
func (s *Store) Notes(ctx context.Context) (all []fleet.Note, err error) {
	got, err := s.client.Get(ctx, s.notes(), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(page))
	if err != nil {
		return nil, err
	}
	for _, kv := range got.Kvs {
		var n fleet.Note
		if err := json.Unmarshal(kv.Value, &n); err != nil {
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
		all = append(all, n)
	}
	slices.Reverse(all)
	return all, nil
}
