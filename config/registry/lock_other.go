//go:build !linux

package registry

import (
	"os"
	"time"
)

// lock leaves it to bbolt.
func lock(*os.File, bool, time.Duration) error { return nil }
