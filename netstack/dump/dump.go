//go:build linux

// Package dump asks the kernel for lists, whole or not at all. What is changed
// while the kernel lists it may be missing, or be there twice: the kernel says so
// (NLM_F_DUMP_INTR), and is asked again. What is in a list may not enter here.
package dump

import (
	"errors"
	"fmt"
	"slices"
	"time"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
)

// tries bounds how often the kernel is asked; between them is a pause, from first
// on twice as long each time: a burst of changes ends, 250 ms later at most.
const (
	tries = 9
	first = time.Millisecond
)

// ErrInterrupted says that what was to be listed changed each time. Who is told so
// asks again later, as for any other error.
var ErrInterrupted error = netlink.ErrDumpInterrupted

// Whole gives what list lists, or an error and nothing.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	err = again(func() (bool, error) {
		all, err = list()
		return errors.Is(err, ErrInterrupted), err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Messages gives what the kernel answers to a request with the flag Dump, or an
// error and nothing.
func Messages(c interface {
	Execute(mdl.Message) ([]mdl.Message, error)
}, request mdl.Message) ([]mdl.Message, error) {
	return Whole(func() ([]mdl.Message, error) {
		all, err := c.Execute(request)
		if err == nil && slices.ContainsFunc(all, func(m mdl.Message) bool { return m.Header.Flags&mdl.DumpInterrupted != 0 }) {
			err = ErrInterrupted
		}
		return all, err
	})
}

// Unchanged has read read several lists, which are one state: they have the same
// generation before and after. The error of a read that was interrupted, whatever
// it is, is none of its own.
func Unchanged(generation func() (uint32, error), read func() error) error {
	return again(func() (bool, error) {
		before, err := generation()
		if err != nil {
			return false, err
		}
		readErr := read()
		after, err := generation()
		switch {
		case err != nil:
			return false, err
		case before != after:
			return true, ErrInterrupted
		}
		return false, readErr
	})
}

// again calls ask until it was not interrupted.
func again(ask func() (interrupted bool, err error)) error {
	pause := first
	for n := 1; ; n++ {
		interrupted, err := ask()
		switch {
		case !interrupted:
			return err
		case n == tries:
			return fmt.Errorf("changed each of %d times: %w", tries, ErrInterrupted)
		}
		time.Sleep(pause)
		pause *= 2
	}
}
