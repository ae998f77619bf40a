package registry

import (
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Serials number assignments, and whatever is counted or recorded by them is told
// apart for ever. They are the sequence of the bucket of assignments, which is on
// disk with the assignment that has the last one, and in the digest: one that was
// published is never given again, through restarts and crashes. A change that does
// not reach the disk has published none.

// nextSerial gives a serial that no assignment ever had.
func nextSerial(tx *bolt.Tx) (uint64, error) { return tx.Bucket(bucketAssignments).NextSequence() }

// skipSerials has no serial up to last given any more.
func skipSerials(tx *bolt.Tx, last uint64) error {
	b := tx.Bucket(bucketAssignments)
	if b.Sequence() >= last {
		return nil
	}
	d, err := readDigest(tx)
	if err != nil {
		return err
	}
	i, _ := place(bucketAssignments)
	d[i].sequence = last
	return errors.Join(b.SetSequence(last), tx.Bucket(bucketMeta).Put(keyDigest, d.encode()))
}

// forgotten is more assignments than are made in a millisecond. JSON's numbers are
// exact up to 2⁵³, which this reaches in the year 2248.
const forgotten = 1 << 10

// skipForgotten is for a file that takes the place of another: it does not know
// the serials that were given since it was written, or what was lost of it. So it
// goes on at a number that the time gives, which no other file can have reached.
func skipForgotten(path string, now time.Time) error {
	db, err := openFile(path, false)
	if err != nil {
		return err
	}
	err = guard(func() error {
		return change(db, func(tx *bolt.Tx) error {
			return skipSerials(tx, uint64(max(now.UnixMilli(), 0))*forgotten)
		})
	})
	return errors.Join(err, db.Close())
}

// numberAll gives serials to the assignments of an older layout, the oldest first.
func numberAll(tx *bolt.Tx) error {
	b := tx.Bucket(bucketAssignments)
	var all []*Assignment
	err := b.ForEach(func(k, v []byte) error {
		a, _, err := decode(v)
		if err == nil && string(k) != a.Key.String() {
			err = fmt.Errorf("speaks of %s", a.Key)
		}
		if err != nil {
			return fmt.Errorf("assignment %q: %w", k, err)
		}
		all = append(all, a)
		return nil
	})
	if err != nil {
		return err
	}
	bySince := slices.Clone(all) // equal ones by key
	slices.SortStableFunc(bySince, func(a, b *Assignment) int { return a.Since.Compare(b.Since) })
	for _, a := range bySince {
		if a.Serial, err = nextSerial(tx); err != nil {
			return err
		}
	}
	for _, a := range all { // in the order of the keys: one page is written after another
		if err := b.Put([]byte(a.Key.String()), encode(a, time.Time{})); err != nil {
			return err
		}
	}
	return nil
}
