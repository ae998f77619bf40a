//go:build linux

package daemon

import "runtime/debug"

// building is the garbage collector's pace while a table is built: the next one
// stands beside the one in use, and with the usual pace as much garbage again
// would lie beside both.
const building = 20 // percent, as GOGC

// Spare makes the collector hurry while much is built. settle ends that, and
// gives what was used besides back to the kernel. None of it stops the packet
// loops, which allocate nothing.
func Spare() (settle func()) {
	usual := debug.SetGCPercent(building)
	return func() {
		debug.SetGCPercent(usual)
		debug.FreeOSMemory()
	}
}
