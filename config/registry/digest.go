package registry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// A page of bbolt's has no checksum. So each record ends in one of its own, and
// beside the buckets stands what they must hold together: how many records, the
// sum of their checksums, and the last number given. That a record is missing,
// old, or another's is then seen, whichever page was hit.

var (
	keyVersion = []byte("version")
	keyDigest  = []byte("digest")
	keyChange  = []byte("change")
	castagnoli = crc32.MakeTable(crc32.Castagnoli) // of hardware, where there is one
)

func checksum(parts ...[]byte) (sum uint32) {
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// tally is what a bucket holds together.
type tally struct{ count, sum, sequence uint64 }

func (t *tally) add(bucket, k, v []byte) {
	t.count++
	t.sum += uint64(checksum(bucket, k, v))
}

func (t *tally) take(bucket, k, v []byte) {
	t.count--
	t.sum -= uint64(checksum(bucket, k, v))
}

// digest has the tally of each bucket that has records. The numbers of the
// history are given in the bucket of its order.
type digest [3]tally

const digestSize = 3*3*8 + 4

// place is where a bucket's tally stands, and the bucket that gives numbers.
func place(bucket []byte) (i int, numbers []byte) {
	switch {
	case bytes.Equal(bucket, bucketAssignments):
		return 0, bucketAssignments
	case bytes.Equal(bucket, bucketCooling):
		return 1, bucketCooling
	}
	return 2, bucketOrder
}

func (d *digest) encode() []byte {
	b := make([]byte, 0, digestSize)
	for _, t := range d {
		for _, n := range []uint64{t.count, t.sum, t.sequence} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
	}
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

func readDigest(tx *bolt.Tx) (d digest, err error) {
	b := tx.Bucket(bucketMeta).Get(keyDigest)
	if len(b) != digestSize || checksum(b[:digestSize-4]) != binary.BigEndian.Uint32(b[digestSize-4:]) {
		return d, fmt.Errorf("what its records must sum up to: %w", errRecord)
	}
	for i := range d {
		for j, n := range []*uint64{&d[i].count, &d[i].sum, &d[i].sequence} {
			*n = binary.BigEndian.Uint64(b[24*i+8*j:])
		}
	}
	return d, nil
}

// store writes a record.
func store(tx *bolt.Tx, bucket, k, v []byte) error {
	return amend(tx, bucket, k, func(t *tally, b *bolt.Bucket) error {
		t.add(bucket, k, v)
		return b.Put(k, v)
	})
}

// erase removes one, which may not be there.
func erase(tx *bolt.Tx, bucket, k []byte) error {
	return amend(tx, bucket, k, func(_ *tally, b *bolt.Bucket) error { return b.Delete(k) })
}

// amend takes the record that is there from the tally, and has it changed.
func amend(tx *bolt.Tx, bucket, k []byte, change func(*tally, *bolt.Bucket) error) error {
	d, err := readDigest(tx)
	if err != nil {
		return err
	}
	i, numbers := place(bucket)
	b := tx.Bucket(bucket)
	if was := b.Get(k); was != nil {
		d[i].take(bucket, k, was)
	}
	if err := change(&d[i], b); err != nil {
		return err
	}
	d[i].sequence = tx.Bucket(numbers).Sequence()
	return tx.Bucket(bucketMeta).Put(keyDigest, d.encode())
}

// sumUp computes what the buckets hold, and sees whether the history and its
// order are of one mind.
func sumUp(tx *bolt.Tx) (d digest, err error) {
	var entries, ordered tally
	for _, name := range [][]byte{bucketAssignments, bucketCooling, bucketHistory} {
		i, numbers := place(name)
		d[i].sequence = tx.Bucket(numbers).Sequence()
		err := tx.Bucket(name).ForEach(func(k, v []byte) error {
			d[i].add(name, k, v)
			if i == 2 {
				entries.add(nil, k, nil)
			}
			return nil
		})
		if err != nil {
			return d, err
		}
	}
	err = tx.Bucket(bucketOrder).ForEach(func(n, k []byte) error {
		ordered.add(nil, k, nil)
		if len(k) != historyKeySize || !bytes.Equal(n, k[historyKeySize-8:]) {
			return fmt.Errorf("entry %x of the history's order: %w", n, errRecord)
		}
		return nil
	})
	if err == nil && entries != ordered {
		err = fmt.Errorf("the history has %d entries, and %d in its order, or others", entries.count, ordered.count)
	}
	return d, err
}

// change is bbolt's Update, which notes which change it is, and by what digest. A root
// page of before has a digest that is right for the pages it leads to, but not that.
func change(db *bolt.DB, f func(*bolt.Tx) error) error {
	return db.Update(func(tx *bolt.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		meta := tx.Bucket(bucketMeta)
		return meta.Put(keyChange, encodeChange(tx.ID(), meta.Get(keyDigest)))
	})
}

func encodeChange(id int, digest []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(id)), digest...)
}

// checkChange sees whether what tx reads is what its change wrote. A natlessd of before
// notes no change: what it wrote last has another digest than the change that is noted.
func checkChange(tx *bolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	noted, digest := meta.Get(keyChange), meta.Get(keyDigest)
	if len(noted) < 8 || !bytes.Equal(noted[8:], digest) || bytes.Equal(noted, encodeChange(tx.ID(), digest)) {
		return nil
	}
	return fmt.Errorf("what it holds is not what change %d, its last, has written", tx.ID())
}

// checkDigest compares what the buckets hold with what they must.
func checkDigest(tx *bolt.Tx) error {
	want, err := readDigest(tx)
	if err != nil {
		return err
	}
	have, err := sumUp(tx)
	if err != nil {
		return err
	}
	for i, name := range []string{"assignments", "sets that cool down", "history"} {
		switch {
		case have[i].count != want[i].count:
			return fmt.Errorf("%s: %d records are there, and there were %d", name, have[i].count, want[i].count)
		case have[i] != want[i]:
			return fmt.Errorf("%s: its records are not those that were written last", name)
		}
	}
	return nil
}
