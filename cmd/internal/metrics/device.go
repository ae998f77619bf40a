//go:build linux

package metrics

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dataplane"
)

var (
	deviceInfo = desc("device_info",
		"The TUN device: how packets are read and written, and what the kernel granted; 1 while it is there.", "device", "io", "tso", "uso")
	deviceUp    = desc("device_up", "Whether the device is there.")
	reopened    = desc("device_reopened_total", "Times that the device was deleted by somebody and made anew.")
	waits       = desc("device_waits_total", "Times that a queue had nothing to read and slept.")
	resegmented = desc("device_segmented_packets_total", "Packets that the kernel refused whole and that were written segmented.")
	writeErrors = desc("device_write_errors_total", "Packets lost because the kernel did not take them, by its answer.", "error")
	queueDrops  = desc("device_queue_dropped_packets_total",
		"Packets that the kernel dropped because the device's queue was full: natlessd is too slow.")
	deviceDrops   = desc("device_receive_dropped_packets_total", "Packets that natlessd wrote and the kernel then dropped.")
	devicePackets = desc("device_packets_total", "Packets by the kernel's count, seen from natlessd.", "operation")
	deviceBytes   = desc("device_bytes_total", "Bytes by the kernel's count, seen from natlessd.", "operation")
)

func (c *Collector) device(s sink, t dataplane.Snapshot) {
	s.counter(reopened, t.Reopened)
	s.counter(waits, t.Device.Waits)
	s.counter(resegmented, t.Device.Segmented)
	s.counter(writeErrors, t.Device.WriteErrors[unix.EIO], errnoName(unix.EIO)) // there from the start: link down
	for errno, n := range t.Device.WriteErrors {
		if errno != unix.EIO {
			s.counter(writeErrors, n, errnoName(errno))
		}
	}
	d, ok := c.Device()
	s.is(deviceUp, ok)
	if !ok {
		return
	}
	s.gauge(deviceInfo, 1, d.Name, d.IO, strconv.FormatBool(d.TSO), strconv.FormatBool(d.USO))
	if !d.LinkOK {
		return
	}
	// What natlessd reads is what the kernel transmits.
	s.counter(queueDrops, d.Link.TxDropped)
	s.counter(deviceDrops, d.Link.RxDropped)
	s.counter(devicePackets, d.Link.TxPackets, "read")
	s.counter(devicePackets, d.Link.RxPackets, "write")
	s.counter(deviceBytes, d.Link.TxBytes, "read")
	s.counter(deviceBytes, d.Link.RxBytes, "write")
}

func errnoName(errno unix.Errno) string {
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return fmt.Sprintf("errno-%d", int(errno))
}
