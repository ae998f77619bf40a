package registry

import (
	"errors"
	"fmt"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Salvaged is what could be taken out of a damaged file.
type Salvaged struct {
	Report
	// Faults are what is wrong with it.
	Faults []string `json:"faults"`
	// Lost is how many records were seen that are damaged. Those on pages that
	// cannot be read are not seen.
	Lost int `json:"lost"`
}

// Salvage makes a new registry of the records of a damaged one that can be
// reached and are whole, and gives where the damaged one is kept. A set that was
// lost may be assigned again while a container still uses it. So after a salvage, the
// containers that are missing in the new registry must be created again.
func Salvage(path string) (s Salvaged, aside string, err error) {
	var found findings
	s.Report, aside, err = replace(path, func(temporary string) error {
		if err := found.gather(path); err != nil {
			return err
		}
		if err := writeBlank(temporary); err != nil {
			return err
		}
		db, err := bolt.Open(temporary, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
		if err != nil {
			return err
		}
		return errors.Join(change(db, found.write), db.Sync(), db.Close())
	})
	s.Faults, s.Lost = []string{}, found.lost
	for _, f := range found.faults {
		s.Faults = append(s.Faults, f.Error())
	}
	return s, aside, err
}

// findings are the records that were found whole.
type findings struct {
	assignments, history []*Assignment
	cooling              []*cooled
	lost                 int
	faults               []error
}

func (f *findings) gather(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	w := walker{file: file, visit: f.visit}
	w.walk(info.Size())
	f.faults = w.faults
	if w.seen == nil {
		return fmt.Errorf("nothing can be read of it: %w", errors.Join(w.faults...))
	}
	return nil
}

func (f *findings) visit(bucket string, key, value []byte) {
	into := bucket == string(bucketAssignments) || bucket == string(bucketCooling) || bucket == string(bucketHistory)
	if !into {
		return
	}
	a, cool, err := decode(value)
	switch {
	case err != nil, bucket == string(bucketAssignments) && string(key) != a.Key.String():
		f.lost++
	case bucket == string(bucketAssignments):
		f.assignments = append(f.assignments, a)
	case bucket == string(bucketCooling):
		f.cooling = append(f.cooling, &cooled{Assignment: a, until: cool})
	default:
		f.history = append(f.history, a)
	}
}

// write writes what does not contradict what was written before.
func (f *findings) write(tx *bolt.Tx) error {
	s := newState(nil, 0)
	if err := f.number(tx); err != nil {
		return err
	}
	for _, a := range f.assignments {
		if s.byKey(a.Key) != nil || s.add(a) != nil {
			f.lost++
		} else if err := putAssignment(tx, a); err != nil {
			return err
		}
	}
	for _, c := range f.cooling {
		if s.cool(c) != nil {
			f.lost++
		} else if err := putCooling(tx, c); err != nil {
			return err
		}
	}
	slices.SortStableFunc(f.history, func(a, b *Assignment) int { return a.Until.Compare(b.Until) })
	for _, a := range f.history {
		if _, err := putHistory(tx, a, len(f.history)); err != nil {
			return err
		}
	}
	return nil
}

// number continues behind the highest serial that was found, for assignments of
// an older layout, which have none.
func (f *findings) number(tx *bolt.Tx) error {
	highest := uint64(0)
	note := func(all []*Assignment) {
		for _, a := range all {
			highest = max(highest, a.Serial, a.Succeeds)
		}
	}
	note(f.assignments)
	note(f.history)
	for _, c := range f.cooling {
		highest = max(highest, c.Serial)
	}
	if err := skipSerials(tx, highest); err != nil {
		return err
	}
	for _, a := range f.assignments {
		var err error
		if a.Serial == 0 {
			a.Serial, err = nextSerial(tx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
