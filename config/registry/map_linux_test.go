package registry

import (
	"os"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// mapped is how much of a file counts as this process's memory, as the kernel says it.
func mapped(t *testing.T, path string) string {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	_, of, found := strings.Cut(string(smaps), path+"\n")
	if !found {
		t.Fatalf("%s is not mapped", path)
	}
	_, rss, _ := strings.Cut(of, "\nRss:")
	rss, _, _ = strings.Cut(rss, "\n")
	return strings.Join(strings.Fields(rss), " ")
}

// TestUnmap: what was read of the file does not stay with the process.
func TestUnmap(t *testing.T) {
	t.Parallel()
	r, _ := start(t, shared("198.51.100.8/31", 1024))
	for n := range 20 {
		mustPut(t, r, n, request(n))
	}
	err := r.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketAssignments).ForEach(func(_, v []byte) error { _ = checksum(v); return nil })
	})
	if had := mapped(t, r.path); err != nil || had == "0 kB" {
		t.Fatalf("%s, %v: the test tests nothing", had, err)
	}
	if r.Unmap(); mapped(t, r.path) != "0 kB" {
		t.Errorf("%s are mapped", mapped(t, r.path))
	}
	mustPut(t, r, 21, request(21)) // and it goes on
}
