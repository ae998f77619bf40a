package doctor

import "strings"

// offload says what the kernel takes off the daemon.
func (v *visit) offload() {
	const check = "offload"
	if v.status == nil {
		return
	}
	granted := v.status.Device.Offload
	if len(granted) == 0 {
		v.warn(check, "Linux 6.2 has all", "the device takes no superpackets: each packet costs as much as 40")
		return
	}
	v.ok(check, "the device takes superpackets: %s", strings.Join(granted, ", "))
}
