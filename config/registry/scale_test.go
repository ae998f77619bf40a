package registry

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	bolt "go.etcd.io/bbolt"
)

var ctx = context.Background()

// realistic is a workload with identifiers as long as Kubernetes makes them.
func realistic(n int) (api.Key, api.Request) {
	q := request(n)
	q.Name = fmt.Sprintf("some-namespace/some-deployment-%08x-%05d", n*7919, n%100000)
	q.Network = "natless"
	q.Netns = fmt.Sprintf("/var/run/netns/cni-%08x-0000-0000-0000-%012x", n, n)
	return api.Key{ContainerID: fmt.Sprintf("%016x%048x", uint64(n)*0x9e3779b97f4a7c15, n), Interface: "eth0"}, q
}

// fill writes n assignments to a new database in a few transactions, none of
// which makes the database much larger: pages are only split at their ends.
func fill(tb testing.TB, n int, pool Pool) (*Registry, Options) {
	tb.Helper()
	o := Options{Path: filepath.Join(tb.TempDir(), "r.db"), History: 100000, Pools: []Pool{pool}}
	r, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	r.db.NoSync = true
	defer func() { r.db.NoSync = false }()
	tb.Cleanup(func() { r.Close() })
	var batch []*op
	for i := range n {
		k, q := realistic(i)
		batch = append(batch, &op{ctx: ctx, apply: func(t *txn) error { _, _, err := t.put(k, q); return err }})
		if len(batch) == max(10000, i/4) || i == n-1 {
			r.commit(batch)
			for _, o := range batch {
				if o.err != nil {
					tb.Fatal(o.err)
				}
			}
			batch = nil
		}
	}
	return r, o
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkOpen100k is the start with 100,000 assignments, to the mappings for
// the table.
func BenchmarkOpen100k(b *testing.B) {
	r, o := fill(b, 100_000, shared("10.0.0.0/21", 512))
	r.Close()
	var mappings []mapping.Mapping
	for b.Loop() {
		r, err := Open(o)
		if err != nil {
			b.Fatal(err)
		}
		mappings = slices.Collect(r.Mappings())
		r.Close()
	}
	if len(mappings) != 100_000 {
		b.Fatal(len(mappings))
	}
	mappings = nil
	before := heapInUse()
	r, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(heapInUse()-before)/100_000, "B/assignment")
	r.Close()
}

// BenchmarkAllocate100k is the decision alone, among 100,000 others.
func BenchmarkAllocate100k(b *testing.B) {
	r, _ := fill(b, 100_000, shared("10.0.0.0/21", 512))
	a := &Assignment{Key: key(1), Request: request(1_000_000)}
	err := r.db.View(func(tx *bolt.Tx) error {
		t := &txn{Registry: r, tx: tx, now: time.Now()}
		for b.Loop() {
			if err := t.choose(a, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPut100k is a put and a delete, each on disk, among 100,000 others.
func BenchmarkPut100k(b *testing.B) {
	r, _ := fill(b, 100_000, shared("10.0.0.0/21", 512))
	for n := 0; b.Loop(); n++ {
		if _, err := r.Put(ctx, key(n), request(1_000_000)); err != nil {
			b.Fatal(err)
		}
		if err := r.Delete(ctx, key(n)); err != nil {
			b.Fatal(err)
		}
	}
}
