//go:build linux

package daemon

import (
	"runtime/debug"
	"sync"
)

// building is the garbage collector's pace while a table is built: the next one
// stands beside the one in use, and with the usual pace as much garbage again
// would lie beside both.
const building = 20 // percent, as GOGC

// sparing counts those who build.
var sparing struct {
	sync.Mutex
	builders, usual int
}

// Spare makes the collector hurry while much is built. settle ends that, and
// gives what was used besides back to the kernel. None of it stops the packet
// loops, which allocate nothing.
func Spare() (settle func()) {
	sparing.Lock()
	defer sparing.Unlock()
	if sparing.builders++; sparing.builders == 1 {
		sparing.usual = debug.SetGCPercent(building)
	}
	return func() {
		sparing.Lock()
		if sparing.builders--; sparing.builders == 0 {
			debug.SetGCPercent(sparing.usual)
		}
		sparing.Unlock()
		debug.FreeOSMemory()
	}
}

// keepAll has nothing collected until what it gives is called: for who builds what all
// stays.
func keepAll() (end func()) {
	before := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(before) }
}
