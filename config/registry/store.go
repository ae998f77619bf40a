package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/natless/natless/config/api"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The buckets. Numbers in keys are big-endian, so that they sort.
var (
	bucketMeta        = []byte("meta")        // "version" → layout, "digest" → what the records sum up to
	bucketAssignments = []byte("assignments") // container/interface → record
	bucketCooling     = []byte("cooling")     // number → record, with End and Cool
	bucketHistory     = []byte("history")     // IPv4 (4 bytes), End (8), number (8) → record
	bucketOrder       = []byte("order")       // number → key in history: oldest first
	bucketLast        = []byte("last")        // k+key or n+name → number in order
)

var buckets = [][]byte{bucketMeta, bucketAssignments, bucketCooling, bucketHistory, bucketOrder, bucketLast}

// Layout is the version of what lies in the file, in bucketMeta. A natlessd brings older
// ones up to date and refuses newer ones.
const Layout = layout

// The layout before had no serials, and the one before that no digest, and records
// without a checksum.
const layout, layoutUnnumbered, layoutUnsummed = "3", "2", "1"

// prepare brings the layout of an older natlessd up to date, and refuses what
// is not ours.
func prepare(tx *bolt.Tx) error {
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("it has no bucket %q", name)
		}
	}
	switch v := string(tx.Bucket(bucketMeta).Get(keyVersion)); v {
	case layout:
		return errClean
	case layoutUnnumbered, layoutUnsummed:
		if !tx.Writable() {
			return bolterrors.ErrTxNotWritable
		}
		if v == layoutUnnumbered { // before what is damaged would be summed up with the rest
			if err := checkDigest(tx); err != nil {
				return err
			}
		}
		return errors.Join(numberAll(tx), seal(tx))
	default:
		return &layoutError{v}
	}
}

// layoutError: a layout that this natlessd does not know.
type layoutError struct{ layout string }

func (e *layoutError) Error() string {
	return fmt.Sprintf("layout %q was written by a newer natlessd, this one knows %s", e.layout, layout)
}

// blank makes the buckets of an empty database.
func blank(tx *bolt.Tx) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return seal(tx)
}

// seal writes the layout, and what the records sum up to.
func seal(tx *bolt.Tx) error {
	d, err := sumUp(tx)
	if err != nil {
		return err
	}
	return errors.Join(tx.Bucket(bucketMeta).Put(keyVersion, []byte(layout)), tx.Bucket(bucketMeta).Put(keyDigest, d.encode()))
}

// loadAll reads assignments, each of which is gone with the next, and sets that cool
// down.
func loadAll(tx *bolt.Tx, add func(*Assignment) error, cool func(*cooled) error) error {
	var a Assignment
	room := newScratch()
	err := tx.Bucket(bucketAssignments).ForEach(func(k, v []byte) error {
		err := decodeInto(&a, v, room)
		if err == nil && !isKey(k, a.Key) {
			err = fmt.Errorf("speaks of %s", a.Key)
		}
		if err == nil {
			err = add(&a)
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

// decodeInto is decode for who looks at one after the other; what the registry would
// hold of it is there with it.
func decodeInto(a *Assignment, b []byte, room *scratch) error {
	if !sealed(b) {
		return errRecord
	}
	h := &held{string(b)}
	_, err := unpack(a, h.record, room)
	if numbered(b[0]) {
		a.held = h
	}
	return err
}

// isKey says that a key of the bucket is a workload's.
func isKey(k []byte, w api.Key) bool {
	container, iface, _ := bytes.Cut(k, []byte("/"))
	return string(container) == w.ContainerID && string(iface) == w.Interface
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// putAssignment writes an assignment.
func putAssignment(tx *bolt.Tx, a *Assignment) error {
	return store(tx, bucketAssignments, []byte(a.Key.String()), encode(a, time.Time{}))
}

// putCooling writes a set that cools down, and numbers it.
func putCooling(tx *bolt.Tx, c *cooled) (err error) {
	bucket := tx.Bucket(bucketCooling)
	if c.id, err = bucket.NextSequence(); err != nil {
		return err
	}
	return store(tx, bucketCooling, number(c.id), encode(c.Assignment, c.until))
}

const historyKeySize = 4 + 8 + 8

// historyKey sorts by address, then by end.
func historyKey(a netip.Addr, end time.Time, n uint64) []byte {
	ip := a.As4()
	k := binary.BigEndian.AppendUint64(ip[:], uint64(end.UnixNano()))
	return binary.BigEndian.AppendUint64(k, n)
}

// putHistory remembers an assignment that ended, gives its number, and forgets
// the oldest beyond the bound: a few, where they are many.
func putHistory(tx *bolt.Tx, a *Assignment, bound int) (n uint64, err error) {
	order, last := tx.Bucket(bucketOrder), tx.Bucket(bucketLast)
	if n, err = order.NextSequence(); err != nil {
		return 0, err
	}
	key := historyKey(a.Address, a.Until, n)
	err = errors.Join(store(tx, bucketHistory, key, encode(a, time.Time{})), order.Put(number(n), key),
		last.Put([]byte("k"+a.Key.String()), number(n)))
	if a.Request.Name != "" {
		err = errors.Join(err, last.Put([]byte("n"+a.Request.Name), number(n)))
	}
	if err != nil {
		return 0, err
	}
	_, err = pruneHistory(tx, bound, pruneEach)
	return n, err
}

// pruneEach is how many entries of the history are forgotten for one that comes,
// where its bound has become less.
const pruneEach = 8

// pruneHistory forgets the oldest entries until bound remain, up to most, and says
// how many.
func pruneHistory(tx *bolt.Tx, bound, most int) (pruned int, err error) {
	order := tx.Bucket(bucketOrder)
	for pruned < most {
		n, key := order.Cursor().First()
		if n == nil || order.Sequence()-binary.BigEndian.Uint64(n) < uint64(bound) {
			break
		}
		if err := forget(tx, append([]byte(nil), n...), append([]byte(nil), key...)); err != nil {
			return pruned, err
		}
		pruned++
	}
	return pruned, nil
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
	return errors.Join(err, erase(tx, bucketHistory, key), tx.Bucket(bucketOrder).Delete(n))
}

// lastOf gives the last assignment that ended under the key, or the name, or
// nil.
func lastOf(tx *bolt.Tx, k string) *Assignment {
	n := tx.Bucket(bucketLast).Get([]byte(k))
	if n == nil {
		return nil
	}
	a, _, err := decode(tx.Bucket(bucketHistory).Get(tx.Bucket(bucketOrder).Get(n)))
	if err != nil || k != "k"+a.Key.String() && k != "n"+a.Request.Name {
		return nil
	}
	return a
}

// checkLayout is prepare for who only reads.
func checkLayout(tx *bolt.Tx) error {
	switch err := prepare(tx); {
	case err == errClean, errors.Is(err, bolterrors.ErrTxNotWritable): // an older layout
		return nil
	default:
		return err
	}
}

// checkContent looks whether the records are those that were written last. The
// first layout does not say.
func checkContent(tx *bolt.Tx) error {
	if string(tx.Bucket(bucketMeta).Get(keyVersion)) == layoutUnsummed {
		return nil
	}
	return errors.Join(checkChange(tx), checkDigest(tx))
}
