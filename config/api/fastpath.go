package api

// FastPath is the kernel fast path at a glance.
type FastPath struct {
	Mode  string `json:"mode"`  // as configured: auto, off or required
	State string `json:"state"` // one of the OffloadXxx
	// Detail says what is not used, and why.
	Detail string `json:"detail,omitempty"`
	// Attach is how the program is attached: tcx or clsact.
	Attach string `json:"attach,omitempty"`
	// Layout is the version of the maps.
	Layout int `json:"layout,omitempty"`
	// Adopted says that the fast path has been going on since an earlier run.
	Adopted    bool                `json:"adopted,omitempty"`
	Interfaces []FastPathInterface `json:"interfaces,omitempty"`
	// Translated counts what the kernel translated, by verdict. Status.Verdicts
	// has these packets, too.
	Translated map[string]FastPathCount `json:"translated,omitempty"`
	// Lost counts what the kernel dropped because it failed in the middle.
	Lost uint64 `json:"lost,omitempty"`
	// Passed counts what it left to the daemon, by why.
	Passed map[string]uint64 `json:"passed,omitempty"`
	// XDP is what stands in front of it; nil: nothing is asked for.
	XDP *FastPathXDP `json:"xdp,omitempty"`
}

// FastPathXDP is the fast path in front of traffic control.
type FastPathXDP struct {
	Interfaces []string `json:"interfaces"` // where it is
	// Notes say why it is not at an interface that the configuration names, or not all of it.
	Notes map[string]string `json:"notes,omitempty"`
	// Packets counts what it translated and what it passed on to traffic control, by why, since
	// it was loaded. What is translated is among FastPath.Translated, too.
	Packets map[string]uint64 `json:"packets,omitempty"`
}

// The states of the fast path.
const (
	FastPathOn      = "on"
	FastPathPartial = "partial" // some interface has none
	FastPathOff     = "off"
)

// FastPathInterface is where the program is attached.
type FastPathInterface struct {
	Name      string `json:"name"`
	Uplink    bool   `json:"uplink,omitempty"`    // IPv4 comes from there
	Fabric    bool   `json:"fabric,omitempty"`    // workloads' IPv6 comes from there, or from any other of the fabric
	Workloads int    `json:"workloads,omitempty"` // mappings whose IPv6 comes from there
	Error     string `json:"error,omitempty"`     // why it is not attached after all
	Left      string `json:"left,omitempty"`      // what packets would bypass on the host: left to the daemon, or required
}

// FastPathCount is a number of packets, superpackets counting as one, and their
// bytes from the IP header on, as they came.
type FastPathCount struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}
