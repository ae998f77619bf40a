package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The buckets. Numbers in keys are big-endian, so that they sort.
var (
	bucketMeta        = []byte("meta")        // "version" → layout
	bucketAssignments = []byte("assignments") // container/interface → record
	bucketCooling     = []byte("cooling")     // number → record, with End and Cool
	bucketHistory     = []byte("history")     // IPv4 (4 bytes), End (8), number (8) → record
	bucketOrder       = []byte("order")       // number → key in history: oldest first
	bucketLast        = []byte("last")        // k+key or n+name → number in order
)

const layout = "1"

// openStore opens the database and sees to it that its buckets are there.
func openStore(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("registry %s: another process has it open: is natlessd running already?", path)
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("registry %s: its directory does not exist: create it, or change registry.path", path)
	case err != nil:
		return nil, fmt.Errorf("registry %s: %w", path, err)
	}
	if err := db.Update(prepare); err != nil && err != errClean {
		db.Close()
		return nil, fmt.Errorf("registry %s: %w", path, err)
	}
	return db, nil
}

// prepare makes what an empty database lacks, and refuses one that is not ours.
func prepare(tx *bolt.Tx) error {
	if meta := tx.Bucket(bucketMeta); meta != nil {
		if v := meta.Get([]byte("version")); string(v) != layout {
			return fmt.Errorf("layout %q was written by a newer natlessd, this one knows %s", v, layout)
		}
		return errClean
	}
	for _, name := range [][]byte{bucketMeta, bucketAssignments, bucketCooling, bucketHistory, bucketOrder, bucketLast} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketMeta).Put([]byte("version"), []byte(layout))
}

// loadAll reads assignments and sets that cool down.
func loadAll(tx *bolt.Tx, add func(*Assignment) error, cool func(*cooled) error) error {
	err := tx.Bucket(bucketAssignments).ForEach(func(k, v []byte) error {
		a, _, err := decode(v)
		if err == nil {
			err = add(a)
		}
		if err != nil {
			return fmt.Errorf("assignment %q: %w", k, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tx.Bucket(bucketCooling).ForEach(func(k, v []byte) error {
		a, until, err := decode(v)
		if err == nil {
			err = cool(&cooled{Assignment: a, until: until, id: binary.BigEndian.Uint64(k)})
		}
		if err != nil {
			return fmt.Errorf("cooling set %x: %w", k, err)
		}
		return nil
	})
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// putAssignment writes an assignment.
func putAssignment(tx *bolt.Tx, a *Assignment) error {
	return tx.Bucket(bucketAssignments).Put([]byte(a.Key.String()), encode(a, time.Time{}))
}

// putCooling writes a set that cools down, and numbers it.
func putCooling(tx *bolt.Tx, c *cooled) (err error) {
	bucket := tx.Bucket(bucketCooling)
	if c.id, err = bucket.NextSequence(); err != nil {
		return err
	}
	return bucket.Put(number(c.id), encode(c.Assignment, c.until))
}

// historyKey sorts by address, then by end.
func historyKey(a netip.Addr, end time.Time, n uint64) []byte {
	ip := a.As4()
	k := binary.BigEndian.AppendUint64(ip[:], uint64(end.UnixNano()))
	return binary.BigEndian.AppendUint64(k, n)
}

// putHistory remembers an assignment that ended, and forgets the oldest beyond
// the bound.
func putHistory(tx *bolt.Tx, a *Assignment, bound int) error {
	order, last := tx.Bucket(bucketOrder), tx.Bucket(bucketLast)
	n, err := order.NextSequence()
	if err != nil {
		return err
	}
	key := historyKey(a.Address, a.Until, n)
	err = errors.Join(tx.Bucket(bucketHistory).Put(key, encode(a, time.Time{})), order.Put(number(n), key),
		last.Put([]byte("k"+a.Key.String()), number(n)))
	if a.Request.Name != "" {
		err = errors.Join(err, last.Put([]byte("n"+a.Request.Name), number(n)))
	}
	if err != nil {
		return err
	}
	_, err = pruneHistory(tx, bound)
	return err
}

// pruneHistory forgets the oldest entries until bound remain, and says whether
// there were any.
func pruneHistory(tx *bolt.Tx, bound int) (pruned bool, err error) {
	order := tx.Bucket(bucketOrder)
	for {
		n, key := order.Cursor().First()
		if n == nil || order.Sequence()-binary.BigEndian.Uint64(n) < uint64(bound) {
			return pruned, nil
		}
		if err := forget(tx, append([]byte(nil), n...), append([]byte(nil), key...)); err != nil {
			return pruned, err
		}
		pruned = true
	}
}

// forget removes one entry of the history and what points to it.
func forget(tx *bolt.Tx, n, key []byte) error {
	history, last := tx.Bucket(bucketHistory), tx.Bucket(bucketLast)
	a, _, err := decode(history.Get(key))
	if err != nil {
		return fmt.Errorf("history %x: %w", key, err)
	}
	for _, k := range []string{"k" + a.Key.String(), "n" + a.Request.Name} {
		if string(last.Get([]byte(k))) == string(n) {
			err = errors.Join(err, last.Delete([]byte(k)))
		}
	}
	return errors.Join(err, history.Delete(key), tx.Bucket(bucketOrder).Delete(n))
}

// lastOf gives the last assignment that ended under the key, or the name, or
// nil.
func lastOf(tx *bolt.Tx, k string) *Assignment {
	n := tx.Bucket(bucketLast).Get([]byte(k))
	if n == nil {
		return nil
	}
	a, _, err := decode(tx.Bucket(bucketHistory).Get(tx.Bucket(bucketOrder).Get(n)))
	if err != nil {
		return nil
	}
	return a
}
